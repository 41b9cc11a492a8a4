"""The one error tree: everything latentcast raises on purpose descends from `LatentcastError`.

Messages say what was wrong, with the value, and what would be right. The command line prints them as one
line and exits with code 2.
"""

__all__ = [
    "LatentcastError",
    "LiveError",
    "ModelError",
    "OutputError",
    "PacketError",
    "ParameterError",
    "PausedError",
    "ProtocolError",
    "StudyError",
]


class LatentcastError(Exception):
    """Base of all errors that latentcast raises on purpose."""


class ParameterError(LatentcastError, ValueError):
    """An argument is outside what the function or command accepts."""


class PacketError(LatentcastError, ValueError):
    """Bytes that are not a valid packet, or one that does not fit what the device holds."""


class ModelError(LatentcastError, RuntimeError):
    """A diffusion model cannot be found, loaded, trained or run."""


class OutputError(LatentcastError, OSError):
    """A result cannot be written where it was asked for."""


class ProtocolError(LatentcastError, ValueError):
    """A message of the live protocol that is not valid, or not allowed where it came.

    Args:
        message: What was wrong.
        code: The code of the ERROR message that tells the other side.
    """

    def __init__(self, message: str, *, code: str = "bad-request") -> None:
        super().__init__(message)
        self.code = code


class LiveError(LatentcastError, RuntimeError):
    """The live service refuses, cannot be reached, or was lost on the way."""


class PausedError(LatentcastError, RuntimeError):
    """The time that a long job was given is over. What is done stays, and the next call goes on."""


class StudyError(LatentcastError, RuntimeError):
    """A study cannot go on: a worker or a cluster is lost. What is finished stays."""

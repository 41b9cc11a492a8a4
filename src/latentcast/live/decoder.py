"""The device's decoder: latents to pictures by the server's ONNX file, with neither torch nor diffusers.

It is a hundred times longer than a picture's refinements, so that no request waits for it: it is looked for
when there is something to decode, first among what is installed and what the cache has.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import ssl
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import numpy.typing as npt

from latentcast.diffusion.device_decoder import INPUT_NAME, OUTPUT_NAME, decoder_tag, device_decoder_file
from latentcast.errors import LiveError, ModelError

__all__ = ["DeviceDecoder", "ServerDecoder", "fetch_decoder"]

_FETCH_SECONDS = 60.0
_MOST_BYTES = 1 << 30
_BATCH = 8
_NEEDS = "decoding on a device needs onnxruntime; install it with: pip install 'latentcast[device]'"


class DeviceDecoder:
    """Decodes latents with onnxruntime.

    Args:
        model: The ONNX file's path or content; see `latentcast.diffusion.device_decoder`.

    Raises:
        ModelError: If onnxruntime is missing or cannot use the file.

    Example:
        >>> from latentcast.diffusion.device_decoder import device_decoder_file
        >>> decoder = DeviceDecoder(device_decoder_file("scenes"))
        >>> decoder.decode(np.zeros((1, 4, 16, 16), np.float32)).shape
        (1, 128, 128, 3)
    """

    def __init__(self, model: str | Path | bytes) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise ModelError(_NEEDS) from error
        options = onnxruntime.SessionOptions()
        # Refusals are told by exceptions; its log would stand between the lines of a program's own output.
        options.log_severity_level = 4
        try:
            self._session = onnxruntime.InferenceSession(
                model if isinstance(model, bytes) else str(model), options, providers=["CPUExecutionProvider"]
            )
            inputs = [value.name for value in self._session.get_inputs()]
            outputs = [value.name for value in self._session.get_outputs()]
        except Exception as error:  # its own classes are not public
            raise ModelError(f"the decoder cannot be used: {_one_line(error)}") from error
        if inputs != [INPUT_NAME] or outputs != [OUTPUT_NAME]:
            raise ModelError(
                f"the decoder turns {inputs} into {outputs}; it must turn {INPUT_NAME} into {OUTPUT_NAME}"
            )

    def decode(self, latents: npt.ArrayLike) -> npt.NDArray[np.uint8]:
        """Pictures of latents.

        Args:
            latents: float32 (batch, channels, height, width), at unit variance.

        Returns:
            uint8 (batch, height, width, 3).

        Raises:
            ModelError: If the latents are not of the decoder's shape.
        """
        array = np.ascontiguousarray(latents, np.float32)
        pictures = []
        try:
            # A few at a time: their inner layers are large.
            for start in range(0, len(array), _BATCH):
                (part,) = self._session.run([OUTPUT_NAME], {INPUT_NAME: array[start : start + _BATCH]})
                pictures.append(np.rint(np.clip(part, 0.0, 1.0) * 255.0).astype(np.uint8))
        except Exception as error:
            raise ModelError(
                f"latents of shape {array.shape} cannot be decoded: {_one_line(error)}"
            ) from error
        return np.ascontiguousarray(np.concatenate(pictures).transpose(0, 2, 3, 1))


class ServerDecoder:
    """The decoder of a server's model, fetched when the first latent is to be decoded.

    Args:
        base_url: The server, "http://host:port" or https.
        tls: For https; None for the system's certificates.

    Raises:
        ModelError: If onnxruntime is missing.
    """

    def __init__(self, base_url: str, *, tls: ssl.SSLContext | None = None) -> None:
        # Said before anything is asked for, and not when there is a picture that cannot be seen.
        if importlib.util.find_spec("onnxruntime") is None:
            raise ModelError(_NEEDS)
        self._base_url = base_url
        self._tls = tls
        self._decoder: DeviceDecoder | None = None

    def decode(self, latents: npt.ArrayLike) -> npt.NDArray[np.uint8]:
        """As `DeviceDecoder.decode`.

        Raises:
            LiveError: As `fetch_decoder`.
            ModelError: As `fetch_decoder` and `DeviceDecoder.decode`.
        """
        if self._decoder is None:
            self._decoder = fetch_decoder(self._base_url, tls=self._tls)
        return self._decoder.decode(latents)


def fetch_decoder(base_url: str, *, tls: ssl.SSLContext | None = None) -> DeviceDecoder:
    """The decoder of a server's model: the file that is installed or cached, if the server has the same.

    Args:
        base_url: The server, "http://host:port" or https.
        tls: For https; None for the system's certificates.

    Raises:
        LiveError: If the server cannot be reached or has no decoder.
        ModelError: As `DeviceDecoder`.
    """
    url = f"{base_url.rstrip('/')}/v1/decoder.onnx"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "latentcast" / "decoders"
    kept = cache / f"{hashlib.sha256(url.encode()).hexdigest()[:24]}.onnx"
    tag_file = kept.with_suffix(".etag")
    here = _installed()
    if kept.is_file() and tag_file.is_file():
        here[tag_file.read_text(encoding="ascii", errors="replace")] = kept
    request = urllib.request.Request(url)
    if here:
        request.add_header("If-None-Match", ", ".join(here))
    try:
        with urllib.request.urlopen(request, timeout=_FETCH_SECONDS, context=tls) as response:
            data: bytes = response.read(_MOST_BYTES)
            tag: str | None = response.headers.get("ETag")
    except urllib.error.HTTPError as error:
        known = here.get(error.headers.get("ETag", ""))
        if error.code == 304 and known is not None:
            return DeviceDecoder(known)
        raise LiveError(f"{url} answers {error.code} {error.reason}; is it a latentcast server?") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise LiveError(f"cannot reach {base_url}: {reason}; is the server running there?") from error
    decoder = DeviceDecoder(data)
    if tag is not None:
        _keep(kept, data)
        _keep(tag_file, tag.encode("ascii", errors="replace"))
    return decoder


def _installed() -> dict[str, Path]:
    """The embedded model's decoder by its tag, if it is there."""
    try:
        file = device_decoder_file("scenes")
        return {decoder_tag(file.read_bytes()): file}
    except (ModelError, OSError):
        return {}


def _keep(file: Path, data: bytes) -> None:
    """Write a file of the cache at once; a cache that cannot be written is done without."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as part:
            part.write(data)
        Path(part.name).replace(file)
    except OSError:
        return


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]

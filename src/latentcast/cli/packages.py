"""What a command needs beyond what latentcast always installs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from latentcast.errors import ParameterError

__all__ = ["needs"]


@contextmanager
def needs(need: str, extra: str) -> Iterator[None]:
    """Say what to install where the block cannot import a package.

    Args:
        need: What needs it, with the verb.
        extra: What of latentcast brings it.

    Raises:
        ParameterError: In place of an ImportError.

    Example:
        >>> with needs("flying needs", "wings"):  # doctest: +ELLIPSIS
        ...     import feathers
        Traceback (most recent call last):
        ...
        latentcast.errors.ParameterError: flying needs the package feathers; install it with: pip install ...
    """
    try:
        yield
    except ImportError as error:
        raise ParameterError(
            f"{need} the package {error.name}; install it with: pip install 'latentcast[{extra}]'"
        ) from error

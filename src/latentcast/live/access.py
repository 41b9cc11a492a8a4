"""Who may use the server: tokens, and the web pages that may open a connection from a browser."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from latentcast.errors import ParameterError

__all__ = ["Access", "read_tokens"]

_SHORTEST_TOKEN, _LONGEST_TOKEN = 16, 512


@dataclass(frozen=True, kw_only=True)
class Access:
    """The rules.

    Attributes:
        tokens: Any of these lets a device in; empty for everyone.
        origins: Web pages beside the server's own from which a browser may connect, as `https://host:port`.

    Raises:
        ParameterError: If a token or an origin is not one.

    Example:
        >>> access = Access(tokens=("a-long-enough-token",))
        >>> access.allows_token("a-long-enough-token"), access.allows_token(None)
        (True, False)
        >>> access.allows_origin("http://127.0.0.1:8700", host="127.0.0.1:8700")
        True
        >>> access.allows_origin("https://evil.example", host="127.0.0.1:8700")
        False
    """

    tokens: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for token in self.tokens:
            if not _SHORTEST_TOKEN <= len(token) <= _LONGEST_TOKEN or not token.isascii() or " " in token:
                raise ParameterError(
                    f"a token has {len(token)} characters; it must be {_SHORTEST_TOKEN} to {_LONGEST_TOKEN} "
                    "of ASCII without spaces"
                )
        for origin in self.origins:
            parts = urlsplit(origin)
            if parts.scheme not in ("http", "https") or not parts.netloc or parts.path or parts.query:
                raise ParameterError(f"origin is {origin!r}; it must read like https://example.org:8443")

    @property
    def needs_token(self) -> bool:
        """Whether a token is asked for."""
        return bool(self.tokens)

    def allows_token(self, token: str | None) -> bool:
        """Whether a token lets in; how long this takes says nothing about which tokens there are."""
        if not self.tokens:
            return True
        given = (token or "").encode()
        fits = False
        for known in self.tokens:  # all are compared, whichever fits
            fits |= hmac.compare_digest(given, known.encode())
        return fits

    def allows_bearer(self, header: str | None) -> bool:
        """The same for an HTTP `Authorization` header."""
        scheme, _, token = (header or "").partition(" ")
        return not self.tokens or (scheme.lower() == "bearer" and self.allows_token(token.strip()))

    def allows_origin(self, origin: str | None, *, host: str) -> bool:
        """Whether a browser on a page of this origin may connect; what is no browser sends none.

        Args:
            origin: The `Origin` header.
            host: The `Host` header, which is the server's own name as the browser sees it.
        """
        if origin is None:
            return True
        return origin in self.origins or urlsplit(origin).netloc.lower() == host.lower() != ""


def read_tokens(path: Path) -> tuple[str, ...]:
    """Tokens from a file, one a line; empty lines and those that begin with # are left out.

    Raises:
        ParameterError: If the file cannot be read or holds no token.
    """
    try:
        lines: Sequence[str] = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ParameterError(f"cannot read the tokens in {path}: {error}") from error
    tokens = tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))
    if not tokens:
        raise ParameterError(f"{path} holds no token; write one a line")
    return tokens

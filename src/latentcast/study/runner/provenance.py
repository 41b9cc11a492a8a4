"""Where a study's numbers come from: versions, source revision and machine."""

from __future__ import annotations

import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

__all__ = ["describe_software", "git_revision", "now"]

PACKAGES = (
    "latentcast",
    "numpy",
    "scipy",
    "pyarrow",
    "pydantic",
    "zarr",
    "torch",
    "diffusers",
    "transformers",
    "matplotlib",
    "ray",
)

GIT_SECONDS = 10.0


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def describe_software() -> dict[str, Any]:
    """Versions, git revision and platform, as plain JSON values.

    Example:
        >>> sorted(describe_software())
        ['git', 'platform', 'versions']
    """
    return {
        "versions": {"python": platform.python_version(), **_versions()},
        "git": git_revision(Path(__file__)),
        "platform": platform.platform(),
    }


def git_revision(file: Path) -> dict[str, Any] | None:
    """Revision of the checkout that a file belongs to, and whether it has changes; None without one.

    A file that merely lies inside somebody's repository, as an installed package does, belongs to none.
    """
    if _git(file.parent, "ls-files", "--error-unmatch", file.name) is None:
        return None
    revision = _git(file.parent, "rev-parse", "HEAD")
    changes = _git(file.parent, "status", "--porcelain")
    return None if revision is None else {"revision": revision, "dirty": bool(changes)}


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        result = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=GIT_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()

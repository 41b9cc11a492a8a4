"""Checkpoints from which an interrupted training goes on as if nothing had happened."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

__all__ = ["load_checkpoint", "save_checkpoint"]


def save_checkpoint(path: Path, state: Mapping[str, Any], rng: np.random.Generator, done: int) -> None:
    """Write the state of all parts and both random generators; a kill leaves the old file or the new one."""
    content = {name: part.state_dict() for name, part in state.items()}
    content |= {"done": done, "rng": rng.bit_generator.state, "torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        content["cuda"] = torch.cuda.get_rng_state_all()
    partial = path.with_suffix(".partial")
    torch.save(content, partial)
    partial.replace(path)


def load_checkpoint(path: Path, state: Mapping[str, Any], rng: np.random.Generator) -> int:
    """Restore what `save_checkpoint` wrote; returns the number of updates done, 0 without a file."""
    if not path.exists():
        return 0
    # On the CPU first: the generators' states belong there, and each part brings the rest to its own device.
    content = torch.load(path, weights_only=False, map_location="cpu")
    for name, part in state.items():
        part.load_state_dict(content[name])
    rng.bit_generator.state = content["rng"]
    torch.set_rng_state(content["torch"])
    if "cuda" in content:
        torch.cuda.set_rng_state_all(content["cuda"])
    return int(content["done"])

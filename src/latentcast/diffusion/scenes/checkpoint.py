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
    partial = path.with_suffix(".partial")
    torch.save(content, partial)
    partial.replace(path)


def load_checkpoint(path: Path, state: Mapping[str, Any], rng: np.random.Generator) -> int:
    """Restore what `save_checkpoint` wrote; returns the number of updates done, 0 without a file."""
    if not path.exists():
        return 0
    content = torch.load(path, weights_only=False)
    for name, part in state.items():
        part.load_state_dict(content[name])
    rng.bit_generator.state = content["rng"]
    torch.set_rng_state(content["torch"])
    return int(content["done"])

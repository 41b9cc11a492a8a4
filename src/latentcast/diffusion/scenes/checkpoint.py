"""Checkpoints from which an interrupted training goes on as if nothing had happened."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from latentcast.errors import ModelError

__all__ = ["load_checkpoint", "save_checkpoint"]


def save_checkpoint(
    path: Path, state: Mapping[str, Any], rng: np.random.Generator, done: int, num_updates: int
) -> None:
    """Write the state of all parts and both random generators; a kill leaves the old file or the new one.

    Args:
        path: of the file.
        state: the parts, each with `state_dict`.
        rng: of the stage's random choices.
        done: updates that are made.
        num_updates: of the whole stage, which the learning rates depend on.
    """
    content = {name: part.state_dict() for name, part in state.items()}
    content |= {"done": done, "num_updates": num_updates}
    content |= {"rng": rng.bit_generator.state, "torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        content["cuda"] = torch.cuda.get_rng_state_all()
    partial = path.with_suffix(".partial")
    torch.save(content, partial)
    partial.replace(path)


def load_checkpoint(path: Path, state: Mapping[str, Any], rng: np.random.Generator, num_updates: int) -> int:
    """Restore what `save_checkpoint` wrote; returns the number of updates done, 0 without a file.

    Raises:
        ModelError: if the file is of a stage of another length or of other networks, or is damaged.
    """
    if not path.exists():
        return 0
    try:
        # On the CPU first: the generators' states belong there, and each part brings the rest to its device.
        content = torch.load(path, weights_only=False, map_location="cpu")
        if content["num_updates"] != num_updates:
            raise ValueError(f"it is of {content['num_updates']} updates, not of {num_updates}")
        for name, part in state.items():
            part.load_state_dict(content[name])
        rng.bit_generator.state = content["rng"]
        torch.set_rng_state(content["torch"])
        if "cuda" in content:
            torch.cuda.set_rng_state_all(content["cuda"])
        return int(content["done"])
    except (EOFError, KeyError, RuntimeError, TypeError, ValueError, pickle.UnpicklingError) as error:
        raise ModelError(
            f"{path} is no checkpoint of what is trained now: {' '.join(str(error).split())[:200]}; "
            "remove it, and its stage begins anew"
        ) from error

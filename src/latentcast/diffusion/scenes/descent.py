"""How the networks that make pictures are trained: Muon and AdamW, along one course of the learning rates."""

from __future__ import annotations

import torch

from latentcast.diffusion.scenes.course import share_of_peak
from latentcast.diffusion.scenes.muon import Muon

__all__ = ["Descent"]

_PEAK_RATES = {"muon": 4e-3, "adamw": 2e-3}
_FALL_SHARE = 0.5  # of the updates: those in which the rates fall
# Norm at which gradients are held, so that a single batch does not throw the momentum.
_LARGEST_GRADIENT = 20.0
_MOST_END_CHANNELS = 4  # of a latent; a picture has fewer


class Descent:
    """Muon for convolutions of features; AdamW for biases, norms, and what takes latents or pictures.

    Args:
        network: whose weights are trained.
        num_updates: of the whole stage.
        scale: of the learning rates.

    Attributes:
        optimisers: by name, for the checkpoint.
    """

    def __init__(self, network: torch.nn.Module, num_updates: int, *, scale: float = 1.0) -> None:
        self._network, self._num_updates, self._scale = network, num_updates, scale
        features: list[torch.nn.Parameter] = []
        others: list[torch.nn.Parameter] = []
        for weight in network.parameters():
            inner = weight.dim() == 4 and weight.shape[1] > _MOST_END_CHANNELS
            (features if inner else others).append(weight)
        self.optimisers: dict[str, torch.optim.Optimizer] = {
            "muon": Muon(features, lr=0.0),
            "adamw": torch.optim.AdamW(others, lr=0.0, betas=(0.9, 0.99), weight_decay=1e-4, fused=True),
        }

    def update(self, number: int, loss: torch.Tensor) -> None:
        """Take the step of one update, from 0, down a loss."""
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._network.parameters(), _LARGEST_GRADIENT)
        share = self._scale * share_of_peak(number, self._num_updates, _FALL_SHARE)
        for name, optimiser in self.optimisers.items():
            for group in optimiser.param_groups:
                group["lr"] = _PEAK_RATES[name] * share
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)

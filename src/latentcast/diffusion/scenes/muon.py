"""Muon: momentum whose steps are made orthogonal, so that every direction of a weight learns equally fast.

K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024). A convolution is taken as
a matrix of its outputs by all of its inputs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

__all__ = ["Muon", "orthogonal"]

# Of the quintic polynomial that is iterated; it brings every singular value near 1, not onto it.
_QUINTIC = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_MOMENTUM = 0.95
_DECAY = 0.01
# Root mean square of a step, in learning rates: AdamW's own, so that both take the same rates
# (J. Liu et al., "Muon is scalable for LLM training", 2025).
_STEP_RMS = 0.2


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """Nearly the orthogonal matrix next to one: U V^T of its singular value decomposition, by Newton-Schulz.

    Args:
        matrix: float (rows, columns).

    Returns:
        Float of the same shape; its singular values are between 0.6 and 1.3 unless the matrix's own are
        hundreds of times smaller than its norm.

    Example:
        >>> values = torch.linalg.svdvals(orthogonal(torch.diag(torch.tensor([1.0, 2.0, 3.0]))))
        >>> bool(((values > 0.6) & (values < 1.3)).all())
        True
    """
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    a, b, c = _QUINTIC
    for _ in range(_ITERATIONS):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum with orthogonal steps, for weights with two axes or more.

    Args:
        parameters: the weights, float (outputs, inputs, ...).
        lr: learning rate.
    """

    def __init__(self, parameters: Iterable[torch.nn.Parameter], lr: float) -> None:
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # noqa: ARG002
        """Take one step down the gradients, which are known: there is no closure to call."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["momentum"] = torch.zeros_like(weight)
                momentum = state["momentum"].lerp_(weight.grad, 1.0 - _MOMENTUM)
                ahead = weight.grad.lerp(momentum, _MOMENTUM).flatten(1)
                size = _STEP_RMS * math.sqrt(max(ahead.shape))
                step = (size * orthogonal(ahead)).view(weight.shape)
                weight.mul_(1.0 - group["lr"] * _DECAY).add_(step, alpha=-group["lr"])

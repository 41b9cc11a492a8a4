"""Winograd's convolution and the quick twin of a U-Net, against torch in double precision."""

import math
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from latentcast.diffusion.batching import BatchedDenoiser
from latentcast.diffusion.pipeline import load_pipeline
from latentcast.diffusion.twin import quick_twin
from latentcast.diffusion.twin.winograd import from_tiles, group_scales, to_tiles, transformed_weights

EPS = float(np.finfo(np.float32).eps)
# The transforms' largest row sums, 10 for B, 19 for A and 1/2 for G, multiply rounding errors from two sides,
# and the errors' signs are random.
AMPLIFICATION = 10 * 19 / 2


@pytest.mark.parametrize(("height", "width", "inputs", "outputs"), [(4, 8, 8, 16), (12, 4, 24, 8)])
def test_a_convolution_with_norm_bias_and_sum(height: int, width: int, inputs: int, outputs: int) -> None:
    rng = np.random.default_rng(height)
    shapes = [(2, inputs, height, width), (outputs, inputs, 3, 3), (inputs,), (inputs,), (2, outputs)]
    maps, weights, gain, offset, bias = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
    maps += 3.0  # a norm has to take out what is common
    base = rng.normal(size=(2, height, width, outputs)).astype(np.float32)
    pixels = np.ascontiguousarray(maps.transpose(0, 2, 3, 1))
    scale, shift = group_scales(pixels, gain, offset, 4, 1e-5)
    tiles = np.empty((36, 2 * height * width // 16, inputs), np.float32)
    to_tiles(pixels, scale, shift, True, tiles)
    result = np.empty_like(base)
    from_tiles(tiles @ transformed_weights(weights), bias, base, result)

    double = [torch.from_numpy(array).double() for array in (maps, weights, gain, offset)]
    activated = F.silu(F.group_norm(double[0], 4, double[2], double[3]))
    wanted = (
        F.conv2d(activated, double[1], padding=1).permute(0, 2, 3, 1).numpy() + bias[:, None, None] + base
    )
    size = float(activated.abs().max()) * float(np.abs(weights).max())
    # Errors of 9 * inputs products add up like a random walk.
    np.testing.assert_allclose(
        result, wanted, rtol=0.0, atol=EPS * AMPLIFICATION * size * math.sqrt(9 * inputs)
    )


def test_silu_far_out() -> None:
    numbers = np.linspace(-100.0, 100.0, 4 * 4 * 8, dtype=np.float32).reshape(1, 4, 4, 8)
    ones, zeros = np.ones((1, 8), np.float32), np.zeros((1, 8), np.float32)
    tiles = np.empty((36, 1, 8), np.float32)
    to_tiles(numbers, ones, zeros, True, tiles)
    centre = np.zeros((8, 8, 3, 3), np.float32)
    centre[range(8), range(8), 1, 1] = 1.0
    result = np.empty_like(numbers)
    from_tiles(tiles @ transformed_weights(centre), zeros, np.zeros((1, 1, 1, 8), np.float32), result)
    wanted = F.silu(torch.from_numpy(numbers).double()).numpy()
    np.testing.assert_allclose(result, wanted, rtol=0.0, atol=100.0 * AMPLIFICATION * EPS)


def test_the_twin_shares_the_weights_and_leaves_the_network_alone(tiny_folder: Any) -> None:
    unet = load_pipeline(tiny_folder).pipe.unet
    before = [type(module) for module in unet.modules()]
    twin = quick_twin(unet)
    assert [type(module) for module in unet.modules()] == before
    assert {id(tensor) for tensor in twin.parameters()} == {id(tensor) for tensor in unet.parameters()}
    assert any(type(module).__name__ == "_QuickBlock" for module in twin.modules())


@pytest.mark.parametrize("size", [8, 6])
def test_the_twin_predicts_the_same(tiny_folder: Any, size: int) -> None:
    """Also where maps cannot be cut into tiles."""
    unet = load_pipeline(tiny_folder).pipe.unet
    sample, text = torch.randn(3, 4, size, size), torch.randn(3, 8, 16)
    with torch.inference_mode():
        wanted, got = (
            network(sample, torch.tensor([1, 400, 900]), encoder_hidden_states=text, return_dict=False)[0]
            for network in (unet, quick_twin(unet))
        )
    # A hundred layers, as in test_batching.
    assert float((got - wanted).abs().max()) < 100 * EPS * AMPLIFICATION * float(wanted.abs().max())


def test_without_a_twin_the_network_itself_denoises(
    tiny_folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_pipeline(tiny_folder, num_steps=3)
    quick = BatchedDenoiser(model)
    assert quick._network is not model.pipe.unet
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "latentcast.diffusion.twin", None)
        plain = BatchedDenoiser(model)
    assert plain._network is model.pipe.unet
    steps = [denoiser.advance([denoiser.start("a", 0, 3)])[0] for denoiser in (quick, plain)]
    np.testing.assert_allclose(steps[0].sample, steps[1].sample, rtol=0.0, atol=1e-3)


def test_parts_of_a_batch_in_threads_of_their_own(tiny_folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_pipeline(tiny_folder, num_steps=3)
    alone = BatchedDenoiser(model)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    shared = BatchedDenoiser(model)
    assert shared._num_parts == 3
    for count in (1, 2, 4):
        first, second = (
            denoiser.advance([denoiser.start("a", seed, 3) for seed in range(count)])
            for denoiser in (alone, shared)
        )
        for one, other in zip(first, second, strict=True):
            np.testing.assert_allclose(one.sample, other.sample, rtol=0.0, atol=1e-3)

"""The decoder that devices run: small, plain, near the autoencoder's, and forgiving of what coding leaves."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.fft import idctn

from latentcast.codec.bands import Bands
from latentcast.codec.progressive import make_packet
from latentcast.diffusion.device_decoder import device_decoder_file
from latentcast.diffusion.pipeline import DiffusersModel, load_pipeline
from latentcast.diffusion.scenes import weights_folder
from latentcast.diffusion.scenes.autoencoder import encode_pictures
from latentcast.diffusion.scenes.card import psnr_db, write_section
from latentcast.diffusion.scenes.coded import EarlyEstimates, LatentSpectrum
from latentcast.diffusion.scenes.curves import LossCurve, _ticks
from latentcast.diffusion.scenes.dataset import draw_scenes
from latentcast.diffusion.scenes.descent import Descent
from latentcast.diffusion.scenes.distillation import distil
from latentcast.diffusion.scenes.distilled import DeviceDecoder, load_device_decoder
from latentcast.diffusion.scenes.muon import Muon
from latentcast.diffusion.scenes.plan import TrainingPlan
from latentcast.diffusion.scenes.render import render
from latentcast.errors import PausedError

NUM_SCENES = 24


class Renders(NamedTuple):
    """Pictures of new scenes, and the autoencoder's latents of them."""

    pictures: npt.NDArray[np.uint8]
    latents: npt.NDArray[np.float32]


@cache
def model() -> DiffusersModel:
    return load_pipeline("scenes")


@cache
def renders() -> Renders:
    pictures = np.stack(
        [render(scene, np.random.default_rng(21)) for scene in draw_scenes(NUM_SCENES, seed=20)]
    )
    return Renders(pictures, encode_pictures(model().pipe.vae, pictures))


def shown(latents: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Pictures by the shipped weights in torch."""
    with torch.no_grad():
        decoded = load_device_decoder(weights_folder())(torch.from_numpy(latents))
    pictures: npt.NDArray[np.uint8] = (decoded * 255.0).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return pictures


def sent(latents: npt.NDArray[np.float32], max_bytes: int) -> npt.NDArray[np.float32]:
    """Latents as they are after one real packet each."""
    bands = Bands((4, 16, 16))
    held = []
    for target in bands.forward(latents):
        packet = make_packet(target, np.zeros_like(target), max_bytes=max_bytes, horizon_bits=8.0 * max_bytes)
        assert packet is not None
        held.append(packet.held)
    return bands.inverse(np.stack(held))


def test_the_shipped_file_is_small_and_has_the_promised_ends() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    file = device_decoder_file("scenes")
    assert file.stat().st_size <= 2.5e6
    assert b"site-packages" not in file.read_bytes()  # nor any other trace of where it was made
    decoder = load_device_decoder(weights_folder())
    assert sum(parameter.numel() for parameter in decoder.parameters()) <= 500_000
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (source,), (sink,) = session.get_inputs(), session.get_outputs()
    assert (source.name, source.type, source.shape[1:]) == ("latent", "tensor(float)", [4, 16, 16])
    assert (sink.name, sink.type) == ("picture", "tensor(float)")
    # Far outside the range of latents, too, the picture stays in its own.
    latents = 3.0 * np.random.default_rng(0).standard_normal((2, 4, 16, 16)).astype(np.float32)
    (picture,) = session.run(["picture"], {"latent": latents})
    assert picture.shape == (2, 3, 128, 128)
    assert picture.min() >= 0.0
    assert picture.max() <= 1.0
    with torch.no_grad():
        wanted = decoder(torch.from_numpy(latents)).numpy()
    assert np.abs(picture - wanted).max() < 0.5 / 255.0


def test_it_uses_plain_operators_only() -> None:
    onnx = pytest.importorskip("onnx")
    graph = onnx.load(device_decoder_file("scenes")).graph
    plain = {"Add", "Cast", "Clip", "Constant", "Conv", "DepthToSpace", "Relu", "Resize"}
    assert {node.op_type for node in graph.node} <= plain


def test_it_is_near_the_autoencoder_on_clean_latents() -> None:
    pictures, latents = renders()
    # The card measures 0.44 dB less on 600 renders, with a spread that is small against what is added here.
    assert psnr_db(pictures, shown(latents)) > psnr_db(pictures, model().decode(latents)) - 0.7


@pytest.mark.parametrize("max_bytes", [20, 40, 80])
def test_what_few_real_bytes_leave_it_shows_better_than_the_autoencoder(max_bytes: int) -> None:
    pictures, latents = renders()
    held = sent(latents, max_bytes)
    assert psnr_db(pictures, shown(held)) > psnr_db(pictures, model().decode(held))


def test_ideal_coding_loses_what_waterfilling_says() -> None:
    variances = np.geomspace(4.0, 1e-3, 64).reshape(1, 8, 8)
    rng = np.random.default_rng(0)
    coefficients = rng.standard_normal((4000, 1, 8, 8)) * np.sqrt(variances)
    latents = idctn(coefficients, axes=(-2, -1), norm="ortho").astype(np.float32)
    spectrum = LatentSpectrum.of(latents)
    np.testing.assert_allclose(spectrum.variances, variances, rtol=5.0 * np.sqrt(2.0 / 4000))
    held = spectrum.coded(latents, np.full(4000, 0.1), rng)
    error = np.mean((held - latents) ** 2)
    assert error == pytest.approx(np.minimum(variances, 0.1).mean(), rel=0.02)
    # What is held is its own best estimate: the error is uncorrelated with it.
    assert abs(np.mean(held * (held - latents))) < 0.02 * error


def test_early_estimates_are_brought_to_their_best_scale() -> None:
    rng = np.random.default_rng(1)
    final = rng.standard_normal((50, 4, 8, 8)).astype(np.float32)
    overshot = np.stack([final, 2.0 * final], axis=1)
    np.testing.assert_allclose(EarlyEstimates.of(final, overshot).estimates[:, 1], final, rtol=1e-5)


def test_a_step_of_muon_is_as_long_in_every_direction() -> None:
    rng = np.random.default_rng(2)
    # Directions whose gradients differ tenfold.
    left, _ = np.linalg.qr(rng.standard_normal((8, 8)))
    right, _ = np.linalg.qr(rng.standard_normal((36, 36)))
    gradient = (left * np.geomspace(1.0, 0.1, 8)) @ right[:8]
    weight = torch.nn.Parameter(torch.zeros(8, 4, 3, 3))
    weight.grad = torch.from_numpy(gradient.astype(np.float32)).view(8, 4, 3, 3)
    Muon([weight], lr=0.5).step()
    steps = torch.linalg.svdvals(weight.detach().flatten(1)) / (0.5 * 0.2 * 6.0)
    # Its polynomial ends between 0.7 and 1.2.
    assert 0.65 < float(steps.min()) <= float(steps.max()) < 1.25
    assert float((weight.detach() * weight.grad).sum()) < 0.0


def test_convolutions_of_features_are_muons_and_all_else_is_adamws() -> None:
    decoder = DeviceDecoder((8, 8), (1, 1))
    optimisers = Descent(decoder, 10).optimisers
    muons, adamws = (
        [weight for group in optimisers[name].param_groups for weight in group["params"]]
        for name in ("muon", "adamw")
    )
    assert {id(weight) for weight in muons}.isdisjoint(map(id, adamws))
    assert len(muons) + len(adamws) == len(list(decoder.parameters()))
    # Two in each block, one between the levels, the last; the first takes latents.
    block = [(16, 8), (8, 16)]
    assert [tuple(weight.shape[:2]) for weight in muons] == [*block, (8, 8), *block, (48, 8)]


def test_training_goes_on_where_it_was_interrupted(
    tmp_path: Path, second_per_update: Callable[[], None]
) -> None:
    quick = load_pipeline("scenes", num_steps=3)
    pictures = renders().pictures[:8]
    plan = TrainingPlan(device_generated=2, device_updates=3, device_widths=(8, 8), device_blocks=(1, 1))

    def trained(folder: Path, stop_at: float | None) -> dict[str, torch.Tensor]:
        folder.mkdir(exist_ok=True)
        second_per_update()
        return distil(
            quick, pictures, folder, plan, device="cpu", progress=lambda *_: None, stop_at=stop_at
        ).state_dict()

    whole = trained(tmp_path / "whole", None)
    with pytest.raises(PausedError, match="has made 2 of 3 updates"):
        trained(tmp_path / "cut", 4.0)  # one for the latents
    resumed = trained(tmp_path / "cut", None)
    for name, tensor in whole.items():
        torch.testing.assert_close(resumed[name], tensor, rtol=0.0, atol=0.0)
    assert {"device-decoder-loss.png", "device-decoder-samples.png"} <= {
        file.name for file in (tmp_path / "cut").iterdir()
    }


@pytest.mark.parametrize("is_logarithm", [False, True])
def test_the_loss_curve_falls_as_the_loss_does(is_logarithm: bool) -> None:
    curve = LossCurve()
    for update in range(400):
        curve.add(-6.0 - update / 200 if is_logarithm else 10.0 ** (-update / 200))
    dark = np.argwhere(np.asarray(curve.picture()).sum(axis=2) == sum((0x12, 0x26, 0x4F)))
    left, right = dark[dark[:, 1] < 200], dark[dark[:, 1] > 560]
    # Rows count downward.
    assert left[:, 0].mean() + 100 < right[:, 0].mean()
    again = LossCurve()
    again.load_state_dict(curve.state_dict())
    assert again.recent() == curve.recent()


@pytest.mark.parametrize(("low", "high"), [(0.21, 0.28), (0.19, 0.26), (0.013, 1.0), (1e-3, 5.0)])
def test_every_loss_curve_has_a_scale(low: float, high: float) -> None:
    ticks = _ticks(low, high)
    assert 2 <= len(ticks) <= 13
    assert all(low <= tick <= high for tick in ticks)


def test_a_section_of_the_card_is_replaced_or_put_before_the_limits(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# Card\n\nText.\n\n## Limits\n\nFew.\n")
    write_section(tmp_path, "Fit", "old\n")
    write_section(tmp_path, "Fit", "new\n")
    assert (tmp_path / "README.md").read_text() == "# Card\n\nText.\n\n## Fit\n\nnew\n\n## Limits\n\nFew.\n"
    (tmp_path / "README.md").unlink()
    write_section(tmp_path, "Fit", "alone")
    assert (tmp_path / "README.md").read_text() == "## Fit\n\nalone\n"

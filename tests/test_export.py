"""The decoder for devices: exported as ONNX it gives torch's pictures, and servers find it."""

import json
import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import save

from latentcast.cli import run
from latentcast.diffusion.device_decoder import device_decoder_file, device_decoder_place
from latentcast.diffusion.export import export_onnx
from latentcast.diffusion.pipeline import load_pipeline
from latentcast.diffusion.scenes.distilled import DeviceDecoder, load_device_decoder, save_device_decoder
from latentcast.errors import ModelError

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

HALF_GREY_LEVEL = 0.5 / 255.0


def decoded(file: Path, latents: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (picture,) = session.run(["picture"], {"latent": latents})
    assert isinstance(picture, np.ndarray)
    return picture


def test_any_pipeline_is_exported_with_its_own_scaling(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "tiny"
    shutil.copytree(tiny_folder, folder)
    with pytest.raises(ModelError, match=r"has no device decoder at .*latentcast model export"):
        device_decoder_file(folder)
    # A scaling and a shift that would show: Stable Diffusion 3 has both.
    config = json.loads((folder / "vae" / "config.json").read_text())
    (folder / "vae" / "config.json").write_text(json.dumps(config | {"shift_factor": 0.6}))
    assert run(["model", "export", str(folder), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    file = device_decoder_file(folder)
    assert report["file"] == str(file)
    assert report["max_difference"] <= HALF_GREY_LEVEL
    assert report["num_bytes"] == file.stat().st_size
    latents = np.random.default_rng(0).standard_normal((5, 4, 8, 8), np.float32)
    picture = decoded(file, latents)
    assert picture.shape == (5, 3, 64, 64)
    shown = load_pipeline(folder).decode(latents).transpose(0, 3, 1, 2)
    # Rounding to 8 bits, and the tolerance of the export's own check.
    assert np.abs(255.0 * picture - shown).max() <= 0.5 + 255.0 * HALF_GREY_LEVEL


def test_a_distilled_decoder_survives_its_file_and_the_export(tmp_path: Path) -> None:
    torch.manual_seed(0)
    decoder = DeviceDecoder((64, 32), (2, 2)).eval()
    save_device_decoder(decoder, tmp_path)
    again = load_device_decoder(tmp_path)
    latents = torch.randn(2, 4, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(again(latents), decoder(latents), rtol=0.0, atol=0.0)
    report = export_onnx(again, (4, 16, 16), tmp_path / "d.onnx")
    assert report.num_parameters == sum(p.numel() for p in decoder.parameters())
    # Two bytes a parameter, and the graph: the weights are stored once, in half precision.
    assert 2 * report.num_parameters < report.num_bytes < 2 * report.num_parameters + 50_000
    with torch.no_grad():
        wanted = decoder(latents).numpy()
    assert (
        np.abs(decoded(tmp_path / "d.onnx", latents.numpy()) - wanted).max() <= report.max_difference + 1e-6
    )


def test_weights_beyond_float16_are_kept_as_they_are(tmp_path: Path) -> None:
    torch.manual_seed(1)
    decoder = DeviceDecoder((64, 32), (2, 2))
    report = export_onnx(decoder, (4, 16, 16), tmp_path / "d.onnx")
    assert report.num_bytes > 4 * report.num_parameters
    assert report.max_difference < 1e-5


def test_an_export_that_differs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latentcast.diffusion.export._TOLERANCE", -1.0)
    with pytest.raises(ModelError, match="differs from torch's by"):
        export_onnx(DeviceDecoder((64, 32), (2, 2)), (4, 16, 16), tmp_path / "d.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_onnx_lacks_is_refused_in_one_line(tmp_path: Path) -> None:
    class Odd(torch.nn.Module):
        def forward(self, latent: torch.Tensor) -> torch.Tensor:
            return latent if latent.sum() > 0 else -latent

    with pytest.raises(ModelError, match="cannot write the decoder as ONNX") as caught:
        export_onnx(Odd(), (4, 16, 16), tmp_path / "d.onnx")
    assert "\n" not in str(caught.value)


def test_a_damaged_distilled_decoder_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "device_decoder.safetensors"
    for content in (b"nothing", save({"layers.0.weight": torch.zeros(8, 4, 3, 3)})):
        file.write_bytes(content)
        with pytest.raises(ModelError, match=r"cannot read the device decoder .*--only device-decoder"):
            load_device_decoder(tmp_path)


def test_a_hub_model_keeps_its_decoder_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert device_decoder_place("owner/name") == tmp_path / "latentcast" / "device-decoder-owner--name.onnx"
    with pytest.raises(ModelError, match="latentcast model export owner/name"):
        device_decoder_file("owner/name")
    with pytest.raises(ModelError, match="unknown model"):
        device_decoder_file("nowhere")

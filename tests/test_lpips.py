"""LPIPS against a literal computation on random weights, and the errors of its files."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from latentcast.errors import ParameterError
from latentcast.study.metrics.catalog import PictureMetric, make_metric
from latentcast.study.metrics.pairs import PictureArray


def alexnet() -> nn.Sequential:
    """The `features` of torchvision's AlexNet."""
    return nn.Sequential(
        nn.Conv2d(3, 64, kernel_size=11, stride=4, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(kernel_size=3, stride=2),
        nn.Conv2d(64, 192, kernel_size=5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(kernel_size=3, stride=2),
        nn.Conv2d(192, 384, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 256, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.Conv2d(256, 256, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(kernel_size=3, stride=2),
    )


def vgg16() -> nn.Sequential:
    """The `features` of torchvision's VGG-16."""
    layers: list[nn.Module] = []
    channels = 3
    for width in (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0):
        if width:
            layers += [nn.Conv2d(channels, width, kernel_size=3, padding=1), nn.ReLU()]
            channels = width
        else:
            layers.append(nn.MaxPool2d(kernel_size=2, stride=2))
    return nn.Sequential(*layers)


NETS = {"alex": (alexnet, (1, 4, 7, 9, 11)), "vgg": (vgg16, (3, 8, 15, 22, 29))}


def state_of(features: nn.Sequential) -> dict[str, torch.Tensor]:
    # The published files also hold the classifier.
    return {"classifier.1.bias": torch.zeros(3)} | {
        f"features.{name}": value for name, value in features.state_dict().items()
    }


def heads_of(net: str) -> dict[str, torch.Tensor]:
    widths = {"alex": (64, 192, 384, 256, 256), "vgg": (64, 128, 256, 512, 512)}[net]
    return {f"lin{number}.model.1.weight": torch.rand(1, width, 1, 1) for number, width in enumerate(widths)}


def saved(folder: Path, net: str) -> tuple[nn.Sequential, dict[str, torch.Tensor], PictureMetric]:
    torch.manual_seed(3)
    features, heads = NETS[net][0](), heads_of(net)
    torch.save(state_of(features), folder / "backbone.pth")
    torch.save(heads, folder / "linear.pth")
    metric = make_metric(
        "lpips", net=net, backbone=folder / "backbone.pth", linear=str(folder / "linear.pth")
    )
    return features, heads, metric


def pictures(side: int) -> tuple[PictureArray, PictureArray]:
    rng = np.random.default_rng(5)
    wanted = rng.integers(0, 256, (2, side, side + 7, 3), dtype=np.uint8)
    noise = rng.normal(0.0, 30.0, wanted.shape)
    return wanted, np.clip(wanted + noise, 0, 255).astype(np.uint8)


def literal_distance(
    net: str, features: nn.Sequential, heads: dict[str, torch.Tensor], x: PictureArray, y: PictureArray
) -> float:
    """Eq. 1 of the paper in float64, position by position of every layer."""
    outputs: dict[int, list[torch.Tensor]] = {}
    features = features.double()
    for picture in (x, y):
        value = torch.tensor(picture / 255.0).permute(2, 0, 1) * 2 - 1
        value -= torch.tensor([-0.030, -0.088, -0.188]).double()[:, None, None]
        value /= torch.tensor([0.458, 0.448, 0.450]).double()[:, None, None]
        for index, module in enumerate(features[: NETS[net][1][-1] + 1]):
            value = module(value[None])[0]
            outputs.setdefault(index, []).append(value.detach())
    total = 0.0
    for layer, index in enumerate(NETS[net][1]):
        first, second = outputs[index]
        weight = heads[f"lin{layer}.model.1.weight"].double().flatten()
        _, height, width = first.shape
        for row in range(height):
            for column in range(width):
                a, b = first[:, row, column], second[:, row, column]
                difference = a / (a.norm() + 1e-10) - b / (b.norm() + 1e-10)
                total += float((weight * difference**2).sum()) / (height * width)
    return total


@pytest.mark.parametrize(("net", "side"), [("alex", 64), ("alex", 31), ("vgg", 33), ("vgg", 16)])
def test_distance_is_its_definition(tmp_path: Path, net: str, side: int) -> None:
    features, heads, metric = saved(tmp_path, net)
    wanted, shown = pictures(side)
    scores = metric(wanted, shown)
    expected = [literal_distance(net, features, heads, x, y) for x, y in zip(wanted, shown, strict=True)]
    assert scores.dtype == np.float64
    assert scores == pytest.approx(expected, rel=1e-4)
    assert metric(wanted, wanted).tolist() == [0.0, 0.0]
    assert np.array_equal(metric(shown, wanted), scores)
    assert metric(wanted[1:], shown[1:]).tolist() == [scores[1]]


def test_pictures_must_survive_the_poolings(tmp_path: Path) -> None:
    _, _, metric = saved(tmp_path, "alex")
    with pytest.raises(ParameterError, match="at least 31 x 31"):
        metric(*pictures(30))


def test_files_must_be_named(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"lpips needs backbone, .* torchvision's state dict of alex"):
        make_metric("lpips")
    saved(tmp_path, "alex")
    with pytest.raises(ParameterError, match=r"lpips needs linear, .* weights/v0.1/alex.pth"):
        make_metric("lpips", backbone=tmp_path / "backbone.pth")
    with pytest.raises(ParameterError, match="net is 'resnet'; it must be alex or vgg"):
        make_metric("lpips", net="resnet")


def test_files_must_fit(tmp_path: Path) -> None:
    saved(tmp_path, "alex")
    backbone, linear = tmp_path / "backbone.pth", tmp_path / "linear.pth"
    with pytest.raises(ParameterError, match=r"backbone .*missing.pth: No such file"):
        make_metric("lpips", backbone=tmp_path / "missing.pth", linear=linear)
    with pytest.raises(ParameterError, match=r"backbone .*linear.pth has no features.0.weight"):
        make_metric("lpips", backbone=linear, linear=linear)
    with pytest.raises(ParameterError, match=r"linear .*backbone.pth has no lin0.model.1.weight"):
        make_metric("lpips", backbone=backbone, linear=backbone)
    with pytest.raises(ParameterError, match=r"features.0.weight has shape \(64, 3, 11, 11\), and needs"):
        make_metric("lpips", net="vgg", backbone=backbone, linear=linear)
    for number, content in enumerate((b"", b"not weights", backbone.read_bytes()[:5000])):
        damaged = tmp_path / f"damaged{number}.pth"
        damaged.write_bytes(content)
        with pytest.raises(ParameterError, match=r"damaged.\.pth is no file of weights"):
            make_metric("lpips", backbone=damaged, linear=linear)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ParameterError, match=r"list.pth has no features.0.weight"):
        make_metric("lpips", backbone=tmp_path / "list.pth", linear=linear)

"""LPIPS: the distance of two pictures in the features of a trained network, as published.

Zhang, Isola, Efros, Shechtman and Wang, "The Unreasonable Effectiveness of Deep Features as a Perceptual
Metric", 2018, in version 0.1 of its weights: d = sum over layers l of the spatial mean of
w_l . (f_l(x) - f_l(y))^2, with features f_l of unit length at every position.

No weights come with latentcast, and neither torchvision nor the `lpips` package is needed: the backbone is a
state dict as torchvision publishes it, the learned weights w_l are a file of the `lpips` package
(`lpips/weights/v0.1/alex.pth`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from latentcast.errors import ParameterError
from latentcast.study.metrics.pairs import FloatArray, PictureArray, score_pairs

__all__ = ["BACKBONES", "Lpips"]

# Mean and standard deviation of ImageNet's pictures, for values in -1..1.
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)

# Keeps the length of a zero feature vector away from 0.
MIN_LENGTH = 1e-10


@dataclass(frozen=True)
class _Conv:
    """A convolution with a ReLU behind it; `index` is its place in torchvision's `features`."""

    index: int
    inputs: int
    outputs: int
    kernel: int = 3
    stride: int = 1
    padding: int = 1


@dataclass(frozen=True)
class _Layer:
    """A max-pooling of this width and stride 2 (0: none), then convolutions; the last one's output counts."""

    pool: int
    convs: tuple[_Conv, ...]


@dataclass(frozen=True)
class _Backbone:
    layers: tuple[_Layer, ...]
    min_side: int  # below it a pooling has nothing left to pool


_BACKBONES = {
    "alex": _Backbone(
        (
            _Layer(0, (_Conv(0, 3, 64, kernel=11, stride=4, padding=2),)),
            _Layer(3, (_Conv(3, 64, 192, kernel=5, padding=2),)),
            _Layer(3, (_Conv(6, 192, 384),)),
            _Layer(0, (_Conv(8, 384, 256),)),
            _Layer(0, (_Conv(10, 256, 256),)),
        ),
        min_side=31,
    ),
    "vgg": _Backbone(
        (
            _Layer(0, (_Conv(0, 3, 64), _Conv(2, 64, 64))),
            _Layer(2, (_Conv(5, 64, 128), _Conv(7, 128, 128))),
            _Layer(2, (_Conv(10, 128, 256), _Conv(12, 256, 256), _Conv(14, 256, 256))),
            _Layer(2, (_Conv(17, 256, 512), _Conv(19, 512, 512), _Conv(21, 512, 512))),
            _Layer(2, (_Conv(24, 512, 512), _Conv(26, 512, 512), _Conv(28, 512, 512))),
        ),
        min_side=16,
    ),
}

BACKBONES = tuple(_BACKBONES)
"""The networks: AlexNet, which the authors recommend for evaluation, and VGG-16."""


class Lpips:
    """LPIPS with weights from files.

    Pictures run through the network one by one in float32, so a distance depends on its own pair alone, is 0
    for equal pictures and symmetric to the last bit. The number of torch's threads may change the last bits.

    Args:
        backbone: torchvision's state dict of the network trained on ImageNet, such as
            `alexnet-owt-7be5be79.pth` or `vgg16-397923af.pth`.
        linear: The learned weights of version 0.1 for the same network.
        net: "alex" or "vgg".

    Raises:
        ParameterError: If a file is not named, cannot be read, or does not fit the network.
    """

    def __init__(
        self, *, backbone: str | Path | None = None, linear: str | Path | None = None, net: str = "alex"
    ) -> None:
        if net not in _BACKBONES:
            raise ParameterError(f"net is {net!r}; it must be {' or '.join(BACKBONES)}")
        self._backbone = _BACKBONES[net]
        trunk = _StateFile("backbone", f"torchvision's state dict of {net}", backbone)
        heads = _StateFile("linear", f"the lpips package's weights/v0.1/{net}.pth", linear)
        self._weights = {
            conv.index: (
                trunk.tensor(
                    f"features.{conv.index}.weight", (conv.outputs, conv.inputs, conv.kernel, conv.kernel)
                ),
                trunk.tensor(f"features.{conv.index}.bias", (conv.outputs,)),
            )
            for layer in self._backbone.layers
            for conv in layer.convs
        }
        self._linear = [
            heads.tensor(f"lin{number}.model.1.weight", (1, layer.convs[-1].outputs, 1, 1))
            for number, layer in enumerate(self._backbone.layers)
        ]

    def __call__(self, reference: PictureArray, picture: PictureArray) -> FloatArray:
        """Distances of pictures.

        Args:
            reference: What the pictures should be, uint8 (n, height, width, 3); at least 31 x 31 for alex, 16
                x 16 for vgg.
            picture: What they are, same shape.

        Returns:
            float64 (n,), lower is better.

        Raises:
            ParameterError: If the arrays are no such pictures.
        """
        return score_pairs(self._distances, reference, picture, min_side=self._backbone.min_side)

    @torch.inference_mode()
    def _distances(self, reference: PictureArray, picture: PictureArray) -> FloatArray:
        return np.array(
            [self._distance(wanted, shown) for wanted, shown in zip(reference, picture, strict=True)],
            np.float64,
        )

    def _distance(self, wanted: PictureArray, shown: PictureArray) -> float:
        pairs = zip(self._features(wanted), self._features(shown), self._linear, strict=True)
        return sum(float(F.conv2d((first - second) ** 2, weight).mean()) for first, second, weight in pairs)

    def _features(self, picture: PictureArray) -> list[torch.Tensor]:
        """Features of unit length, one (1, channels, height, width) per layer."""
        shift, scale = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (SHIFT, SCALE))
        x = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None].to(torch.float32)
        x = (x / 127.5 - 1.0 - shift) / scale
        features = []
        for layer in self._backbone.layers:
            if layer.pool:
                x = F.max_pool2d(x, layer.pool, stride=2)
            for conv in layer.convs:
                weight, bias = self._weights[conv.index]
                x = F.relu(F.conv2d(x, weight, bias, stride=conv.stride, padding=conv.padding))
            features.append(x / (x.square().sum(dim=1, keepdim=True).sqrt() + MIN_LENGTH))
        return features


class _StateFile:
    """A state dict in a file, read with errors that name the option and the file."""

    def __init__(self, option: str, wanted: str, path: str | Path | None) -> None:
        if path is None:
            raise ParameterError(f"lpips needs {option}, the file of {wanted}; name it")
        self._where = f"{option} {path}"
        self._wanted = wanted
        try:
            file = Path(path).expanduser().open("rb")
        except OSError as error:
            raise ParameterError(
                f"cannot read {self._where}: {error.strerror}; it must be {wanted}"
            ) from error
        with file:
            try:
                state = torch.load(file, map_location="cpu", weights_only=True)
            except Exception as error:  # damaged files raise errors of every kind
                raise ParameterError(f"{self._where} is no file of weights; it must be {wanted}") from error
        self._state: Mapping[str, object] = state if isinstance(state, Mapping) else {}

    def tensor(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        value = self._state.get(name)
        if not isinstance(value, torch.Tensor):
            raise ParameterError(f"{self._where} has no {name}; it must be {self._wanted}")
        if tuple(value.shape) != shape:
            raise ParameterError(
                f"{self._where}: {name} has shape {tuple(value.shape)}, and needs {shape}; "
                f"it must be {self._wanted}"
            )
        return value.to(torch.float32)

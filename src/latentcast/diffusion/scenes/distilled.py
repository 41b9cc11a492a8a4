"""The small decoder that runs on a device: latents to pictures with convolutions alone.

The network is plain on purpose: convolutions with ReLU, nearest-neighbour enlargement and one depth-to-space
at the end, which every ONNX runtime has fast code for; a normalisation would need the whole picture's
statistics. A block looks around with a 3 x 3 convolution into twice its channels and adds a 1 x 1 convolution
of what it found: in trials of 1500 updates such blocks ended 1 dB above those of two 3 x 3 convolutions.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from latentcast.errors import ModelError

__all__ = [
    "CELL_PIXELS",
    "LATENT_CHANNELS",
    "WEIGHTS_FILE",
    "DeviceDecoder",
    "load_device_decoder",
    "save_device_decoder",
]

WEIGHTS_FILE = "device_decoder.safetensors"

LATENT_CHANNELS = 4
CELL_PIXELS = 8
"""Along each side of what one place of a latent stands for."""

_EXPANSION = 2  # channels inside a block beside those between blocks


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.around = nn.Conv2d(width, _EXPANSION * width, 3, padding=1)
        self.back = nn.Conv2d(_EXPANSION * width, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        sums: torch.Tensor = x + self.back(torch.relu(self.around(x)))
        return sums


class DeviceDecoder(nn.Module):
    """Float (batch, 4, H, W) latents of unit variance to float (batch, 3, 8 H, 8 W) pictures in 0..1.

    Args:
        widths: channels at the latent's size, twice and perhaps four times it.
        num_blocks: residual blocks at each.
    """

    def __init__(self, widths: tuple[int, ...], num_blocks: tuple[int, ...]) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(LATENT_CHANNELS, widths[0], 3, padding=1), nn.ReLU()]
        for level, (width, count) in enumerate(zip(widths, num_blocks, strict=True)):
            if level > 0:
                layers += [nn.Conv2d(widths[level - 1], width, 1), nn.Upsample(scale_factor=2.0)]
            layers += [_Block(width) for _ in range(count)]
        # The rest of the enlargement is the last layer's, whose channels are the colours of so many pixels.
        factor = CELL_PIXELS // 2 ** (len(widths) - 1)
        last = nn.Conv2d(widths[-1], 3 * factor**2, 1)
        # Training starts from grey.
        last.bias = nn.Parameter(torch.full((3 * factor**2,), 0.5))
        self.layers = nn.Sequential(*layers, last, nn.PixelShuffle(factor))

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """Decode."""
        picture: torch.Tensor = self.layers(latents)
        return picture.clamp(0.0, 1.0)


def save_device_decoder(decoder: DeviceDecoder, folder: Path) -> None:
    """Write the weights in float16 into a model folder, and round the decoder's own to the same."""
    decoder.half()
    tensors = {name: tensor.contiguous().cpu() for name, tensor in decoder.state_dict().items()}
    partial = folder / f"{WEIGHTS_FILE}.partial"
    save_file(tensors, partial)
    partial.chmod(0o644)
    partial.replace(folder / WEIGHTS_FILE)
    decoder.float()


def load_device_decoder(folder: Path) -> DeviceDecoder:
    """Read what `save_device_decoder` wrote.

    Raises:
        ModelError: If the file is missing or is of another network.
    """
    try:
        tensors = load_file(folder / WEIGHTS_FILE)
        decoder = DeviceDecoder(*_sizes(tensors))
        decoder.load_state_dict(tensors)
    except Exception as error:  # whatever the libraries raise becomes our one error
        raise ModelError(
            f"cannot read the device decoder {folder / WEIGHTS_FILE}: {' '.join(str(error).split())[:200]}; "
            f"train it with: latentcast model train scenes --only device-decoder --out {folder}"
        ) from error
    return decoder.eval()


def _sizes(tensors: dict[str, torch.Tensor]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Widths and numbers of blocks of the network that has these weights."""
    widths, num_blocks = [tensors["layers.0.weight"].shape[0]], [0]
    last = max(int(name.split(".")[1]) for name in tensors)
    for number in range(1, last):
        if f"layers.{number}.around.weight" in tensors:
            num_blocks[-1] += 1
        elif f"layers.{number}.weight" in tensors:
            widths.append(tensors[f"layers.{number}.weight"].shape[0])
            num_blocks.append(0)
    return tuple(widths), tuple(num_blocks)

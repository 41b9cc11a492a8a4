"""The embedded model: a small text-to-image latent diffusion model of rendered scenes."""

from pathlib import Path

from latentcast.errors import ModelError

__all__ = ["weights_folder"]


def weights_folder() -> Path:
    """Return the folder of the shipped weights, an ordinary diffusers pipeline folder.

    Raises:
        ModelError: if the installation lacks it.
    """
    folder = Path(__file__).with_name("weights")
    if not (folder / "model_index.json").exists():
        raise ModelError(
            "the embedded model's weights are missing from this installation; "
            "reinstall latentcast, or train them with: latentcast model train scenes"
        )
    return folder

"""One picture by the device's decoder of `scenes`, on one core, beside the autoencoder's decoder in torch.

The aim: 3 ms at 128 x 128.
"""

from functools import partial

import numpy as np
import onnxruntime
import torch

from latentcast.diffusion.device_decoder import device_decoder_file
from latentcast.diffusion.pipeline import load_pipeline
from timing import best_seconds, report


def main() -> None:
    torch.set_num_threads(1)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        str(device_decoder_file("scenes")), options, providers=["CPUExecutionProvider"]
    )
    model = load_pipeline("scenes")
    latent = np.random.default_rng(0).standard_normal((1, *model.latent_shape)).astype(np.float32)
    reference = best_seconds(partial(model.decode, latent), calls=10)
    seconds = best_seconds(partial(session.run, None, {"latent": latent}), calls=100)
    report("device's decoder, one picture, one core", seconds, "autoencoder's decoder", reference)


if __name__ == "__main__":
    main()

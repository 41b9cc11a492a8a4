"""Refinements and packets at the paper's latent size; the aim is under 1 ms each for encode and decode."""

from functools import partial

import numpy as np

from latentcast.codec.packet import pack, unpack
from latentcast.codec.quantizer import lloyd_max
from latentcast.codec.refinement import decode_refinement, encode_refinement
from latentcast.diffusion.path import NoisePath
from timing import best_seconds, report

SHAPE = (1, 4, 64, 64)
CALLS = 50


def main() -> None:
    path = NoisePath.stable_diffusion(50)
    rng = np.random.default_rng(0)
    sample = rng.standard_normal(SHAPE).astype(np.float32)
    held = rng.standard_normal(SHAPE).astype(np.float32)
    searched = best_seconds(
        partial(np.searchsorted, lloyd_max(8).thresholds, sample.astype(np.float64)), calls=CALLS
    )
    reference = "searchsorted of 8 bits on float64"
    for bits in (3, 4, 8, 10, 16):
        encode = partial(encode_refinement, path=path, step=10, reference_step=30, bits=bits)
        decode = partial(decode_refinement, path=path, step=10, reference_step=30, bits=bits)
        made = encode(sample, held)
        packed = pack(made)
        for name, function in (
            ("encode", partial(encode, sample, held)),
            ("decode", partial(decode, made.symbols, held)),
            ("pack", partial(pack, made)),
            ("unpack", partial(unpack, packed, latent_size=sample.size)),
        ):
            report(
                f"{name}, {bits} bits, M = 16384", best_seconds(function, calls=CALLS), reference, searched
            )


if __name__ == "__main__":
    main()

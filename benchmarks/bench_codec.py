"""Refinements and packets at the paper's latent size, of the paper's codec and of the progressive one.

The aims: under 1 ms each for encode and decode of the paper's, under 3 and 2 ms of the progressive one's.
"""

from functools import partial

import numpy as np

from latentcast.codec.packet import pack, unpack
from latentcast.codec.progressive import apply_packet, make_packet
from latentcast.codec.quantizer import lloyd_max
from latentcast.codec.refinement import decode_refinement, encode_refinement
from latentcast.diffusion.path import NoisePath
from timing import best_seconds, report

SHAPE = (1, 4, 64, 64)
CALLS = 50


def main() -> None:
    paper()
    progressive()


def paper() -> None:
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


def progressive() -> None:
    path = NoisePath.stable_diffusion(50)
    rng = np.random.default_rng(0)
    target, held = (rng.standard_normal(16384).astype(np.float32) for _ in range(2))
    # Few calls and many runs: the least of them then is undisturbed on a busy machine, too.
    best = partial(best_seconds, calls=3, repeats=60)
    paper_encode = partial(encode_refinement, path=path, step=10, reference_step=30, bits=3)
    paper_decode = partial(decode_refinement, path=path, step=10, reference_step=30, bits=3)
    references = {
        "encode": best(partial(paper_encode, target, held)),
        "decode": best(partial(paper_decode, paper_encode(target, held).symbols, held)),
    }
    for bits in (0.25, 1, 3):
        max_bytes = int(bits * target.size / 8)
        encode = partial(make_packet, target, held, max_bytes=max_bytes, horizon_bits=8 * max_bytes)
        # The first call compiles.
        refined = encode()
        assert refined is not None
        for name, function in (("encode", encode), ("decode", partial(apply_packet, refined.data, held))):
            seconds = best(function)
            report(
                f"progressive {name}, {bits} bits, M = 16384",
                seconds,
                f"the paper's {name}, 3 bits",
                references[name],
            )


if __name__ == "__main__":
    main()

"""What is sent: codebooks, predictors, refinements of arrays, and their bytes."""

from latentcast.codec.packet import HEADER_BYTES, Packet, pack, packet_bytes, reconstruction_checksum, unpack
from latentcast.codec.predictor import Prediction, paper_prediction, refinement_variance
from latentcast.codec.quantizer import LOSSLESS_BITS, LloydMax, lloyd_max, panter_dite_mse
from latentcast.codec.refinement import Refinement, decode_refinement, encode_refinement

__all__ = [
    "HEADER_BYTES",
    "LOSSLESS_BITS",
    "LloydMax",
    "Packet",
    "Prediction",
    "Refinement",
    "decode_refinement",
    "encode_refinement",
    "lloyd_max",
    "pack",
    "packet_bytes",
    "panter_dite_mse",
    "paper_prediction",
    "reconstruction_checksum",
    "refinement_variance",
    "unpack",
]

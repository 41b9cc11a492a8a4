"""Arithmetic on eight channels at a time, written for LLVM: what `winograd`'s transforms are made of.

LLVM's own vectoriser gives up where many places of one array are read and written.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir

__all__ = ["LANES", "Lanes", "silu"]

LANES = 8
"""Numbers in a vector: AVX's; where a processor has shorter ones, LLVM takes two."""

# Eigen's and XLA's approximation of tanh, in powers of the square.
_TANH_ABOVE = (
    -2.76076847742355e-16,
    2.00018790482477e-13,
    -8.60467152213735e-11,
    5.12229709037114e-08,
    1.48572235717979e-05,
    6.37261928875436e-04,
    4.89352455891786e-03,
)
_TANH_BELOW = (1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03)


class Lanes:
    """Eight numbers in LLVM's hands, with the arithmetic that a transform needs."""

    vector = ir.VectorType(ir.FloatType(), LANES)

    def __init__(self, builder: Any, value: Any) -> None:
        self.builder, self.value = builder, value

    @classmethod
    def load(cls, builder: Any, data: Any, place: Any) -> Lanes:
        """The numbers from a place of an array on."""
        address = builder.bitcast(builder.gep(data, [place]), cls.vector.as_pointer())
        return cls(builder, builder.load(address, align=4))

    def store(self, data: Any, place: Any) -> None:
        """Write them to a place of an array and those after it."""
        address = self.builder.bitcast(self.builder.gep(data, [place]), self.vector.as_pointer())
        self.builder.store(self.value, address, align=4)

    def __add__(self, other: Lanes) -> Lanes:
        return Lanes(self.builder, self.builder.fadd(self.value, other.value, flags=("contract",)))

    def __sub__(self, other: Lanes) -> Lanes:
        return Lanes(self.builder, self.builder.fsub(self.value, other.value, flags=("contract",)))

    def __mul__(self, other: Lanes) -> Lanes:
        return Lanes(self.builder, self.builder.fmul(self.value, other.value, flags=("contract",)))

    def __rmul__(self, factor: float) -> Lanes:
        return self.of(factor) * self

    def __truediv__(self, other: Lanes) -> Lanes:
        return Lanes(self.builder, self.builder.fdiv(self.value, other.value))

    def of(self, number: float) -> Lanes:
        """One number in all of them."""
        return Lanes(self.builder, ir.Constant(self.vector, [float(number)] * LANES))

    def within(self, limit: float) -> Lanes:
        """Those beyond a limit, on either side, at the limit."""
        value = self.value
        for sign, bound in (("<", self.of(-limit).value), (">", self.of(limit).value)):
            value = self.builder.select(self.builder.fcmp_ordered(sign, value, bound), bound, value)
        return Lanes(self.builder, value)

    def polynomial(self, coefficients: Sequence[float]) -> Lanes:
        """Horner's rule, from the highest power down."""
        value = self.of(coefficients[0])
        for coefficient in coefficients[1:]:
            value = value * self + self.of(coefficient)
        return value


def silu(x: Lanes) -> Lanes:
    """SiLU, x / (1 + exp(-x)), by tanh(x / 2) as a ratio of polynomials, right to float32's rounding."""
    half = (0.5 * x).within(7.9)
    square = half * half
    tanh = half * square.polynomial(_TANH_ABOVE) / square.polynomial(_TANH_BELOW)
    return x * (0.5 * tanh + x.of(0.5))

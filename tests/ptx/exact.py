"""Exact arithmetic and rounding, by fractions: what the tests compare floating-point instructions with."""

import math
from fractions import Fraction

import numpy as np

from .floats import widen
from .types import TYPES

# Bits of the significand, and the exponent of the smallest normal number.
FORMATS = {"f16": (11, -14), "bf16": (8, -126), "tf32": (11, -126), "f32": (24, -126), "f64": (53, -1022)}
LARGEST_EXPONENTS = {"f16": 15, "bf16": 127, "tf32": 127, "f32": 127, "f64": 1023}


def rounded(value: Fraction, name: str, mode: str = "rn") -> float:
    """The number of a format that a rounding mode gives for a value that is not zero."""
    precision, smallest = FORMATS[name]
    exponent = max(_exponent(abs(value)), smallest)
    quantum = Fraction(2) ** (exponent - precision + 1)
    result = _to_integer(value / quantum, mode) * quantum
    if abs(result) >= Fraction(2) ** (LARGEST_EXPONENTS[name] + 1):
        stays_finite = mode == "rz" or mode == ("rm" if value > 0 else "rp")
        largest = (2 - Fraction(2) ** (1 - precision)) * Fraction(2) ** LARGEST_EXPONENTS[name]
        result = largest if stays_finite else math.inf
    return float(abs(result)) * (1 if value > 0 else -1)


def _exponent(value: Fraction) -> int:
    exponent = value.numerator.bit_length() - value.denominator.bit_length()
    return exponent if Fraction(2) ** exponent <= value else exponent - 1


def _to_integer(value: Fraction, mode: str) -> int:
    if mode == "rn":
        return round(value)
    if mode == "rna":
        return math.floor(abs(value) + Fraction(1, 2)) * (1 if value > 0 else -1)
    return {"rz": math.trunc, "rm": math.floor, "rp": math.ceil}[mode](value)


def fma(a: np.ndarray, b: np.ndarray, c: np.ndarray, name: str, mode: str = "rn") -> np.ndarray:
    """The numbers a * b + c as float64, rounded once to the format."""
    with np.errstate(all="ignore"):
        wide = [widen(values, TYPES[name]).astype(np.float64) for values in np.broadcast_arrays(a, b, c)]
        results = wide[0] * wide[1] + wide[2]  # infinities and NaN
    for place in np.ndindex(results.shape):
        if not all(math.isfinite(values[place]) for values in wide):
            if math.isfinite(wide[0][place]) and math.isfinite(wide[1][place]):
                results[place] = wide[2][place]
            continue
        x, y, z = (Fraction(float(values[place])) for values in wide)
        if exact := x * y + z:
            results[place] = rounded(exact, name, mode)
        else:
            product_sign, sign = (np.signbit(value) for value in (wide[0][place] * wide[1][place], wide[2][place]))
            results[place] = -0.0 if (sign if sign == product_sign else mode == "rm") else 0.0
    return results

"""Floating-point formats and roundings that NumPy lacks.

Results are computed in float64 rounded to odd: a result that is not exact gets an odd last bit. To round that again, to
a format with at least two bits less, gives what a single rounding gives. (Boldo and Melquiond, "Emulation of FMA and
correctly rounded sums: proved algorithms using rounding to odd", IEEE Trans. Computers 57(4), 2008.)
"""

from fractions import Fraction

import numpy as np

from .types import Type

SMALLEST_NORMAL = np.finfo(np.float32).smallest_normal
CANONICAL_NAN = {2: np.uint16(0x7FFF), 4: np.uint32(0x7FFF_FFFF)}  # what arithmetic returns on the GPU


def widen(values: np.ndarray, type_: Type) -> np.ndarray:
    """16-bit floats as float32, which holds them exactly; float32 and float64 as they are."""
    if type_.name == "bf16":
        return (values.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return values.astype(np.float32) if type_.name == "f16" else values


def narrow(values: np.ndarray, type_: Type, mode: str = "rn") -> np.ndarray:
    """Float64 values, exact or rounded to odd, in the format, rounded once. NaNs become the canonical one."""
    if type_.name == "f64":
        return values
    if type_.name in ("bf16", "tf32"):
        rounded = _drop_bits(_float32_to_odd(values).view(np.uint32), mode, 16 if type_.name == "bf16" else 13)
        rounded = (rounded >> np.uint32(16)).astype(np.uint16) if type_.name == "bf16" else rounded
    else:
        rounded = _direct(values, values.astype(type_.dtype), mode)
    return canonical(rounded, np.isnan(values))


def canonical(values: np.ndarray, nan: np.ndarray) -> np.ndarray:
    """The values with the GPU's NaN where `nan`: the host's may have another sign."""
    if nan.any():
        values = np.array(values)
        values.view(f"u{values.itemsize}")[nan] = CANONICAL_NAN[values.itemsize]
    return values


def _direct(exact: np.ndarray, nearest: np.ndarray, mode: str) -> np.ndarray:
    """The neighbour of the nearest number that a directed rounding asks for."""
    if mode == "rn":
        return nearest
    value, infinity = nearest.astype(np.float64), nearest.dtype.type(np.inf)
    down, up = np.nextafter(nearest, -infinity), np.nextafter(nearest, infinity)
    too_high, too_low = value > exact, value < exact
    if mode == "rz":
        too_high, too_low = too_high & (exact > 0), too_low & (exact < 0)
    return np.where(too_high & (mode != "rp"), down, np.where(too_low & (mode != "rm"), up, nearest))


def _float32_to_odd(values: np.ndarray) -> np.ndarray:
    truncated = _direct(values, values.astype(np.float32), "rz")
    inexact = truncated.astype(np.float64) != values
    return np.where(inexact, (truncated.view(np.uint32) | np.uint32(1)).view(np.float32), truncated)


def _drop_bits(bits: np.ndarray, mode: str, count: int) -> np.ndarray:
    """Rounds the lowest bits of a float32 away. A carry runs into the exponent, and up to infinity, as it should."""
    last = np.uint32(1 << count)
    if mode == "rn":
        increment = np.uint32((1 << count - 1) - 1) + ((bits >> np.uint32(count)) & np.uint32(1))
    elif mode == "rna":
        increment = np.uint32(1 << count - 1)
    else:
        negative = bits >> np.uint32(31)
        away = {"rz": 0 * negative, "rm": negative, "rp": np.uint32(1) - negative}[mode]
        increment = away * (last - np.uint32(1))
    special = (bits & np.uint32(0x7F80_0000)) == np.uint32(0x7F80_0000)
    return np.where(special, bits, bits + increment) & ~(last - np.uint32(1))


def flush_subnormals(values: np.ndarray) -> np.ndarray:
    """Float32 with subnormal numbers as zeros of their sign (.ftz)."""
    return np.where(np.abs(values) < SMALLEST_NORMAL, np.copysign(np.float32(0), values), values)


def saturate(values: np.ndarray) -> np.ndarray:
    """Values clamped to [0, 1]; NaN and -0 become +0 (.sat)."""
    return np.where(values > 0, np.minimum(values, values.dtype.type(1)), values.dtype.type(0))


def add_to_odd(a: np.ndarray, b: np.ndarray, mode: str = "rn") -> np.ndarray:
    """The sum of float64, rounded to odd; `mode`, by which it will be rounded again, has a say in the sign of zero."""
    total = a + b
    if mode == "rm":
        total = np.where((total == 0) & (np.signbit(a) != np.signbit(b)), -0.0, total)
    part = total - a
    error = (a - (total - part)) + (b - part)  # exact, by Knuth
    inexact = (error != 0) & np.isfinite(total) & (total.view(np.int64) & 1 == 0)
    if not inexact.any():
        return total
    return np.where(inexact, np.nextafter(total, np.where(error > 0, np.inf, -np.inf)), total)


def fma_to_odd(a: np.ndarray, b: np.ndarray, c: np.ndarray, mode: str = "rn") -> np.ndarray:
    """Float64 a * b + c rounded to odd, of numbers of at most 24 significant bits: their product is exact."""
    product = a.astype(np.float64) * b.astype(np.float64)
    return add_to_odd(*map(np.ascontiguousarray, np.broadcast_arrays(product, c.astype(np.float64))), mode)


def fma64(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Float64 a * b + c, rounded once."""
    a, b, c = map(np.ascontiguousarray, np.broadcast_arrays(a, b, c))
    high, low = _product(a, b)
    carried_high, carried_low = _sum(c, low)
    top, rest = _sum(high, carried_high)
    result = top + add_to_odd(carried_low, rest)
    magnitudes = np.abs([a, b, c])
    simple = ((magnitudes > 2.0**-400) & (magnitudes < 2.0**400) | (magnitudes == 0)).all(axis=0)
    for lane in np.flatnonzero(~simple):  # where an intermediate result may overflow or lose bits
        result[lane] = _exact_fma(a[lane], b[lane], c[lane])
    zero_product = (a == 0) | (b == 0)
    return np.where(zero_product, a * b + c, result)


def _product(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The product and its rounding error (Dekker)."""
    product = a * b
    (a_high, a_low), (b_high, b_low) = _split(a), _split(b)
    return product, ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low


def _split(a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scaled = a * float(2**27 + 1)
    high = scaled - (scaled - a)
    return high, a - high


def _sum(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def _exact_fma(a: np.float64, b: np.float64, c: np.float64) -> np.float64:
    if not np.isfinite([a, b]).all():
        return a * b + c
    if not np.isfinite(c):
        return c  # the product is finite, though it may overflow
    exact = Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c))
    try:
        return np.float64(float(exact))  # correctly rounded
    except OverflowError:
        return np.copysign(np.inf, float(exact > 0) - 0.5)

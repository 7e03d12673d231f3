"""Noise for estimators that need it element by element: Philox under a key of its own, by the contract."""

import triton
import triton.language as tl

from . import contract
from .stream import position


@triton.jit
def _splitmix64(x):
    """One step of SplitMix64 (Steele et al., OOPSLA 2014)."""
    x = x + tl.full((), 0x9E3779B97F4A7C15, tl.uint64)
    x = (x ^ (x >> 30)) * tl.full((), 0xBF58476D1CE4E5B9, tl.uint64)
    x = (x ^ (x >> 27)) * tl.full((), 0x94D049BB133111EB, tl.uint64)
    return x ^ (x >> 31)


@triton.jit
def source(stream, i, here, ONE_SEED: tl.constexpr):
    """What the noise of rows i is made of: two words of the rows' numbers, two of their keys."""
    seed, number = position(stream, i, here, ONE_SEED)
    offset = stream.offset + tl.zeros_like(i)
    key = seed.to(tl.uint64, bitcast=True) ^ _splitmix64(offset.to(tl.uint64, bitcast=True) + 1)
    r0, r1 = contract.words(number)
    k0, k1 = contract.words(_splitmix64(key))
    return r0, r1, k0, k1


@triton.jit
def uniforms(first, second, source, DTYPE: tl.constexpr):
    """Four u in (0, 1), exactly: of counters that begin with these two 32-bit words."""
    r0, r1, k0, k1 = source
    w0, w1, w2, w3 = contract.philox(first, second, r0, r1, k0, k1)
    return _uniform(w0, DTYPE), _uniform(w1, DTYPE), _uniform(w2, DTYPE), _uniform(w3, DTYPE)


@triton.jit
def _uniform(word, DTYPE: tl.constexpr):
    """(word / 2**9 + 1 / 2) / 2**23, rounded down before the half is added: as a number in [1, 2) first."""
    from_one = ((word >> 9) | 0x3F800000).to(tl.float32, bitcast=True)
    return (from_one - (1.0 - 2.0**-24)).to(DTYPE)


@triton.jit
def log_uniforms(quads, sample, source, DTYPE: tl.constexpr):
    """log u [..., 2, 2] of the four categories of each quad, in Monte-Carlo sample number `sample`."""
    u0, u1, u2, u3 = uniforms(quads, sample, source, DTYPE)
    return log(tl.join(tl.join(u0, u2), tl.join(u1, u3)))


@triton.jit
def log(v):
    """Of v > 0, to a place or two: what a GPU is quick at has no digit right where v is near 1."""
    if v.dtype == tl.float64:
        result = tl.log(v)
    else:  # v = 2**e (1 + f), f from sqrt(1/2) - 1 to sqrt(2) - 1, and log(1 + f) = f + f**2 Q(f)
        ROOT_HALF: tl.constexpr = 0x3F3504F3  # as bits
        shifted = v.to(tl.int32, bitcast=True) - ROOT_HALF
        f = ((shifted & 0x007FFFFF) + ROOT_HALF).to(tl.float32, bitcast=True) - 1.0
        q = tl.full(f.shape, -0.07621856033802032, tl.float32)
        q = tl.fma(q, f, tl.full(f.shape, 0.12904493510723114, tl.float32))
        q = tl.fma(q, f, tl.full(f.shape, -0.13242985308170319, tl.float32))
        q = tl.fma(q, f, tl.full(f.shape, 0.14181813597679138, tl.float32))
        q = tl.fma(q, f, tl.full(f.shape, -0.16609081625938416, tl.float32))
        q = tl.fma(q, f, tl.full(f.shape, 0.2000197470188141, tl.float32))
        q = tl.fma(q, f, tl.full(f.shape, -0.25001582503318787, tl.float32))
        q = tl.fma(q, f, tl.full(f.shape, 0.33333325386047363, tl.float32))
        q = tl.fma(q, f, tl.full(f.shape, -0.49999988079071045, tl.float32))
        e = ((shifted >> 23) + 0x4B400000).to(tl.float32, bitcast=True) - 12582912.0  # 1.5 * 2**23
        result = tl.fma(e, tl.full(f.shape, contract.LN_2, tl.float32), tl.fma(f * f, q, f))
    return result


@triton.jit
def log_1p(x):
    """log(1 + x) for x >= 0: what the sum lost to rounding is put back, to first order."""
    y = x + 1.0
    return log(y) + (x - (y - 1.0)) / y

"""The sampling contract as device functions: Philox, the exponential, and the integers that decide a draw.

Bit-equal to `reinmax_kernels.reference.contract`. Nothing here may be contracted or approximated: kernels that call it
are launched with `enable_fp_fusion=False`. Weights stay floats, and their sums are taken in 32-bit integers of their
upper and lower bits, for an element in 64 bits would cost more than all the rest.
"""

import triton
import triton.language as tl

CHUNK = tl.constexpr(1024)  # categories whose weights share one scale
WEIGHT_BITS = tl.constexpr(39)  # the largest weight of a chunk is 2**39
LARGEST_WEIGHT = tl.constexpr(1 << 39)
LOG2_E = tl.constexpr(1.44269504)
LN_2 = tl.constexpr(0.693147180559945309417)

_INTEGER = tl.constexpr(12582912.0)  # 1.5 * 2**23: adding it rounds to an integer in the low bits
_HIGH = tl.constexpr(52776558133248.0)  # 1.5 * 2**45: adding it rounds to a multiple of 2**22
_HIGH_BITS = tl.constexpr(0x56400000)  # as an int32
_INTEGER_BITS = tl.constexpr(0x4B400000)
_HIGH_SHIFT = tl.constexpr(22)
_DOUBLE_INTEGER = tl.constexpr(6755399441055744.0)  # 1.5 * 2**52
_DOUBLE_INTEGER_BITS = tl.constexpr(0x4338000000000000)

# Triton 3.6 scans no fewer elements than the layout gives a thread, which is up to 32, of one byte each.
_LEAST_SCANNED = tl.constexpr(32 if triton.__version__.startswith("3.6.") else 1)


@triton.jit
def words(bits):
    """The low and the high half of 64 bits."""
    bits = bits.to(tl.uint64, bitcast=True)
    return (bits & 0xFFFFFFFF).to(tl.uint32), (bits >> 32).to(tl.uint32)


@triton.jit
def _uniform(low, high):
    return low.to(tl.uint64) | (high.to(tl.uint64) << 32)


@triton.jit
def philox(c0, c1, c2, c3, k0, k1):
    """Four random words: Philox4x32-10 (Salmon et al., SC 2011) of a counter and a key in 32-bit words."""
    m0 = tl.full((), 0xD2511F53, tl.uint32)
    m1 = tl.full((), 0xCD9E8D57, tl.uint32)
    for _ in tl.static_range(10):
        high0, high1 = tl.umulhi(c0, m0), tl.umulhi(c2, m1)
        low0, low1 = c0 * m0, c2 * m1
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0 += tl.full((), 0x9E3779B9, tl.uint32)
        k1 += tl.full((), 0xBB67AE85, tl.uint32)
    return c0, c1, c2, c3


@triton.jit
def uniforms(seed, row, offset):
    """The two 64-bit uniforms of each row, for the chunk and for the element, of int64 seeds, row numbers and an
    offset.
    """
    k0, k1 = words(seed)
    c0, c1 = words(row)
    c2, c3 = words(offset)
    w0, w1, w2, w3 = philox(c0, c1, c2, c3, k0, k1)
    return _uniform(w0, w1), _uniform(w2, w3)


@triton.jit
def scale_uniform(uniform, total):
    """Where a uniform points among integer weights of this sum: the high half of their 128-bit product."""
    return tl.umulhi(uniform, total.to(tl.uint64)).to(tl.int64)


@triton.jit
def exp2(t, SCALE_BITS: tl.constexpr):
    """2**(t + SCALE_BITS) for float32 t <= 0; 0 where that is below the smallest normal float, and for -inf and NaN."""
    BIAS: tl.constexpr = 127 + SCALE_BITS
    MAGIC: tl.constexpr = 12582912.0 + BIAS // 2 * 2  # even, so that ties round as they do without it
    t = tl.maximum(t, -1.0 * BIAS)  # an exponent field of 0 makes the product 0
    rounded = t + MAGIC
    f = t - (rounded - MAGIC)
    value = tl.full(f.shape, 1.534581242594868e-4, tl.float32)
    value = tl.fma(value, f, tl.full(f.shape, 1.3399930903688073e-3, tl.float32))
    value = tl.fma(value, f, tl.full(f.shape, 9.618489071726799e-3, tl.float32))
    value = tl.fma(value, f, tl.full(f.shape, 5.550328642129898e-2, tl.float32))
    value = tl.fma(value, f, tl.full(f.shape, 2.4022646248340607e-1, tl.float32))
    value = tl.fma(value, f, tl.full(f.shape, 6.931471824645996e-1, tl.float32))
    value = tl.fma(value, f, tl.full(f.shape, 1.0, tl.float32))
    power = (rounded.to(tl.int32, bitcast=True) + BIAS % 2) << 23
    return value * power.to(tl.float32, bitcast=True)


@triton.jit
def larger_or_nan(a, b):
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def largest(x, AXIS: tl.constexpr):
    """The largest element, or NaN where there is one."""
    return tl.reduce(x, AXIS, larger_or_nan)


@triton.jit
def has_distribution(largest):
    """Whether a row whose largest logit this is has a distribution: it holds no NaN, no +inf, and a finite logit."""
    return tl.abs(largest) < float("inf")


@triton.jit
def _reference_point(largest):
    """The largest logit, or one from which all others are infinitely far, or NaN, which `exp2` takes for the same."""
    return tl.where(has_distribution(largest), largest, float("inf"))


@triton.jit
def weight(x, largest):
    """2**39 exp(x - largest), the weight before it is rounded; 0 throughout where there is no finite largest logit."""
    return exp2((x - _reference_point(largest)) * LOG2_E, WEIGHT_BITS)


@triton.jit
def _split(weight):
    """The integer nearest to each weight, as a multiple of 2**22 and a rest in [-2**21, 2**21]."""
    shifted = weight + _HIGH
    rest = (weight - (shifted - _HIGH)) + _INTEGER
    high = shifted.to(tl.int32, bitcast=True) - _HIGH_BITS
    return high, rest.to(tl.int32, bitcast=True) - _INTEGER_BITS


@triton.jit
def integer(weight):
    """The integer nearest to each weight, ties to even, as int64."""
    high, low = _split(weight)
    return (high.to(tl.int64) << _HIGH_SHIFT) + low.to(tl.int64)


@triton.jit
def draw_bits(x, uniform):
    """Whether each bit of log-odds x is drawn to be 1, and the weight of its unlikelier value before it is rounded. NaN
    gives 0.
    """
    weight = exp2(-tl.abs(x) * LOG2_E, WEIGHT_BITS)
    unlikely = integer(weight)
    likely = tl.full((), LARGEST_WEIGHT, tl.int64)
    target = scale_uniform(uniform, unlikely + likely)
    return target < tl.where(x >= 0, likely, unlikely), weight


@triton.jit
def integer_sum(weight, AXIS: tl.constexpr):
    """The sum over an axis of at most 1024 weights as integers. 32 bits hold both parts of it: the parts of the
    largest weight, 2**39, are 2**17 and 0.
    """
    high, low = _split(weight)
    return (tl.sum(high, AXIS).to(tl.int64) << _HIGH_SHIFT) + tl.sum(low, AXIS).to(tl.int64)


@triton.jit
def chunk_weight(total, largest, row_largest):
    """A chunk's sum of weights beside those of the others, as an integer."""
    factor = exp2((largest - _reference_point(row_largest)) * LOG2_E, 0)
    scaled = total.to(tl.float64) * factor.to(tl.float64) + _DOUBLE_INTEGER
    return scaled.to(tl.int64, bitcast=True) - _DOUBLE_INTEGER_BITS


@triton.jit
def scannable(weights):
    """Integer weights [R, C] with zeros behind them, to as many as Triton can scan."""
    COUNT: tl.constexpr = weights.shape[1]
    if COUNT < _LEAST_SCANNED:
        weights = tl.where(tl.arange(0, _LEAST_SCANNED // COUNT)[None, :, None] == 0, weights[:, None, :], 0)
        weights = tl.reshape(weights, [weights.shape[0], _LEAST_SCANNED])
    return weights


@triton.jit
def first_above(weights, target):
    """For each row of integer weights [R, C], the first position whose inclusive prefix sum exceeds target [R], and the
    prefix sum before it.
    """
    prefix = tl.cumsum(weights, 1)
    passed = prefix <= target[:, None]
    return tl.sum(passed.to(tl.int32), 1), tl.max(tl.where(passed, prefix, 0), 1)


@triton.jit
def choose(weight, target):
    """For each row of weights [R, C], the first position whose inclusive prefix sum of integers exceeds target [R]:
    first the group of 32, then the element in it, so that 64-bit scans are short.
    """
    ROWS: tl.constexpr = weight.shape[0]
    CATEGORIES: tl.constexpr = weight.shape[1]
    GROUP: tl.constexpr = 32
    if CATEGORIES <= GROUP:
        position, _ = first_above(integer(weight), target)
    else:
        groups = tl.reshape(weight, [ROWS, CATEGORIES // GROUP, GROUP])
        group, before = first_above(scannable(integer_sum(groups, 2)), target)
        chosen = tl.arange(0, CATEGORIES // GROUP)[None, :, None] == group[:, None, None]
        element, _ = first_above(integer(tl.sum(tl.where(chosen, groups, 0.0), 1)), target - before)
        position = group * GROUP + element
    return position

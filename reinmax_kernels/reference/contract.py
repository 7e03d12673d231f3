"""The sampling contract in plain PyTorch: one seed draws one sample, on every backend.

The draw is exact. Floating point appears only element by element, in an order that is fixed; every sum after
it is a sum of integers, which no reordering can change. So any backend that follows the same steps returns the
same index, bit for bit.

Unsigned 32-bit words are held in int64 tensors, because PyTorch has few operations on unsigned ones.
"""

import torch
from torch import Tensor

CHUNK = 1024  # categories whose weights share one scale
WEIGHT_BITS = 39  # the largest weight of a chunk is 2**39
LOG2_E = 1.44269504  # rounded to float32 where it is used
# 2**f for |f| <= 1/2, highest power first; relative error 1.9e-9.
EXP2_COEFFICIENTS = (
    1.534581242594868e-4,
    1.3399930903688073e-3,
    9.618489071726799e-3,
    5.550328642129898e-2,
    2.4022646248340607e-1,
    6.931471824645996e-1,
    1.0,
)

_LOW32 = 0xFFFFFFFF
_PHILOX_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_PHILOX_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_PHILOX_ROUNDS = 10


def words(bits: Tensor) -> tuple[Tensor, Tensor]:
    """Low and high 32-bit word of each 64-bit integer."""
    return bits & _LOW32, (bits >> 32) & _LOW32


def _multiply32(a: Tensor, b: int) -> tuple[Tensor, Tensor]:
    """Low and high 32-bit word of the product of two 32-bit words."""
    high = (a * (b >> 16) + (a * (b & 0xFFFF) >> 16)) >> 16
    return a * b & _LOW32, high


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    """Philox4x32-10 (Salmon et al., SC 2011), element by element: four 32-bit words from counter and key."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_PHILOX_ROUNDS):
        low0, high0 = _multiply32(c0, _PHILOX_MULTIPLIERS[0])
        low1, high1 = _multiply32(c2, _PHILOX_MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _PHILOX_KEY_STEPS[0]) & _LOW32, (k1 + _PHILOX_KEY_STEPS[1]) & _LOW32
    return c0, c1, c2, c3


def _numbers(rows: int, seed: Tensor, row_offset: int) -> tuple[Tensor, Tensor]:
    """The number of each of `rows` rows in its stream, and its seed."""
    seeds = seed.reshape(-1)
    rows_per_seed = rows // seeds.numel()
    number = torch.arange(rows_per_seed, device=seed.device).repeat(seeds.numel()) + row_offset
    return number, seeds.repeat_interleave(rows_per_seed)


def row_bits(rows: int, seed: Tensor, offset: int, row_offset: int) -> tuple[Tensor, ...]:
    """Four random 32-bit words for each of `rows` rows: two 64-bit uniforms, each as (low, high)."""
    number, key = _numbers(rows, seed, row_offset)
    return philox((*words(number), *words(torch.full_like(number, offset))), words(key))


def multiply_high(uniform: tuple[Tensor, Tensor], v: Tensor) -> Tensor:
    """The high 64 bits of the 128-bit product of a 64-bit uniform, as (low, high) words, and v < 2**62."""
    v_low, v_high = v & 0x7FFFFFFF, v >> 31
    low, high = uniform
    carry = torch.zeros_like(v)
    for digit in (low & 0xFFFF, low >> 16, high & 0xFFFF, high >> 16):  # schoolbook, 16 bits at a time
        below = digit * v_low + (carry & 0x7FFFFFFF)
        above = digit * v_high + (carry >> 31) + (below >> 31)
        carry = (above << 15) + ((below & 0x7FFFFFFF) >> 16)
    return carry


def exp2(t: Tensor) -> Tensor:
    """2**t for float32 t <= 0, in the contract's operations. Float64 stands in for the fused multiply-add:
    over the whole range of f the double rounding never shows.
    """
    t = t.clamp(min=-64.0)
    n = t.round()
    f = (t - n).double()
    value = torch.full_like(t, EXP2_COEFFICIENTS[0])
    for coefficient in EXP2_COEFFICIENTS[1:]:
        value = (value.double() * f + float(torch.tensor(coefficient, dtype=torch.float32))).float()
    return torch.ldexp(value, n)


def _exp2_of_difference(x: Tensor, m: Tensor) -> Tensor:
    """E((x - m) log2 e), and 0 where x is -inf."""
    log2_e = torch.full((), LOG2_E, dtype=torch.float32, device=x.device)
    return torch.where(x == -torch.inf, 0.0, exp2((x - m) * log2_e))


def draw(x: Tensor, seed: Tensor, offset: int, row_offset: int) -> Tensor:
    """The index drawn from each row of float32 logits x [N, C]. Rows without a distribution give 0."""
    rows, categories = x.shape
    width = min(CHUNK, categories)
    chunks = -(-categories // width)
    padded = torch.nn.functional.pad(x, (0, chunks * width - categories), value=-torch.inf)
    padded = padded.reshape(rows, chunks, width)

    chunk_max = padded.amax(-1)
    weight = _exp2_of_difference(padded, chunk_max.unsqueeze(-1))
    q = (weight.double() * 2.0**WEIGHT_BITS).round().nan_to_num(0.0).to(torch.int64)
    chunk_sum = q.sum(-1)
    chunk_scale = _exp2_of_difference(chunk_max, chunk_max.amax(-1, keepdim=True))
    chunk_weight = (chunk_sum.double() * chunk_scale.double()).round().nan_to_num(0.0).to(torch.int64)

    w0, w1, w2, w3 = row_bits(rows, seed, offset, row_offset)
    chunk = _first_above(chunk_weight, multiply_high((w0, w1), chunk_weight.sum(-1)))
    at_chunk = chunk.unsqueeze(-1)
    q = q.gather(1, at_chunk.unsqueeze(-1).expand(-1, -1, width)).squeeze(1)
    index = _first_above(q, multiply_high((w2, w3), chunk_sum.gather(1, at_chunk).squeeze(1)))
    return torch.where(valid_rows(x), chunk * width + index, 0)


def draw_bits(x: Tensor, seed: Tensor, offset: int, row_offset: int) -> Tensor:
    """For each float32 logit of x [N], whether its bit is drawn to be 1. Two neighbours share one call of Philox. NaN
    gives 0.
    """
    number, key = _numbers(x.numel(), seed, row_offset)
    pair = (number >> 1) & (2**63 - 1)
    w0, w1, w2, w3 = philox((*words(pair), *words(torch.full_like(pair, offset))), words(key))
    odd = (number & 1).bool()
    uniform = torch.where(odd, w2, w0), torch.where(odd, w3, w1)
    unlikely = _exp2_of_difference(-x.abs(), torch.zeros_like(x))
    unlikely = (unlikely.double() * 2.0**WEIGHT_BITS).round().nan_to_num(0.0).to(torch.int64)
    likely = torch.full_like(unlikely, 1 << WEIGHT_BITS)
    return multiply_high(uniform, unlikely + likely) < torch.where(x >= 0, likely, unlikely)


def _first_above(weights: Tensor, target: Tensor) -> Tensor:
    """The first position whose inclusive prefix sum exceeds the target."""
    below = (weights.cumsum(-1) <= target.unsqueeze(-1)).sum(-1)
    return below.clamp(max=weights.shape[-1] - 1)


def valid_rows(x: Tensor) -> Tensor:
    """Whether each row [..., C] has a distribution: no NaN, no +inf, and not only -inf."""
    return x.amax(-1).isfinite() & ~x.isnan().any(-1)

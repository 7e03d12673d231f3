"""Bits, one for each logit, and the estimators of categorical choices for the two categories (x, 0): one pass over the
elements, each by itself.

On a GPU nothing is checked: an infinite logit is a certain bit, whose gradient is 0; a NaN, or a float64 that float32
can't hold, has bit 0, probability NaN and gradient NaN, and disturbs no other element.
"""

import functools
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import contract, elements, launch, noise, row
from .elements import Elements
from .gumbel_weights import base, slope_of_two
from .stream import NO_STREAM, Stream, position, stream_of
from .upstream import inverse_of


class Upstream(NamedTuple):
    """What a backward starts from: the gradients, the logits and their mask, and the bits."""

    grad_bits: Any
    grad_probs: Any
    logits: Any
    mask: Any
    bits: Any
    inner: Any


class Point(NamedTuple):
    """One logit, the probability of its likelier bit and of the other one, and the log-odds of the bit that was not
    drawn.
    """

    x: Any
    likely: Any
    unlikely: Any
    other: Any


@triton.jit
def _odds(x):
    """The probabilities of the likelier and of the unlikelier bit."""
    e = tl.exp(-tl.abs(x))
    likely = 1.0 / (1.0 + e)
    return likely, e * likely


@triton.jit
def _probability(z, likely, unlikely):
    """Of the bit whose log-odds are z, which is x or -x."""
    return tl.where(z > 0, likely, unlikely)


@triton.jit
def _invalid(x):
    """Whether no bit can be drawn."""
    value = row.draw_value(x)
    return value != value


@triton.jit
def _uniforms(stream, first, count, ONE_SEED: tl.constexpr, PAIRED: tl.constexpr, BLOCK: tl.constexpr):
    """One for each element. A call of Philox makes those of an even number and of the odd one behind it: once for both
    where they are PAIRED, neighbours here from the first on.
    """
    i = first + (2 * tl.arange(0, BLOCK // 2) if PAIRED else tl.arange(0, BLOCK))
    seed, number = position(stream, i, i < count, ONE_SEED)
    pair = number.to(tl.uint64, bitcast=True) >> 1
    even, odd = contract.uniforms(seed, pair, stream.offset + tl.zeros_like(i))
    return tl.reshape(tl.join(even, odd), [BLOCK]) if PAIRED else tl.where(number & 1 == 0, even, odd)


@triton.jit
def bernoulli_kernel(
    logits: Elements,
    mask: Elements,
    stream: Stream,
    bits_ptr,
    probs_ptr,
    count,
    inner,
    ONE_SEED: tl.constexpr,
    PAIRED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """BLOCK elements to a program."""
    first = tl.program_id(0).to(tl.int64) * BLOCK
    x = row.accumulated(elements.load_logits(logits, mask, first, count, inner, BLOCK))
    uniform = _uniforms(stream, first, count, ONE_SEED, PAIRED, BLOCK)
    bits, weight = contract.draw_bits(row.draw_value(x), uniform)
    if x.dtype == tl.float64:
        likely, unlikely = _odds(x)
    else:  # the draw's weight is such an exponential
        largest = tl.full((), contract.LARGEST_WEIGHT, tl.float32)
        scale = 1.0 / (weight + largest)
        likely, unlikely = largest * scale, weight * scale
    probs = tl.where(_invalid(x), float("nan"), _probability(x, likely, unlikely))
    elements.store(bits_ptr, first, count, bits.to(x.dtype))
    elements.store(probs_ptr, first, count, probs)


@triton.jit
def _gradient(gradient, x, first, count, inner, BLOCK: tl.constexpr):
    """In x's dtype: 0 where there is none, and where the bit is certain, whatever arrived there."""
    if gradient.data is None:
        result = tl.zeros_like(x)
    else:
        loaded = elements.load(gradient, first, count, inner, BLOCK, 0.0).to(x.dtype)
        result = tl.where(tl.abs(x) == float("inf"), 0.0, loaded)
    return result


@triton.jit
def bernoulli_backward_kernel(
    up: Upstream,
    tau_ptr,
    stream: Stream,
    grad_logits_ptr,
    count,
    SLOPE: tl.constexpr,
    ONE_SEED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """SLOPE g + P (1 - P) h. BLOCK elements to a program; noise only where there is a stream."""
    first = tl.program_id(0).to(tl.int64) * BLOCK
    DTYPE: tl.constexpr = tl.float64 if up.logits.data.dtype.element_ty == tl.float64 else tl.float32
    # What takes many registers comes first, while there is nothing else to keep in them.
    inverse_tau = tl.full((), 1.0, DTYPE)
    if tau_ptr is not None:
        inverse_tau = inverse_of(tl.load(tau_ptr), DTYPE)
    u = tl.zeros([BLOCK], DTYPE)
    if stream.seeds is not None:
        i = first + tl.arange(0, BLOCK)
        zero = tl.zeros([BLOCK], tl.uint32)
        u, _, _, _ = noise.uniforms(zero, zero, noise.source(stream, i, i < count, ONE_SEED), DTYPE)
    x = row.accumulated(elements.load_logits(up.logits, up.mask, first, count, up.inner, BLOCK))
    x = tl.where(_invalid(x), float("nan"), x)
    g = _gradient(up.grad_bits, x, first, count, up.inner, BLOCK)
    h = _gradient(up.grad_probs, x, first, count, up.inner, BLOCK)
    is_one = elements.load(up.bits, first, count, up.inner, BLOCK, 0.0) > 0
    likely, unlikely = _odds(x)
    at = Point(x, likely, unlikely, tl.where(is_one, -x, x))
    slope = SLOPE(at, u, inverse_tau, tau_ptr is not None)
    elements.store(grad_logits_ptr, first, count, slope * g + likely * unlikely * h)


@triton.jit
def _reinmax(at, u, inverse_tau, TEMPERED: tl.constexpr):
    """o / 2, the probability of the other bit; at any tau (o (2 - o) - P (1 - P)) / 2, o that at tau: of a small one
    the digits of 1 - (1 - o)^2 are kept.
    """
    if TEMPERED:
        likely, unlikely = _odds(at.x * inverse_tau)
        o = _probability(at.other, likely, unlikely)
        slope = 0.5 * (o * (2.0 - o) - at.likely * at.unlikely)
    else:
        slope = 0.5 * _probability(at.other, at.likely, at.unlikely)
    return slope


@triton.jit
def _straight_through(at, u, inverse_tau, TEMPERED: tl.constexpr):
    """s (1 - s) / tau, with s = sigmoid(x / tau)."""
    likely, unlikely = at.likely, at.unlikely
    if TEMPERED:
        likely, unlikely = _odds(at.x * inverse_tau)
    return likely * unlikely * inverse_tau


@triton.jit
def _gumbel_softmax(at, u, inverse_tau, TEMPERED: tl.constexpr):
    """The same, with s a sigmoid of noisy logits given the bit."""
    other = _probability(at.other, at.likely, at.unlikely)
    # The logarithm of a probability near 1 is taken for 0.
    of_other = base(other, tl.minimum(at.other, 0.0), TEMPERED)
    return slope_of_two(of_other, u, inverse_tau, TEMPERED) * inverse_tau


def bernoulli(logits: Tensor, seed: Tensor, mask: Tensor | None, offset: int, row_offset: int) -> tuple[Tensor, Tensor]:
    """Bits and their probabilities sigmoid(logits), in the logits' shape and dtype."""
    bits, probs = (torch.empty_like(logits, memory_format=torch.contiguous_format) for _ in range(2))
    count = logits.numel()
    if count == 0:
        return bits, probs
    inner, operands = elements.elements_of(logits.shape, logits, mask)
    stream, is_one = stream_of(seed, count, offset, row_offset)
    launch.run(
        bernoulli_kernel,
        (launch.cdiv(count, elements.block(logits.dtype)),),
        elements.WARPS,
        logits.device,
        *operands,
        stream,
        bits,
        probs,
        count,
        inner,
        ONE_SEED=is_one,
        PAIRED=row_offset % 2 == 0 and (is_one or stream.rows_per_seed % 2 == 0),
        BLOCK=elements.block(logits.dtype),
    )
    return bits, probs


def _backward(
    slope: triton.JITFunction,
    grad_bits: Tensor | None,
    grad_probs: Tensor | None,
    logits: Tensor,
    bits: Tensor,
    mask: Tensor | None,
    tau: Tensor | None,
    *source: Any,
) -> Tensor:
    """The gradient of the logits by the estimator of that slope; `source`: the stream of one that makes noise."""
    grad_logits = torch.empty_like(logits, memory_format=torch.contiguous_format)
    count = logits.numel()
    if count == 0:
        return grad_logits
    inner, operands = elements.elements_of(logits.shape, grad_bits, grad_probs, logits, mask, bits)
    seed, *offsets = source or (None,)
    stream, is_one = (NO_STREAM, True) if seed is None else stream_of(seed, count, *offsets)
    launch.run(
        bernoulli_backward_kernel,
        (launch.cdiv(count, elements.block(logits.dtype)),),
        elements.WARPS,
        logits.device,
        Upstream(*operands, inner),
        tau,
        stream,
        grad_logits,
        count,
        SLOPE=slope,
        ONE_SEED=is_one,
        BLOCK=elements.block(logits.dtype),
    )
    return grad_logits


bernoulli_reinmax_backward = functools.partial(_backward, _reinmax)
bernoulli_straight_through_backward = functools.partial(_backward, _straight_through)
bernoulli_gumbel_softmax_backward = functools.partial(_backward, _gumbel_softmax)

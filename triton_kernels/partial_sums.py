"""Sums of rows that no program holds, block by block; where several programs share a row, of each part, and of all."""

from typing import Any, NamedTuple

import triton
import triton.language as tl

from . import row
from .upstream import load, probability


class Partial(NamedTuple):
    """Sums of one part of a row, or [N, parts] of them: <pi, g>, <pi, h>, and the largest logit, relative to which
    p is not yet divided by its sum.
    """

    pi_g: Any
    pi_h: Any
    largest: Any
    p: Any
    p_g: Any


@triton.jit
def _relative_to(largest, part, inverse_tau):
    """The same sums, those of p relative to another largest logit."""
    scale = tl.exp((part.largest - largest) * inverse_tau)
    return Partial(part.pi_g, part.pi_h, largest, part.p * scale, part.p_g * scale)


@triton.jit
def _combined(part, largest):
    """The sums over partial sums, all relative to this largest logit."""
    return Partial(tl.sum(part.pi_g, 0), tl.sum(part.pi_h, 0), largest, tl.sum(part.p, 0), tl.sum(part.p_g, 0))


@triton.jit
def _of_lanes(x):
    """The sums [LANES] of a block [ACCESSES, LANES, ACCESS]."""
    return tl.sum(tl.sum(x, 2), 0)


@triton.jit
def _in_block(BLOCK: tl.constexpr, LANES: tl.constexpr, ACCESS: tl.constexpr):
    """Positions in a block [ACCESSES, LANES, ACCESS]."""
    ACCESSES: tl.constexpr = BLOCK // (LANES * ACCESS)
    access = tl.arange(0, ACCESSES)[:, None, None] * LANES + tl.arange(0, LANES)[None, :, None]
    return access * ACCESS + tl.arange(0, ACCESS)[None, None, :]


@triton.jit
def largest_logit(logits, mask, inner, i, first, last, BLOCK: tl.constexpr, LANES: tl.constexpr, ACCESS: tl.constexpr):
    """Of categories [first, last) of row i."""
    in_block = _in_block(BLOCK, LANES, ACCESS)
    DTYPE: tl.constexpr = tl.float64 if logits.data.dtype.element_ty == tl.float64 else tl.float32
    largest = tl.full([LANES], float("-inf"), DTYPE)
    for start in range(first, last, BLOCK):
        j = start + in_block
        x = row.accumulated(row.load_logits(logits, mask, i, j, j < last, inner))
        largest = tl.maximum(largest, tl.max(tl.max(x, 2), 0))
    return tl.max(largest, 0)


@triton.jit
def largest_logit_kernel(
    logits: row.Rows,
    mask: row.Rows,
    largest_ptr,
    parts,
    part_size,
    length: row.Multiple,
    inner,
    BLOCK: tl.constexpr,
    LANES: tl.constexpr,
    ACCESS: tl.constexpr,
):
    """Of one part of a row to a program."""
    i = tl.program_id(0).to(tl.int64)
    first = tl.program_id(1) * part_size
    last = tl.minimum(first + part_size, row.value(length))
    largest = largest_logit(logits, mask, inner, i, first, last, BLOCK, LANES, ACCESS)
    tl.store(largest_ptr + i * parts + tl.program_id(1), largest)


@triton.jit
def part_of_row(
    up,
    out_ptr,
    i,
    first,
    last,
    categories,
    index,
    g_drawn,
    log_sum_exp,
    row_largest,
    inverse_tau,
    setting,
    TEMPERED: tl.constexpr,
    WEIGHT: tl.constexpr,
    AWAY_FROM_DRAWN: tl.constexpr,
    BLOCK: tl.constexpr,
    LANES: tl.constexpr,
    ACCESS: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """The sums over categories [first, last) of row i; the gradient there too, where it is known without them. A lane
    sums what it has of a block, elements of one or more accesses, before it adds that: it holds one of each sum.
    """
    in_block = _in_block(BLOCK, LANES, ACCESS)
    zeros = tl.zeros([LANES], DTYPE)
    pi_g, pi_h, p, p_g = zeros, zeros, zeros, zeros
    if WEIGHT is None:
        largest = tl.full([LANES], -1.7976931348623157e308 if DTYPE == tl.float64 else -3.4028234663852886e38, DTYPE)
    else:
        largest = zeros + row_largest
    for start in range(first, last, BLOCK):
        j = start + in_block
        inside = j < last
        x, g, h = load(up, i, j, inside)
        pi = probability(x, log_sum_exp)
        pi_g += _of_lanes(pi * g)
        pi_h += _of_lanes(pi * h)
        if WEIGHT is not None:
            e = WEIGHT(x - row_largest, j == index, inverse_tau, setting)
            e = tl.where(inside, e, 0.0)
            p, p_g = p + _of_lanes(e), p_g + _of_lanes(e * g)
        elif TEMPERED:  # lane by lane, relative to the largest logit so far
            larger = tl.maximum(largest, tl.max(tl.max(x, 2), 0))
            scale, e = tl.exp((largest - larger) * inverse_tau), tl.exp((x - larger[None, :, None]) * inverse_tau)
            p, p_g, largest = p * scale + _of_lanes(e), p_g * scale + _of_lanes(e * g), larger
        if AWAY_FROM_DRAWN is not None:
            gradient = AWAY_FROM_DRAWN(pi, g, g_drawn)
            tl.store(out_ptr + i * categories + j, gradient.to(out_ptr.dtype.element_ty), mask=inside)
    of_lanes, of_all = Partial(pi_g, pi_h, largest, p, p_g), tl.max(largest, 0)
    return _combined(_relative_to(of_all, of_lanes, inverse_tau), of_all)


@triton.jit
def store_partial(to, at, part, TEMPERED: tl.constexpr, WITH_GRAD_PROBS: tl.constexpr):
    """Those of the sums that the gradient needs."""
    tl.store(to.pi_g + at, part.pi_g)
    if WITH_GRAD_PROBS:
        tl.store(to.pi_h + at, part.pi_h)
    if TEMPERED:
        tl.store(to.largest + at, part.largest)
        tl.store(to.p + at, part.p)
        tl.store(to.p_g + at, part.p_g)


@triton.jit
def _load_partial(sums, at, here, TEMPERED: tl.constexpr, WITH_GRAD_PROBS: tl.constexpr):
    pi_g = tl.load(sums.pi_g + at, mask=here, other=0.0)
    pi_h, p, p_g = tl.zeros_like(pi_g), tl.zeros_like(pi_g), tl.zeros_like(pi_g)
    largest = tl.full(pi_g.shape, float("-inf"), pi_g.dtype)
    if WITH_GRAD_PROBS:
        pi_h = tl.load(sums.pi_h + at, mask=here, other=0.0)
    if TEMPERED:
        largest = tl.load(sums.largest + at, mask=here, other=float("-inf"))
        p = tl.load(sums.p + at, mask=here, other=0.0)
        p_g = tl.load(sums.p_g + at, mask=here, other=0.0)
    return Partial(pi_g, pi_h, largest, p, p_g)


@triton.jit
def stored_largest(largest_ptr, start, parts, LANES: tl.constexpr, GROUP: tl.constexpr):
    """The row's largest logit from those of its parts."""
    largest = tl.full([LANES], float("-inf"), largest_ptr.dtype.element_ty)
    for member in range(GROUP):
        k = member * LANES + tl.arange(0, LANES)
        largest = tl.maximum(largest, tl.load(largest_ptr + start + k, mask=k < parts, other=float("-inf")))
    return tl.max(largest, 0)


@triton.jit
def stored_sums(
    sums,
    start,
    parts,
    inverse_tau,
    LANES: tl.constexpr,
    GROUP: tl.constexpr,
    TEMPERED: tl.constexpr,
    WITH_GRAD_PROBS: tl.constexpr,
):
    """The row's sums from those of its parts. Of its GROUP parts, a lane holds one at a time, and the sums: unrolled,
    the loops would load all parts at once.
    """
    DTYPE: tl.constexpr = sums.pi_g.dtype.element_ty
    of_row = tl.full((), float("-inf"), DTYPE)
    if TEMPERED:
        of_row = stored_largest(sums.largest, start, parts, LANES, GROUP)
    zeros = tl.zeros([LANES], DTYPE)
    pi_g, pi_h, p, p_g = zeros, zeros, zeros, zeros
    for member in range(GROUP):
        k = member * LANES + tl.arange(0, LANES)
        part = _load_partial(sums, start + k, k < parts, TEMPERED, WITH_GRAD_PROBS)
        part = _relative_to(of_row, part, inverse_tau)
        pi_g, pi_h, p, p_g = pi_g + part.pi_g, pi_h + part.pi_h, p + part.p, p_g + part.p_g
    return _combined(Partial(pi_g, pi_h, of_row, p, p_g), of_row)

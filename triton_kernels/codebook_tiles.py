"""The backward of a codebook lookup whose product, grad_vectors @ codebook.T, is made tile by tile, in registers, by
tensor cores: of two matrices of one half type, which they multiply as they are and sum in float32. A program turns each
tile into the logits' gradient where it stands: of what has the logits' size nothing but that is ever in memory. Where
an estimator knows its gradient away from the drawn category without the row's sums, each tile is made once; else twice,
for the sums and to write: of a tile that was kept, half types would round what is still to be computed with.
"""

import functools
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import launch, row
from .upstream import Estimator, Point, Sums, inverse_of, probability

_WARPS = 8
_KNOWN = 8  # parts whose sums a program reads at a time
_LEAST_BLOCKS = 8  # of a part: its sums are then 1/32 of the logits' bytes, or less


class Tile(NamedTuple):
    """Of the product, [rows, block]: what 8 warps hold without a spill where a quarter of a processor's threads, or a
    third, is resident. `depth`: how many columns of both matrices are multiplied at a time.
    """

    rows: int
    block: int
    depth: int


class Upstream(NamedTuple):
    """What a backward starts from: matrices [N, d] and [C, d], the logits and their mask, and index and log-sum-exp
    [N].
    """

    grad_vectors: Any
    codebook: Any
    logits: Any
    mask: Any
    index: Any
    log_sum_exp: Any
    inner: Any


class RowSums(NamedTuple):
    """Of each row, or of each of its parts: <pi, g>, and the largest logit, relative to which p is not yet divided by
    its sum.
    """

    pi_g: Any
    largest: Any
    p: Any
    p_g: Any


@triton.jit
def _columns(matrix, i, here, start, d, DEPTH: tl.constexpr, DTYPE: tl.constexpr):
    """A tile [I, DEPTH] of rows i, 0 where they or the columns end."""
    k = start + tl.arange(0, DEPTH)
    return tl.load(matrix + i[:, None] * d + k[None, :], mask=here[:, None] & (k < d)[None, :], other=0.0).to(DTYPE)


@triton.jit
def _product(up, i, here, left, j, within, d, DEPTH: tl.constexpr, IS_DEEP: tl.constexpr):
    """grad_vectors[i] @ codebook[j].T, where `left` is the former's first columns: all of them unless IS_DEEP."""
    if IS_DEEP:
        g = tl.zeros([i.shape[0], j.shape[0]], tl.float32)
        for start in range(0, d, DEPTH):
            left = _columns(up.grad_vectors, i, here, start, d, DEPTH, left.dtype)
            right = _columns(up.codebook, j, within, start, d, DEPTH, left.dtype)
            g = tl.dot(left, tl.trans(right), g, input_precision="ieee")
    else:
        right = _columns(up.codebook, j, within, 0, d, DEPTH, left.dtype)
        g = tl.dot(left, tl.trans(right), input_precision="ieee")
    return g


@triton.jit
def _at_drawn(up, i, here, index, d, DEPTH: tl.constexpr):
    """The logits at the drawn categories of rows i, and the gradient of the one-hot there."""
    x = row.accumulated(row.load_logits(up.logits, up.mask, i, index, here, up.inner))
    total = tl.zeros([i.shape[0], DEPTH], tl.float32)
    for start in range(0, d, DEPTH):
        left = _columns(up.grad_vectors, i, here, start, d, DEPTH, tl.float32)
        total += left * _columns(up.codebook, index, here, start, d, DEPTH, tl.float32)
    return x, tl.where(x == float("-inf"), 0.0, tl.sum(total, 1))


@triton.jit
def _tile(up, i, here, left, j, last, d, DEPTH: tl.constexpr, IS_DEEP: tl.constexpr):
    """The logits at categories j of rows i, and the gradient of the one-hot: 0 where no category can be drawn, whatever
    vector it has.
    """
    within = j < last
    inside = here[:, None] & within[None, :]
    # Before the product, so that they are under way while it is made.
    x = row.load_logits(up.logits, up.mask, i[:, None], j[None, :], inside, up.inner)
    g = _product(up, i, here, left, j.to(tl.int64), within, d, DEPTH, IS_DEEP)
    x = row.accumulated(x)
    return x, tl.where(x == float("-inf"), 0.0, g), inside


@triton.jit
def _stored_sums(partial, i, here, rows, parts, inverse_tau, KNOWN: tl.constexpr, TEMPERED: tl.constexpr):
    """The sums [R, 1] of rows i from those of their parts."""
    ROWS: tl.constexpr = i.shape[0]
    zeros = tl.zeros([ROWS], tl.float32)
    pi_g, p, p_g, largest = zeros, zeros, zeros, zeros
    if TEMPERED:
        largest = tl.full([ROWS], float("-inf"), tl.float32)
        for first in range(0, parts, KNOWN):
            k = first + tl.arange(0, KNOWN)
            at, known = k[:, None] * rows + i[None, :], (k < parts)[:, None] & here[None, :]
            largest = tl.maximum(largest, tl.max(tl.load(partial.largest + at, mask=known, other=float("-inf")), 0))
    for first in range(0, parts, KNOWN):
        k = first + tl.arange(0, KNOWN)
        at, known = k[:, None] * rows + i[None, :], (k < parts)[:, None] & here[None, :]
        pi_g += tl.sum(tl.load(partial.pi_g + at, mask=known, other=0.0), 0)
        if TEMPERED:
            behind = tl.load(partial.largest + at, mask=known, other=float("-inf")) - largest[None, :]
            scale = tl.exp(behind * inverse_tau)
            p += tl.sum(scale * tl.load(partial.p + at, mask=known, other=0.0), 0)
            p_g += tl.sum(scale * tl.load(partial.p_g + at, mask=known, other=0.0), 0)
    return RowSums(pi_g[:, None], largest[:, None], p[:, None], p_g[:, None])


@triton.jit
def _gradient(x, g, is_drawn, g_drawn, log_sum_exp, sums, inverse_tau, TEMPERED: tl.constexpr, GRADIENT: tl.constexpr):
    """Of rows whose sums are known; all that is theirs broadcasts to x."""
    pi = probability(x, log_sum_exp)
    p, p_g = pi, sums.pi_g
    if TEMPERED:
        inverse_sum = 1.0 / sums.p
        p, p_g = tl.exp((x - sums.largest) * inverse_tau) * inverse_sum, sums.p_g * inverse_sum
    return GRADIENT(Point(pi, p, g, 0.0, is_drawn), Sums(g_drawn, sums.pi_g, p_g, 0.0), inverse_tau)


@triton.jit
def codebook_sums_kernel(
    up: Upstream,
    tau_ptr,
    grad_logits_ptr,
    partial: RowSums,
    part_size,
    rows,
    length: row.Multiple,
    width: row.Multiple,
    AWAY_FROM_DRAWN: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    DEPTH: tl.constexpr,
    IS_DEEP: tl.constexpr,
    FACTOR: tl.constexpr,
):
    """The sums over one part of ROWS rows to a program; the gradient there too, where it is known without them. FACTOR:
    the type that matrices are multiplied in.
    """
    categories, d = row.value(length), row.value(width)
    TEMPERED: tl.constexpr = tau_ptr is not None
    i = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    here = i < rows
    first = tl.program_id(1) * part_size
    last = tl.minimum(first + part_size, categories)
    log_sum_exp = tl.load(up.log_sum_exp + i, mask=here, other=0.0)[:, None]
    if AWAY_FROM_DRAWN is not None:
        index = tl.load(up.index + i, mask=here, other=0)
        _, g_drawn = _at_drawn(up, i, here, index, d, DEPTH)
    left = _columns(up.grad_vectors, i, here, 0, d, DEPTH, FACTOR)
    inverse_tau = tl.full((), 1.0, tl.float32)
    if TEMPERED:
        inverse_tau = inverse_of(tl.load(tau_ptr), tl.float32)
    to = grad_logits_ptr + i[:, None] * categories
    zeros = tl.zeros([ROWS], tl.float32)
    pi_g, p, p_g = zeros, zeros, zeros
    largest = tl.full([ROWS], -3.4028234663852886e38, tl.float32)
    for start in range(first, last, BLOCK):
        j = start + tl.arange(0, BLOCK)
        x, g, inside = _tile(up, i, here, left, j, last, d, DEPTH, IS_DEEP)
        pi = probability(x, log_sum_exp)
        pi_g += tl.sum(pi * g, 1)
        if TEMPERED:  # relative to the largest logit so far
            larger = tl.maximum(largest, tl.max(x, 1))
            scale, e = tl.exp((largest - larger) * inverse_tau), tl.exp((x - larger[:, None]) * inverse_tau)
            p, p_g, largest = p * scale + tl.sum(e, 1), p_g * scale + tl.sum(e * g, 1), larger
        if AWAY_FROM_DRAWN is not None:
            gradient = AWAY_FROM_DRAWN(pi, g, g_drawn[:, None])
            tl.store(to + j[None, :], gradient.to(to.dtype.element_ty), mask=inside)
    at = tl.program_id(1).to(tl.int64) * rows + i
    tl.store(partial.pi_g + at, pi_g, mask=here)
    if TEMPERED:
        tl.store(partial.largest + at, largest, mask=here)
        tl.store(partial.p + at, p, mask=here)
        tl.store(partial.p_g + at, p_g, mask=here)


@triton.jit
def codebook_gradient_kernel(
    up: Upstream,
    tau_ptr,
    grad_logits_ptr,
    partial: RowSums,
    parts,
    part_size,
    rows,
    length: row.Multiple,
    width: row.Multiple,
    GRADIENT: tl.constexpr,
    IS_FOR_DRAWN: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    DEPTH: tl.constexpr,
    IS_DEEP: tl.constexpr,
    FACTOR: tl.constexpr,
    KNOWN: tl.constexpr,
):
    """The gradient of one part of ROWS rows to a program, or of the drawn categories alone, from all parts' sums."""
    categories, d = row.value(length), row.value(width)
    TEMPERED: tl.constexpr = tau_ptr is not None
    i = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    here = i < rows
    index = tl.load(up.index + i, mask=here, other=0)[:, None]
    log_sum_exp = tl.load(up.log_sum_exp + i, mask=here, other=0.0)[:, None]
    inverse_tau = tl.full((), 1.0, tl.float32)
    if TEMPERED:
        inverse_tau = inverse_of(tl.load(tau_ptr), tl.float32)
    sums = _stored_sums(partial, i, here, rows, parts, inverse_tau, KNOWN, TEMPERED)
    x_drawn, g_drawn = _at_drawn(up, i, here, tl.reshape(index, [ROWS]), d, DEPTH)
    x_drawn, g_drawn = x_drawn[:, None], g_drawn[:, None]
    to = grad_logits_ptr + i[:, None] * categories
    if IS_FOR_DRAWN:
        gradient = _gradient(
            x_drawn, g_drawn, here[:, None], g_drawn, log_sum_exp, sums, inverse_tau, TEMPERED, GRADIENT
        )
        tl.store(to + index, gradient.to(to.dtype.element_ty), mask=here[:, None])
    else:
        left = _columns(up.grad_vectors, i, here, 0, d, DEPTH, FACTOR)
        first = tl.program_id(1) * part_size
        last = tl.minimum(first + part_size, categories)
        for start in range(first, last, BLOCK):
            j = start + tl.arange(0, BLOCK)
            x, g, inside = _tile(up, i, here, left, j, last, d, DEPTH, IS_DEEP)
            is_drawn = j[None, :] == index
            gradient = _gradient(x, g, is_drawn, g_drawn, log_sum_exp, sums, inverse_tau, TEMPERED, GRADIENT)
            tl.store(to + j[None, :], gradient.to(to.dtype.element_ty), mask=inside)


def _factor_of(codebook: Tensor) -> torch.dtype:
    """The type that tiles are multiplied in: the codebook's own. On its interpreter Triton multiplies bfloat16 as if it
    were integers.
    """
    is_unknown = codebook.dtype == torch.bfloat16 and triton.knobs.runtime.interpret
    return torch.float32 if is_unknown else codebook.dtype


def tile_of(d: int, is_narrow: bool) -> Tile:
    """Less of rows that are read or written narrowly, for which a thread has more addresses to hold."""
    return Tile(32 if is_narrow else 64, 32, min(max(launch.next_power_of_2(d), 16), 64))


def backward_in_tiles(
    estimator: Estimator,
    grad_vectors: Tensor,
    codebook: Tensor,
    logits: Tensor,
    index: Tensor,
    log_sum_exp: Tensor,
    mask: Tensor | None,
    tau: Tensor | None,
) -> Tensor:
    """Of matrices of one half type, and logits that are not float64."""
    grad_logits = torch.empty_like(logits, memory_format=torch.contiguous_format)
    rows, categories, device = index.numel(), logits.shape[-1], logits.device
    if rows == 0:
        return grad_logits
    d = codebook.shape[1]
    inner, operands = row.rows_of(logits.shape, logits, mask)
    state = index.contiguous(), log_sum_exp.contiguous()
    up = Upstream(grad_vectors.contiguous(), codebook.contiguous(), *operands, *state, inner)
    access = min(row.widest_access(each) for each in (up.logits, row.contiguous(grad_logits)))
    tile = tile_of(d, access * logits.element_size() < 16)
    programs = launch.cdiv(rows, tile.rows)
    blocks = launch.cdiv(categories, tile.block)
    per_part = max(launch.blocks_per_part(programs, blocks, _WARPS, device), _LEAST_BLOCKS)
    parts = launch.cdiv(blocks, per_part)
    away = estimator.away_from_drawn if tau is None else None

    def scratch(is_needed: bool) -> Tensor | None:
        return torch.empty((parts, rows), dtype=torch.float32, device=device) if is_needed else None

    partial = RowSums(scratch(True), *(scratch(tau is not None) for _ in range(3)))
    run = functools.partial(
        launch.run,
        resident=launch.TILES,
        ROWS=tile.rows,
        BLOCK=tile.block,
        DEPTH=tile.depth,
        IS_DEEP=d > tile.depth,
        FACTOR=_TRITON[_factor_of(codebook)],
    )
    sizes = per_part * tile.block, rows, row.multiple(categories), row.multiple(d)
    to = tau, grad_logits, partial
    run(codebook_sums_kernel, (programs, parts), _WARPS, device, up, *to, *sizes, AWAY_FROM_DRAWN=away)
    constants = {"GRADIENT": estimator.gradient, "IS_FOR_DRAWN": away is not None, "KNOWN": _KNOWN}
    grid = programs, 1 if away else parts
    run(codebook_gradient_kernel, grid, _WARPS, device, up, *to, parts, *sizes, **constants)
    return grad_logits


_TRITON = {
    torch.float16: tl.float16,
    torch.bfloat16: tl.bfloat16,
    torch.float32: tl.float32,
}

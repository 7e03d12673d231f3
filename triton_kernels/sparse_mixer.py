"""SparseMixer (Liu, Gao, Chen, 2023) and version 2 (Liu et al., GRIN, 2024): a router that draws its experts. A program
holds whole rows, and draws all their experts.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import contract, launch, row
from .sample import _log_sum_exp, _log_sum_exp_double
from .stream import NO_STREAM, Stream, position, stream_of
from .upstream import probability

_NUMBER = tl.constexpr(1 << 56)  # a draw's number is in the highest byte of the offset
_AUXILIARY = tl.constexpr(2)  # the number of the draw that decides the first expert's factor


class Routed(NamedTuple):
    """Where results go, [N, k] each."""

    index: Any
    weight: Any
    log_sum_exp: Any


@triton.jit
def _near_best(x, limit):
    """-inf where (max - x) / max(|x|, max) > limit. 0 / 0 and what is not finite exceed nothing."""
    largest = tl.max(x, 1)[:, None]
    behind, size = largest - x, tl.maximum(tl.abs(x), largest)
    ratio = behind / size if x.dtype == tl.float64 else tl.div_rn(behind, size)  # decides on draws: to the last place
    return tl.where(ratio > limit, float("-inf"), x)


@triton.jit
def _of_drawn(x, is_drawn):
    """x [R, E] at the drawn expert of each row."""
    return tl.sum(tl.where(is_drawn, x, 0.0), 1)


@triton.jit
def sparse_mixer_kernel(
    logits: row.Rows,
    mask: row.Rows,
    stream: Stream,
    out: Routed,
    limit_bits,
    rows,
    length: row.Multiple,
    inner,
    VERSION: tl.constexpr,
    DRAWS: tl.constexpr,
    ONE_SEED: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """ROWS rows to a program, of each of which DRAWS experts are drawn; without a stream the best are chosen."""
    # Of an expert that is not the best: its factor, unless the auxiliary uniform exceeds the cut.
    FACTOR: tl.constexpr = 0.5 if VERSION == 1 else 0.3333
    CUT: tl.constexpr = 1 << 63 if VERSION == 1 else 3 << 62
    i = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    here = i < rows
    j = tl.arange(0, BLOCK)[None, :]
    x = row.accumulated(row.load_logits(logits, mask, i[:, None], j, here[:, None] & (j < row.value(length)), inner))
    limit = row.double(limit_bits).to(x.dtype)
    if stream.seeds is not None:
        seed, number = position(stream, i, here, ONE_SEED)
        offset = stream.offset + tl.zeros_like(i)
    for draw in tl.static_range(DRAWS):
        best = tl.argmax(x, 1, tie_break_left=True)
        near = _near_best(x, limit)
        value = row.draw_value(near)
        largest = contract.largest(value, 1)
        weight = contract.weight(value, largest[:, None])
        total = contract.integer_sum(weight, 1)
        index = best
        if stream.seeds is not None:
            _, uniform = contract.uniforms(seed, number, offset ^ (_NUMBER * draw))
            index = contract.choose(weight, contract.scale_uniform(row.spread(uniform), total))
        index = tl.where(total > 0, index, 0)
        is_drawn = j == index[:, None]
        if x.dtype == tl.float64:
            log_sum_exp = tl.where(total > 0, _log_sum_exp_double(near, 1), float("nan"))
            p = tl.exp(_of_drawn(near, is_drawn) - log_sum_exp)
        else:
            log_sum_exp = _log_sum_exp(row.spread(largest), row.spread(total))
            p = _of_drawn(weight, is_drawn) * (1.0 / total.to(tl.float32))  # 0 * inf is NaN
        if stream.seeds is not None:
            auxiliary, _ = contract.uniforms(seed, number, offset ^ (_NUMBER * (_AUXILIARY + draw)))
            p = tl.where((index == best) | (auxiliary > tl.full((), CUT, tl.uint64)), p, p * FACTOR)
        at = i * DRAWS + draw
        tl.store(out.index + at, index.to(tl.int64), mask=here)
        tl.store(out.weight + at, p.to(out.weight.dtype.element_ty), mask=here)
        tl.store(out.log_sum_exp + at, log_sum_exp, mask=here)
        x = tl.where(is_drawn, float("-inf"), x)


@triton.jit
def sparse_mixer_backward_kernel(
    logits: row.Rows,
    mask: row.Rows,
    grad_weight_ptr,
    index_ptr,
    log_sum_exp_ptr,
    grad_logits_ptr,
    limit_bits,
    scale_bits,
    rows,
    length: row.Multiple,
    inner,
    DRAWS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The sum over the drawn experts D of scale g_D p_D (e_D - p), p the softmax that each was drawn from."""
    experts = row.value(length)
    first = tl.program_id(0).to(tl.int64) * ROWS
    i = first + tl.arange(0, ROWS)
    here = i < rows
    j = tl.arange(0, BLOCK)[None, :]
    inside = here[:, None] & (j < experts)
    x = row.accumulated(row.load_logits(logits, mask, i[:, None], j, inside, inner))
    limit, scale = row.double(limit_bits).to(x.dtype), row.double(scale_bits).to(x.dtype)
    gradient = tl.zeros_like(x)
    for draw in tl.static_range(DRAWS):
        at = i * DRAWS + draw
        is_drawn = j == tl.load(index_ptr + at, mask=here, other=0)[:, None]
        log_sum_exp = tl.load(log_sum_exp_ptr + at, mask=here, other=0.0)
        g = tl.load(grad_weight_ptr + at, mask=here, other=0.0).to(x.dtype)
        p = probability(_near_best(x, limit), log_sum_exp[:, None])
        through = (scale * g * _of_drawn(p, is_drawn))[:, None]
        gradient += tl.where(is_drawn, through, 0.0) - through * p
        x = tl.where(is_drawn, float("-inf"), x)
    at = tl.arange(0, ROWS)[:, None] * experts + j
    tl.store(grad_logits_ptr + first * experts + at, gradient.to(grad_logits_ptr.dtype.element_ty), mask=inside)


def sparse_mixer(
    logits: Tensor,
    seed: Tensor | None,
    mask: Tensor | None,
    offset: int,
    row_offset: int,
    k: int,
    version: int,
    jitter_eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Experts [..., k], their weights [..., k] in the logits' dtype, and the log-sum-exps [..., k], in float64, of the
    logits that each was drawn from. A row without a distribution: index 0, weights and log-sum-exps NaN.
    """
    shape = (*logits.shape[:-1], k)
    index, log_sum_exp = (
        torch.empty(shape, dtype=dtype, device=logits.device) for dtype in (torch.int64, torch.float64)
    )
    weight = torch.empty(shape, dtype=logits.dtype, device=logits.device)
    rows = logits.shape[:-1].numel()
    if rows == 0:
        return index, weight, log_sum_exp
    inner, (logits_rows, mask_rows) = row.rows_of(logits.shape, logits, mask)
    stream, is_one = (NO_STREAM, True) if seed is None else stream_of(seed, rows, offset, row_offset)
    tile = launch.tile_of_experts(logits)
    launch.run(
        sparse_mixer_kernel,
        (launch.cdiv(rows, tile.rows),),
        tile.warps,
        logits.device,
        logits_rows,
        mask_rows,
        stream,
        Routed(index, weight, log_sum_exp),
        row.double_bits(2 * jitter_eps),
        rows,
        row.multiple(logits.shape[-1]),
        inner,
        VERSION=version,
        DRAWS=k,
        ONE_SEED=is_one,
        ROWS=tile.rows,
        BLOCK=tile.block,
    )
    return index, weight, log_sum_exp


def sparse_mixer_backward(
    grad_weight: Tensor,
    logits: Tensor,
    index: Tensor,
    log_sum_exp: Tensor,
    mask: Tensor | None,
    jitter_eps: float,
    scale: float,
) -> Tensor:
    """The gradient [..., E] of the logits; a row without a distribution has NaN."""
    grad_logits = torch.empty_like(logits, memory_format=torch.contiguous_format)
    rows = logits.shape[:-1].numel()
    if rows == 0:
        return grad_logits
    inner, (logits_rows, mask_rows) = row.rows_of(logits.shape, logits, mask)
    tile = launch.tile_of_experts(logits)
    launch.run(
        sparse_mixer_backward_kernel,
        (launch.cdiv(rows, tile.rows),),
        tile.warps,
        logits.device,
        logits_rows,
        mask_rows,
        grad_weight.contiguous(),
        index.contiguous(),
        log_sum_exp.contiguous(),
        grad_logits,
        row.double_bits(2 * jitter_eps),
        row.double_bits(scale),
        rows,
        row.multiple(logits.shape[-1]),
        inner,
        DRAWS=index.shape[-1],
        ROWS=tile.rows,
        BLOCK=tile.block,
    )
    return grad_logits

"""A deterministic router: the k experts of largest logit, weighed by softmax or sigmoid. A program holds whole rows."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import contract, launch, row


@triton.jit
def _sortable(x):
    """Integers in the order of the numbers x, of which 0 and -0 are the same, and NaN is the largest."""
    BITS: tl.constexpr = x.dtype.primitive_bitwidth
    bits = tl.where(x == 0, 0.0, x).to(tl.int64 if BITS == 64 else tl.int32, bitcast=True)
    LARGEST: tl.constexpr = (1 << (BITS - 1)) - 1
    return tl.where(x != x, LARGEST, bits ^ ((bits >> (BITS - 1)) & LARGEST))


@triton.jit
def _weight(x, is_chosen, SIGMOID: tl.constexpr, NORMALIZE: tl.constexpr):
    """The experts' weights [R, E], if they were chosen; of a softmax over the row, those of all. A sigmoid that is
    normalised is seen as exp(x) / (1 + exp(x)) relative to the best one's, which no logit is too small for.
    """
    best = contract.largest(x, 1)[:, None]
    if SIGMOID:
        common = tl.where(best < 0, best, 0.0) if NORMALIZE else 0.0
        weight = tl.exp(tl.minimum(x, 0.0) - common) / (1.0 + tl.exp(-tl.abs(x)))
    else:
        weight = tl.exp(x - best)
    if NORMALIZE:
        weight = weight / tl.sum(tl.where(is_chosen, weight, 0.0), 1)[:, None]
    elif not SIGMOID:
        weight = weight / tl.sum(weight, 1)[:, None]
    return weight


@triton.jit
def topk_router_kernel(
    logits: row.Rows,
    chosen_ptr,
    weight_ptr,
    k,
    rows,
    length: row.Multiple,
    inner,
    SIGMOID: tl.constexpr,
    NORMALIZE: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """ROWS rows to a program: the best expert that is left, so many times; each place is written by the expert's own
    thread.
    """
    i = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    j = tl.arange(0, BLOCK)[None, :]
    inside = (i < rows)[:, None] & (j < row.value(length))
    x = row.accumulated(row.load(logits, i[:, None], j, inside, inner, float("-inf")))
    order = _sortable(x)
    TAKEN: tl.constexpr = -(1 << (order.dtype.primitive_bitwidth - 1))  # below the order of -inf
    order = tl.where(inside, order, TAKEN)
    place = tl.full(x.shape, -1, tl.int32)
    for s in range(k):
        best = tl.max(order, 1)[:, None]
        is_best = j == tl.min(tl.where(order == best, j, BLOCK), 1)[:, None]
        place = tl.where(is_best, s, place)
        order = tl.where(is_best, TAKEN, order)
    is_chosen = place >= 0
    at = i[:, None] * k + place
    tl.store(chosen_ptr + at, j.to(tl.int64), mask=inside & is_chosen)
    weight = _weight(x, is_chosen, SIGMOID, NORMALIZE).to(weight_ptr.dtype.element_ty)
    tl.store(weight_ptr + at, weight, mask=inside & is_chosen)


@triton.jit
def topk_router_backward_kernel(
    logits: row.Rows,
    grad_weight_ptr,
    index_ptr,
    grad_logits_ptr,
    k,
    rows,
    length: row.Multiple,
    inner,
    SIGMOID: tl.constexpr,
    NORMALIZE: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """With weights w, their gradients g and the sum S = <w, g> over the chosen experts: w (g - S) at them where they
    are normalised, else w g, and -p S at all where p is a softmax over the row; by sigmoid(-x) where it is one of
    sigmoids.
    """
    experts = row.value(length)
    first = tl.program_id(0).to(tl.int64) * ROWS
    i = first + tl.arange(0, ROWS)
    here = i < rows
    j = tl.arange(0, BLOCK)[None, :]
    inside = here[:, None] & (j < experts)
    x = row.accumulated(row.load(logits, i[:, None], j, inside, inner, float("-inf")))
    g = tl.zeros_like(x)
    is_chosen = tl.full(x.shape, False, tl.int1)
    for s in range(k):
        is_this = j == tl.load(index_ptr + i * k + s, mask=here, other=0)[:, None]
        arrived = tl.load(grad_weight_ptr + i * k + s, mask=here, other=0.0).to(x.dtype)[:, None]
        g = tl.where(is_this, arrived, g)
        is_chosen = is_chosen | is_this
    weight = _weight(x, is_chosen, SIGMOID, NORMALIZE)
    total = tl.sum(tl.where(is_chosen, weight * g, 0.0), 1)[:, None]
    through = weight * (g - total) if NORMALIZE else weight * g
    if SIGMOID:
        through = through * tl.exp(tl.minimum(-x, 0.0)) / (1.0 + tl.exp(-tl.abs(x)))
    gradient = tl.where(is_chosen, through, 0.0)
    if not SIGMOID and not NORMALIZE:
        gradient -= weight * total
    at = tl.arange(0, ROWS)[:, None] * experts + j
    tl.store(grad_logits_ptr + first * experts + at, gradient.to(grad_logits_ptr.dtype.element_ty), mask=inside)


def topk_router(logits: Tensor, k: int, sigmoid: bool, normalize: bool) -> tuple[Tensor, Tensor]:
    """The k experts of largest logit [..., k], the lower index first among equals, and their weights."""
    shape = (*logits.shape[:-1], k)
    index = torch.empty(shape, dtype=torch.int64, device=logits.device)
    weight = torch.empty(shape, dtype=logits.dtype, device=logits.device)
    _launch(topk_router_kernel, logits, (index, weight), k, sigmoid, normalize)
    return index, weight


def topk_router_backward(grad_weight: Tensor, logits: Tensor, index: Tensor, sigmoid: bool, normalize: bool) -> Tensor:
    """The derivative of the chosen experts' weights."""
    grad_logits = torch.empty_like(logits, memory_format=torch.contiguous_format)
    tensors = grad_weight.contiguous(), index.contiguous(), grad_logits
    _launch(topk_router_backward_kernel, logits, tensors, index.shape[-1], sigmoid, normalize)
    return grad_logits


def _launch(
    kernel: triton.JITFunction,
    logits: Tensor,
    tensors: tuple[Tensor, ...],
    k: int,
    sigmoid: bool,
    normalize: bool,
) -> None:
    rows = logits.shape[:-1].numel()
    if rows == 0:
        return
    inner, (logits_rows,) = row.rows_of(logits.shape, logits)
    tile = launch.tile_of_experts(logits)
    shape = {"SIGMOID": sigmoid, "NORMALIZE": normalize, "ROWS": tile.rows, "BLOCK": tile.block}
    arguments = (logits_rows, *tensors, k, rows, row.multiple(logits.shape[-1]), inner)
    launch.run(kernel, (launch.cdiv(rows, tile.rows),), tile.warps, logits.device, *arguments, **shape)

"""Rows, as kernels read and write them: where they lie, and tiles of them as they are loaded and stored.

Logits, mask and gradients come with any strides; what is written is contiguous. Every offset is 64 bits wide.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor


class Rows(NamedTuple):
    """The rows of a tensor [..., C] that is broadcast to the logits' shape: row i begins at
    (i // inner) outer_stride + (i % inner) inner_stride, where `inner` is the same for all tensors of a kernel. Without
    data there is no such tensor.
    """

    data: Any
    outer_stride: Any
    inner_stride: Any
    category_stride: Any


NO_ROWS = Rows(None, 0, 0, 0)


def rows_of(shape: torch.Size, *tensors: Tensor | None) -> tuple[int, list[Rows]]:
    """`inner`, and the rows of each tensor. Nothing is copied where the leading dimensions of all tensors together step
    as at most two loops do; else the tensors are made contiguous.
    """
    expanded = [None if tensor is None else tensor.expand(shape) for tensor in tensors]
    given = [tensor for tensor in expanded if tensor is not None]
    loops = _loops(given, len(shape) - 1)
    if len(loops) > 2:
        return rows_of(shape, *(None if tensor is None else tensor.contiguous() for tensor in expanded))
    nothing = (1, [0] * len(given))
    if len(loops) < 2:  # the rows need no division
        loops = [nothing, *(loops or [nothing])]
    (inner, inner_strides), (_, outer_strides) = loops
    strides = iter(zip(outer_strides, inner_strides, strict=True))
    return inner, [
        NO_ROWS if tensor is None else Rows(_loadable(tensor), *next(strides), tensor.stride(-1)) for tensor in expanded
    ]


def packed(categories: int, mask: Rows, *rows: Rows) -> int:
    """The number of categories, where rows are to be loaded across their boundaries, else 0: rows that are short, lie
    one after the other without a mask, and don't begin at multiples of 16 bytes anyway.
    """
    lie_packed = all(r.data is None or r[1:] == (categories, 0, 1) for r in rows)
    return categories if lie_packed and mask.data is None and categories <= 64 and categories % 16 else 0


def _loops(tensors: list[Tensor], dims: int) -> list[tuple[int, list[int]]]:
    """The leading dimensions as (size, stride of each tensor), innermost first, those that step evenly merged."""
    loops: list[tuple[int, list[int]]] = []
    for d in reversed(range(dims)):
        size, strides = tensors[0].shape[d], [tensor.stride(d) for tensor in tensors]
        if size == 1:
            continue
        if loops and strides == [loops[-1][0] * stride for stride in loops[-1][1]]:
            loops[-1] = (loops[-1][0] * size, loops[-1][1])
        else:
            loops.append((size, strides))
    return loops


def _loadable(tensor: Tensor) -> Tensor:
    return tensor.view(torch.uint8) if tensor.dtype == torch.bool else tensor


@triton.jit
def row_start(rows, row, inner):
    return (row // inner) * rows.outer_stride + (row % inner) * rows.inner_stride


@triton.jit
def load(rows, row, category, inside, inner, OTHER: tl.constexpr):
    """The elements at `category` of `row`, which broadcast; OTHER where not `inside`."""
    at = row_start(rows, row, inner) + category.to(tl.int64) * rows.category_stride
    return tl.load(rows.data + at, mask=inside, other=OTHER)


@triton.jit
def load_packed(
    data, first, rows, CATEGORIES: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, OTHER: tl.constexpr
):
    """A tile [ROWS, BLOCK] of short rows that lie one after the other, in the precision that is computed in: loaded
    across their boundaries, 16 bytes at a time whatever their length, and then taken apart.
    """
    k = tl.arange(0, ROWS * BLOCK)
    taken = k < ROWS * CATEGORIES
    start = data + first * CATEGORIES
    if first + ROWS <= rows:  # apart, for the compiler can't see that this mask is even along 16 bytes
        lying = tl.load(start + k, mask=taken, other=OTHER)
    else:
        lying = tl.load(start + k, mask=taken & (k < (rows - first) * CATEGORIES), other=OTHER)
    lying = accumulated(lying)
    if CATEGORIES < BLOCK:
        j = k % BLOCK
        taken_apart = tl.gather(lying, k // BLOCK * CATEGORIES + tl.minimum(j, CATEGORIES - 1), 0)
        lying = tl.where(j < CATEGORIES, taken_apart, OTHER)
    return tl.reshape(lying, [ROWS, BLOCK])


@triton.jit
def packed_gradient(gradient, x, first, rows, CATEGORIES: tl.constexpr):
    """`load_gradient` of packed rows."""
    if gradient.data is None:
        result = tl.zeros_like(x)
    else:
        loaded = load_packed(gradient.data, first, rows, CATEGORIES, x.shape[0], x.shape[1], 0.0)
        result = tl.where(x == float("-inf"), 0.0, loaded)
    return result


@triton.jit
def store_packed(data, first, rows, tile, CATEGORIES: tl.constexpr):
    """The reverse: a tile [ROWS, BLOCK] to rows that lie one after the other."""
    ROWS: tl.constexpr = tile.shape[0]
    BLOCK: tl.constexpr = tile.shape[1]
    k = tl.arange(0, ROWS * BLOCK)
    lying = tl.reshape(tile, [ROWS * BLOCK])
    if CATEGORIES < BLOCK:
        lying = tl.gather(lying, tl.minimum(k // CATEGORIES, ROWS - 1) * BLOCK + k % CATEGORIES, 0)
    lying = lying.to(data.dtype.element_ty)
    start = data + first * CATEGORIES
    if first + ROWS <= rows:
        tl.store(start + k, lying, mask=k < ROWS * CATEGORIES)
    else:
        tl.store(start + k, lying, mask=k < (rows - first) * CATEGORIES)


@triton.jit
def load_logits(logits, mask, row, category, inside, inner):
    """The logits, in their dtype; -inf where not `inside` and where the mask forbids."""
    x = load(logits, row, category, inside, inner, float("-inf"))
    if mask.data is not None:
        allowed = load(mask, row, category, inside, inner, 0)
        x = tl.where(allowed != 0, x, float("-inf"))
    return x


@triton.jit
def load_gradient(gradient, x, row, category, inside, inner):
    """A gradient in x's dtype: 0 where there is none, and where the category can't be drawn, whatever arrived there."""
    if gradient.data is None:
        result = tl.zeros_like(x)
    else:
        loaded = load(gradient, row, category, inside, inner, 0.0).to(x.dtype)
        result = tl.where(x == float("-inf"), 0.0, loaded)
    return result


@triton.jit
def draw_value(x):
    """The float32 values that draws are made with; NaN for a finite float64 that float32 can't hold."""
    narrowed = x.to(tl.float32)
    if x.dtype == tl.float64:
        narrowed = tl.where((tl.abs(narrowed) == float("inf")) & (tl.abs(x) != float("inf")), float("nan"), narrowed)
    return narrowed


@triton.jit
def accumulated(x):
    """float64 stays float64; everything else is computed in float32."""
    return x if x.dtype == tl.float64 else x.to(tl.float32)

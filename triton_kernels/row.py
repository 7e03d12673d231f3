"""Rows, as kernels read and write them: where they lie, and tiles of them as they are loaded and stored.

Logits, mask and gradients come with any strides; what is written is contiguous. Every offset is 64 bits wide.
"""

import functools
import math
import struct
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor


class Multiple(NamedTuple):
    """A number as so many times a power of two, which the compiler then knows to divide it: accesses of 16 bytes need
    that. By itself it only tells whether 16 does.
    """

    count: Any
    unit: Any


@functools.lru_cache(maxsize=1024)
def multiple(n: int) -> Multiple:
    unit = n & -n if n % 16 and n < 2**31 else 1
    return Multiple(n // unit, tl.constexpr(unit))


def double_bits(value: float) -> int:
    """For a kernel, which is given a number with a point in single precision otherwise; see `double`."""
    return int(struct.unpack("<q", struct.pack("<d", value))[0])


class Rows(NamedTuple):
    """The rows of a tensor [..., C] that is broadcast to the logits' shape: row i begins at
    (i // inner) outer_stride + (i % inner) inner_stride, where `inner` is the same for all tensors of a kernel. Without
    data there is no such tensor.
    """

    data: Any
    outer_stride: Any
    inner_stride: Any
    category_stride: Any


NO_ROWS = Rows(None, multiple(0), multiple(0), 0)


def rows_of(shape: torch.Size, *tensors: Tensor | None) -> tuple[int, list[Rows]]:
    """`inner`, and the rows of each tensor. Nothing is copied where the leading dimensions of all tensors together step
    as at most two loops do; else the tensors are made contiguous.
    """
    expanded = [tensor if tensor is None or tensor.shape == shape else tensor.expand(shape) for tensor in tensors]
    layout = _layout(shape, tuple([tensor.stride() for tensor in expanded if tensor is not None]))
    if layout is None:
        return rows_of(shape, *(None if tensor is None else tensor.contiguous() for tensor in expanded))
    inner, strides = layout
    of_each = iter(strides)
    return inner, [NO_ROWS if tensor is None else Rows(_loadable(tensor), *next(of_each)) for tensor in expanded]


@functools.lru_cache(maxsize=1024)
def _layout(
    shape: tuple[int, ...], strides: tuple[tuple[int, ...], ...]
) -> tuple[int, list[tuple[Multiple, Multiple, int]]] | None:
    """`inner`, and the strides that `Rows` has, of tensors of one shape, from their strides; None where the leading
    dimensions step as more than two loops do.
    """
    loops = _loops(shape, strides)
    if len(loops) > 2:
        return None
    nothing = (1, [0] * len(strides))
    if len(loops) < 2:  # the rows need no division
        loops = [nothing, *(loops or [nothing])]
    (inner, inner_strides), (_, outer_strides) = loops
    of_category = [stride[-1] for stride in strides]
    return inner, list(zip(map(multiple, outer_strides), map(multiple, inner_strides), of_category, strict=True))


def contiguous(tensor: Tensor) -> Rows:
    """The rows of a contiguous tensor."""
    return Rows(tensor, multiple(tensor.shape[-1]), multiple(0), 1)


def are_packed(categories: int, mask: Rows, *rows: Rows) -> bool:
    """Whether to load rows across their boundaries: they lie one after the other, without a mask, and some are shorter
    than a thread's access. Other lengths would have to be moved between threads, which costs more than narrow accesses.
    """
    if mask.data is not None or categories not in (2, 4, 8):
        return False
    return all(r.data is None or r[1:] == (multiple(categories), multiple(0), 1) for r in rows)


def widest_access(*rows: Rows) -> int:
    """How many elements a thread reads or writes at once, of the rows that allow the most: 16 bytes, or as much as they
    are aligned to.
    """
    return max(_access(r) for r in rows if r.data is not None)


def _access(rows: Rows) -> int:
    if rows.category_stride != 1 or rows.data.data_ptr() % 16:
        return 1
    strides = (stride.count * stride.unit.value for stride in (rows.outer_stride, rows.inner_stride))
    return math.gcd(16 // rows.data.element_size(), *strides)


def _loops(shape: tuple[int, ...], strides: tuple[tuple[int, ...], ...]) -> list[tuple[int, list[int]]]:
    """The leading dimensions as (size, stride of each tensor), innermost first, those that step evenly merged."""
    loops: list[tuple[int, list[int]]] = []
    for d in reversed(range(len(shape) - 1)):
        size, steps = shape[d], [stride[d] for stride in strides]
        if size == 1:
            continue
        if loops and steps == [loops[-1][0] * step for step in loops[-1][1]]:
            loops[-1] = (loops[-1][0] * size, loops[-1][1])
        else:
            loops.append((size, steps))
    return loops


def _loadable(tensor: Tensor) -> Tensor:
    return tensor.view(torch.uint8) if tensor.dtype == torch.bool else tensor


@triton.jit
def row_start(rows, row, inner):
    outer, inner_stride = rows.outer_stride, rows.inner_stride
    return (row // inner) * outer.count * outer.unit + (row % inner) * inner_stride.count * inner_stride.unit


@triton.jit
def load(rows, row, category, inside, inner, OTHER: tl.constexpr):
    """The elements at `category` of `row`, which broadcast; OTHER where not `inside`."""
    at = row_start(rows, row, inner) + category.to(tl.int64) * rows.category_stride
    return tl.load(rows.data + at, mask=inside, other=OTHER)


@triton.jit
def value(number):
    """Of a `Multiple`."""
    return number.count * number.unit


@triton.jit
def double(bits):
    """The number of `double_bits`."""
    return tl.full((), bits, tl.int64).to(tl.float64, bitcast=True)


@triton.jit
def load_packed(data, first, rows, ROWS: tl.constexpr, CATEGORIES: tl.constexpr, OTHER: tl.constexpr):
    """A tile [ROWS, CATEGORIES] of rows that lie one after the other, in the precision that is computed in: 16 bytes at
    a time, however short they are.
    """
    k = tl.arange(0, ROWS * CATEGORIES)
    start = data + first * CATEGORIES
    if first + ROWS <= rows:  # apart, for the compiler can't see that the mask is even along 16 bytes
        lying = tl.load(start + k)
    else:
        lying = tl.load(start + k, mask=k < (rows - first) * CATEGORIES, other=OTHER)
    return tl.reshape(accumulated(lying), [ROWS, CATEGORIES])


@triton.jit
def packed_gradient(gradient, x, first, rows):
    """`load_gradient` of packed rows."""
    if gradient.data is None:
        result = tl.zeros_like(x)
    else:
        result = tl.where(x == float("-inf"), 0.0, load_packed(gradient.data, first, rows, x.shape[0], x.shape[1], 0.0))
    return result


@triton.jit
def store_packed(data, first, rows, tile):
    """The reverse: a tile [ROWS, CATEGORIES] to rows that lie one after the other."""
    CATEGORIES: tl.constexpr = tile.shape[1]
    k = tl.arange(0, tile.shape[0] * CATEGORIES)
    lying = tl.reshape(tile, [tile.shape[0] * CATEGORIES]).to(data.dtype.element_ty)
    start = data + first * CATEGORIES
    if first + tile.shape[0] <= rows:
        tl.store(start + k, lying)
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
def load_once(pointer, LANES: tl.constexpr):
    """A number that one of LANES loads for all of a program's threads, where otherwise each warp would load it."""
    lanes = tl.arange(0, LANES)
    return tl.sum(tl.load(pointer + tl.zeros_like(lanes), mask=lanes == 0, other=0), 0)


@triton.jit
def spread(x):
    """The same values [R], one for each row, computed once instead of by each thread that has a part of the row: the
    compiler moves no computation across a gather.
    """
    if x.shape[0] > 1:
        x = tl.gather(x, tl.arange(0, x.shape[0]), 0)
    return x


@triton.jit
def accumulated(x):
    """float64 stays float64; everything else is computed in float32."""
    return x if x.dtype == tl.float64 else x.to(tl.float32)

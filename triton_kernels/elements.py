"""Elements in flattened order, for kernels that work on each by itself: one access of 16 bytes to a thread, where they
lie one after the other.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import row

WARPS = 4  # of a program
_ACCESS = 16  # bytes


class Elements(NamedTuple):
    """Those of a tensor that is broadcast to the logits' shape. Element i lies where the row i of `Rows` begins; at
    i outer_stride, without a division, if there is no inner stride. Without data there is no such tensor.
    """

    data: Any
    outer_stride: Any
    inner_stride: Any


NO_ELEMENTS = Elements(None, row.multiple(0), None)


def elements_of(shape: torch.Size, *tensors: Tensor | None) -> tuple[int, list[Elements]]:
    """`inner`, and the elements of each tensor. Nothing is copied where two loops reach all."""
    lifted = [None if tensor is None else tensor.unsqueeze(-1) for tensor in tensors]
    inner, rows = row.rows_of(torch.Size((*shape, 1)), *lifted)
    return inner, [_elements(each, inner) for each in rows]


def _elements(rows: row.Rows, inner: int) -> Elements:
    if rows.data is None:
        return NO_ELEMENTS
    if inner == 1:
        return Elements(rows.data, rows.outer_stride, None)
    outer, within = (stride.count * stride.unit.value for stride in (rows.outer_stride, rows.inner_stride))
    if outer == inner * within:  # evenly by itself, though not all tensors do
        return Elements(rows.data, rows.inner_stride, None)
    return Elements(rows.data, rows.outer_stride, rows.inner_stride)


def block(dtype: torch.dtype) -> int:
    """How many elements a program has."""
    return WARPS * 32 * _ACCESS // dtype.itemsize


@triton.jit
def load(elements, first, count, inner, BLOCK: tl.constexpr, OTHER: tl.constexpr):
    """BLOCK elements from the first on, OTHER behind the last of so many."""
    i = first + tl.arange(0, BLOCK)
    if elements.inner_stride is None:
        at = i * elements.outer_stride.count * elements.outer_stride.unit
    else:
        at = row.row_start(elements, i, inner)
    if first + BLOCK <= count:  # apart, for the compiler can't see that the mask is even along 16 bytes
        loaded = tl.load(elements.data + at)
    else:
        loaded = tl.load(elements.data + at, mask=i < count, other=OTHER)
    return loaded


@triton.jit
def load_logits(logits, mask, first, count, inner, BLOCK: tl.constexpr):
    """Logits, in their dtype; -inf behind the last and where the mask forbids."""
    x = load(logits, first, count, inner, BLOCK, float("-inf"))
    if mask.data is not None:
        x = tl.where(load(mask, first, count, inner, BLOCK, 0) != 0, x, float("-inf"))
    return x


@triton.jit
def store(data, first, count, values):
    """To a contiguous tensor, in its dtype."""
    i = first + tl.arange(0, values.shape[0])
    stored = values.to(data.dtype.element_ty)
    if first + values.shape[0] <= count:
        tl.store(data + i, stored)
    else:
        tl.store(data + i, stored, mask=i < count)

"""Backwards of whole rows in registers: read once."""

import triton
import triton.language as tl

from . import row
from .upstream import Point, Sums, Upstream, inverse_of, load, probability, weight


@triton.jit
def backward_tile_kernel(
    up: Upstream,
    tau_ptr,
    setting,
    grad_logits_ptr,
    rows,
    length: row.Multiple,
    GRADIENT: tl.constexpr,
    WEIGHT: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    PACKED: tl.constexpr,
):
    """ROWS whole rows to a program. Where they are PACKED, BLOCK is the number of categories."""
    categories = row.value(length)
    first = tl.program_id(0).to(tl.int64) * ROWS
    i = first + tl.arange(0, ROWS)
    j = tl.arange(0, BLOCK)[None, :]
    here = i < rows
    inside = here[:, None] & (j < categories)
    if PACKED:
        x = row.load_packed(up.logits.data, first, rows, ROWS, BLOCK, float("-inf"))
        g = row.packed_gradient(up.grad_one_hot, x, first, rows)
        h = row.packed_gradient(up.grad_probs, x, first, rows)
    else:
        x, g, h = load(up, i[:, None], j, inside)
    index = tl.load(up.index + i, mask=here, other=0)
    pi = probability(x, tl.load(up.log_sum_exp + i, mask=here, other=0.0)[:, None])
    p = pi
    is_drawn = j == index[:, None]
    inverse_tau = 1.0
    if tau_ptr is not None:
        inverse_tau = inverse_of(tl.load(tau_ptr), x.dtype)
    if tau_ptr is not None or WEIGHT is not None:
        p = weight(x - tl.max(x, 1)[:, None], is_drawn, inverse_tau, setting, WEIGHT)
        p = p * (1.0 / tl.sum(p, 1))[:, None]
    if ROWS == 1:  # the same for all threads, where a sum would go through all of them
        # As a scalar: of a [1, 1], Triton before 3.9 may load as many copies as a thread's access has elements.
        _, g_drawn, _ = load(up, first, tl.max(index, 0), first < rows)
    else:
        g_drawn = tl.sum(tl.where(is_drawn, g, 0.0), 1)[:, None]
    sums = Sums(g_drawn, tl.sum(pi * g, 1)[:, None], tl.sum(p * g, 1)[:, None], tl.sum(pi * h, 1)[:, None])
    gradient = GRADIENT(Point(pi, p, g, h, is_drawn), sums, inverse_tau)
    if PACKED:
        row.store_packed(grad_logits_ptr, first, rows, gradient)
    else:
        at = tl.arange(0, ROWS)[:, None] * categories + j
        tl.store(grad_logits_ptr + first * categories + at, gradient.to(grad_logits_ptr.dtype.element_ty), mask=inside)

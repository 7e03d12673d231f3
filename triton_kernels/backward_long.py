"""Backwards of rows that no program holds. They are read twice, for the sums and to write, unless the estimator knows
its gradient away from the drawn category without them; and before that for their largest logit where an estimator
weighs categories by more than a temperature. Where such rows are few, several programs share each.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import launch, row
from .partial_sums import (
    Partial,
    largest_logit,
    largest_logit_kernel,
    part_of_row,
    store_partial,
    stored_largest,
    stored_sums,
)
from .upstream import Estimator, Point, Sums, Upstream, inverse_of, load, probability, weight

LOOP_WARPS = 4  # of a program


@triton.jit
def _gradient(
    x,
    g,
    h,
    is_drawn,
    part,
    g_drawn,
    log_sum_exp,
    inverse_tau,
    setting,
    TEMPERED: tl.constexpr,
    WEIGHT: tl.constexpr,
    GRADIENT: tl.constexpr,
):
    """The gradient at positions of a row whose sums are known."""
    pi = probability(x, log_sum_exp)
    p = pi
    p_g = part.pi_g
    if TEMPERED:
        inverse_sum = 1.0 / part.p
        p = weight(x - part.largest, is_drawn, inverse_tau, setting, WEIGHT) * inverse_sum
        p_g = part.p_g * inverse_sum
    return GRADIENT(Point(pi, p, g, h, is_drawn), Sums(g_drawn, part.pi_g, p_g, part.pi_h), inverse_tau)


@triton.jit
def backward_long_kernel(
    up: Upstream,
    tau_ptr,
    setting,
    grad_logits_ptr,
    largest_ptr,
    partial: Partial,
    parts,
    part_size,
    length: row.Multiple,
    GRADIENT: tl.constexpr,
    WEIGHT: tl.constexpr,
    AWAY_FROM_DRAWN: tl.constexpr,
    BLOCK: tl.constexpr,
    LANES: tl.constexpr,
    ACCESS: tl.constexpr,
    GROUP: tl.constexpr,
    SUMS: tl.constexpr,
    WRITES: tl.constexpr,
):
    """One row to a program, or a part of it. A row in parts is summed in one launch and written in another, where only
    the drawn category is left to write if the rest was known without the sums.
    """
    categories = row.value(length)
    DTYPE: tl.constexpr = tl.float64 if up.logits.data.dtype.element_ty == tl.float64 else tl.float32
    TEMPERED: tl.constexpr = tau_ptr is not None or WEIGHT is not None
    i = tl.program_id(0).to(tl.int64)
    first = tl.program_id(1) * part_size
    last = tl.minimum(first + part_size, categories)
    index = tl.load(up.index + i)
    log_sum_exp = tl.load(up.log_sum_exp + i)
    x_drawn, g_drawn, h_drawn = load(up, i, index, index >= 0)
    inverse_tau = tl.full((), 1.0, DTYPE)
    if tau_ptr is not None:
        inverse_tau = inverse_of(tl.load(tau_ptr), DTYPE)
    if SUMS:
        row_largest = inverse_tau  # of no part where the estimator has no weights of its own
        if WEIGHT is not None:
            if WRITES:
                row_largest = largest_logit(up.logits, up.mask, up.inner, i, first, last, BLOCK, LANES, ACCESS)
            else:
                row_largest = stored_largest(largest_ptr, i * parts, parts, LANES, GROUP)
        part = part_of_row(
            up,
            grad_logits_ptr,
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
            TEMPERED,
            WEIGHT,
            AWAY_FROM_DRAWN,
            BLOCK,
            LANES,
            ACCESS,
            DTYPE,
        )
        if not WRITES:
            store_partial(partial, i * parts + tl.program_id(1), part, TEMPERED, up.grad_probs.data is not None)
    else:
        WITH_GRAD_PROBS: tl.constexpr = up.grad_probs.data is not None
        part = stored_sums(partial, i * parts, parts, inverse_tau, LANES, GROUP, TEMPERED, WITH_GRAD_PROBS)
    if WRITES:
        out_ptr = grad_logits_ptr + i * categories
        if AWAY_FROM_DRAWN is not None:
            tl.debug_barrier()  # what another thread wrote there, as if it were not the drawn category, comes first
            gradient = _gradient(
                x_drawn,
                g_drawn,
                h_drawn,
                index >= 0,
                part,
                g_drawn,
                log_sum_exp,
                inverse_tau,
                setting,
                TEMPERED,
                WEIGHT,
                GRADIENT,
            )
            tl.store(out_ptr + index, gradient.to(out_ptr.dtype.element_ty))
        else:
            for start in range(first, last, BLOCK):
                j = start + tl.arange(0, BLOCK)
                x, g, h = load(up, i, j, j < last)
                gradient = _gradient(
                    x,
                    g,
                    h,
                    j == index,
                    part,
                    g_drawn,
                    log_sum_exp,
                    inverse_tau,
                    setting,
                    TEMPERED,
                    WEIGHT,
                    GRADIENT,
                )
                tl.store(out_ptr + j, gradient.to(out_ptr.dtype.element_ty), mask=j < last)


def part_size(rows: int, categories: int, elements: int, device: torch.device) -> int:
    """Categories of one part of a row: some blocks, of which a thread has so many elements each; or all."""
    block = LOOP_WARPS * 32 * elements
    return block * launch.blocks_per_part(rows, launch.cdiv(categories, block), LOOP_WARPS, device)


def launch_long(
    estimator: Estimator,
    up: Upstream,
    tau: Tensor | None,
    setting_bits: int | None,
    grad_logits: Tensor,
    away: Any,
    elements: int,
) -> None:
    """`away`: the gradient away from the drawn category, where the estimator knows it without the row's sums."""
    rows, categories, device = up.index.numel(), grad_logits.shape[-1], grad_logits.device
    accumulated = torch.float64 if grad_logits.dtype == torch.float64 else torch.float32
    length = row.multiple(categories)
    size = part_size(rows, categories, elements, device)
    parts = launch.cdiv(categories, size)
    written = [row.contiguous(grad_logits)] if away else []
    access = row.widest_access(up.logits, up.grad_one_hot, up.grad_probs, *written)
    shape = (5, rows, parts) if parts > 1 else (5, 0)
    partial = Partial(*torch.empty(shape, dtype=accumulated, device=device))
    group = launch.cdiv(launch.next_power_of_2(parts), LOOP_WARPS * 32)  # of parts, for each lane
    blocks = {"BLOCK": LOOP_WARPS * 32 * elements, "LANES": LOOP_WARPS * 32, "ACCESS": access}
    largest = None
    if estimator.weight is not None and parts > 1:
        largest = torch.empty((rows, parts), dtype=accumulated, device=device)
        arguments = (up.logits, up.mask, largest, parts, size, length, up.inner)
        launch.run(largest_logit_kernel, (rows, parts), LOOP_WARPS, device, *arguments, **blocks)
    for sums, writes, programs in (
        [(True, True, 1)] if parts == 1 else [(True, False, parts), (False, True, 1 if away else parts)]
    ):
        launch.run(
            backward_long_kernel,
            (rows, programs),
            LOOP_WARPS,
            device,
            up,
            tau,
            setting_bits,
            grad_logits,
            largest,
            partial,
            parts,
            size,
            length,
            GRADIENT=estimator.gradient,
            WEIGHT=estimator.weight,
            AWAY_FROM_DRAWN=away,
            **blocks,
            GROUP=1 if sums and estimator.weight is None else group,
            SUMS=sums,
            WRITES=writes,
        )

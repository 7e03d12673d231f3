"""From an estimator's formula to its kernels. An estimator is a function of one position of a row and of the row's
sums. Rows that fit in registers are read once. Longer ones are read twice, for the sums and to write, unless the
estimator knows its gradient away from the drawn category without them; and before that for their largest logit where an
estimator weighs categories by more than a temperature. Where such rows are few, several programs share each.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import launch, row

_LOOP_WARPS = 4


class Point(NamedTuple):
    """One position of a row: pi = softmax(x) there and p = softmax(x / tau), or what the estimator's weights make of
    it, the gradients of one-hot and probabilities, and whether the category was drawn.
    """

    pi: Any
    p: Any
    g: Any
    h: Any
    is_drawn: Any


class Sums(NamedTuple):
    """Of a row: g at the drawn category, and inner products."""

    g_drawn: Any
    pi_g: Any
    p_g: Any
    pi_h: Any


class Upstream(NamedTuple):
    """What a backward starts from: the gradients, the logits and their mask, and index and log-sum-exp [N]."""

    grad_one_hot: Any
    grad_probs: Any
    logits: Any
    mask: Any
    index: Any
    log_sum_exp: Any
    inner: Any


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
def load(up, i, j, inside):
    """Logits and both gradients, in the precision that is computed in."""
    x = row.accumulated(row.load_logits(up.logits, up.mask, i, j, inside, up.inner))
    g = row.load_gradient(up.grad_one_hot, x, i, j, inside, up.inner)
    return x, g, row.load_gradient(up.grad_probs, x, i, j, inside, up.inner)


@triton.jit
def probability(x, log_sum_exp):
    """exp(x - log_sum_exp) in x's precision, of a float64 log-sum-exp."""
    high = log_sum_exp.to(x.dtype)
    return tl.exp((x - high) - (log_sum_exp - high.to(tl.float64)).to(x.dtype))


@triton.jit
def inverse_of(tau, DTYPE: tl.constexpr):
    """1 / tau, inside the range where 0 times it is 0 and -inf times it is -inf."""
    LEAST: tl.constexpr = 2.2250738585072014e-308 if DTYPE == tl.float64 else 1.1754943508222875e-38
    MOST: tl.constexpr = 1.7976931348623157e308 if DTYPE == tl.float64 else 3.4028234663852886e38
    return tl.minimum(tl.maximum(1.0 / tau, LEAST), MOST).to(DTYPE)


@triton.jit
def _weight(behind, is_drawn, inverse_tau, setting, WEIGHT: tl.constexpr):
    """Of categories in p, before it is divided by its sum, by how far they lie behind the largest logit."""
    return tl.exp(behind * inverse_tau) if WEIGHT is None else WEIGHT(behind, is_drawn, inverse_tau, setting)


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
        p = _weight(x - tl.max(x, 1)[:, None], is_drawn, inverse_tau, setting, WEIGHT)
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
def _largest_logit(logits, mask, inner, i, first, last, BLOCK: tl.constexpr, LANES: tl.constexpr, ACCESS: tl.constexpr):
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
    largest = _largest_logit(logits, mask, inner, i, first, last, BLOCK, LANES, ACCESS)
    tl.store(largest_ptr + i * parts + tl.program_id(1), largest)


@triton.jit
def _part_of_row(
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
def _store_partial(to, at, part, TEMPERED: tl.constexpr, WITH_GRAD_PROBS: tl.constexpr):
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
def _stored_largest(largest_ptr, start, parts, LANES: tl.constexpr, GROUP: tl.constexpr):
    """The row's largest logit from those of its parts."""
    largest = tl.full([LANES], float("-inf"), largest_ptr.dtype.element_ty)
    for member in range(GROUP):
        k = member * LANES + tl.arange(0, LANES)
        largest = tl.maximum(largest, tl.load(largest_ptr + start + k, mask=k < parts, other=float("-inf")))
    return tl.max(largest, 0)


@triton.jit
def _stored_sums(
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
        of_row = _stored_largest(sums.largest, start, parts, LANES, GROUP)
    zeros = tl.zeros([LANES], DTYPE)
    pi_g, pi_h, p, p_g = zeros, zeros, zeros, zeros
    for member in range(GROUP):
        k = member * LANES + tl.arange(0, LANES)
        part = _load_partial(sums, start + k, k < parts, TEMPERED, WITH_GRAD_PROBS)
        part = _relative_to(of_row, part, inverse_tau)
        pi_g, pi_h, p, p_g = pi_g + part.pi_g, pi_h + part.pi_h, p + part.p, p_g + part.p_g
    return _combined(Partial(pi_g, pi_h, of_row, p, p_g), of_row)


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
        p = _weight(x - part.largest, is_drawn, inverse_tau, setting, WEIGHT) * inverse_sum
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
                row_largest = _largest_logit(up.logits, up.mask, up.inner, i, first, last, BLOCK, LANES, ACCESS)
            else:
                row_largest = _stored_largest(largest_ptr, i * parts, parts, LANES, GROUP)
        part = _part_of_row(
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
            _store_partial(partial, i * parts + tl.program_id(1), part, TEMPERED, up.grad_probs.data is not None)
    else:
        WITH_GRAD_PROBS: tl.constexpr = up.grad_probs.data is not None
        part = _stored_sums(partial, i * parts, parts, inverse_tau, LANES, GROUP, TEMPERED, WITH_GRAD_PROBS)
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


class Estimator(NamedTuple):
    """`gradient(point, sums, inverse_tau)`; at tau = 1 and without a gradient of the probabilities,
    `away_from_drawn(pi, g, g_drawn)`, where a formula needs no sum there; and `weight(behind, is_drawn, inverse_tau,
    setting)`, where p is made of other weights than exp(behind / tau), of how far a logit lies behind the largest.
    """

    gradient: Any
    away_from_drawn: Any = None
    weight: Any = None


def backward(
    estimator: Estimator,
    grad_one_hot: Tensor | None,
    grad_probs: Tensor | None,
    logits: Tensor,
    index: Tensor,
    log_sum_exp: Tensor,
    mask: Tensor | None,
    tau: Tensor | None,
    setting: float | None = None,
) -> Tensor:
    """The gradient [..., C] of the logits by one estimator; a row without a distribution has NaN."""
    grad_logits = torch.empty_like(logits, memory_format=torch.contiguous_format)
    rows, categories, device = index.numel(), logits.shape[-1], logits.device
    if rows == 0:
        return grad_logits
    inner, operands = row.rows_of(logits.shape, grad_one_hot, grad_probs, logits, mask)
    up = Upstream(*operands, index.contiguous(), log_sum_exp.contiguous(), inner)
    length = row.multiple(categories)
    accumulated = torch.float64 if logits.dtype == torch.float64 else torch.float32
    setting_bits = None if setting is None else row.double_bits(setting)
    elements = launch.elements_per_thread("backward", categories, logits.dtype)
    tile = launch.tile(categories, elements)
    if tile is not None:
        packed = row.are_packed(categories, up.mask, up.logits, up.grad_one_hot, up.grad_probs)
        launch.run(
            backward_tile_kernel,
            (launch.cdiv(rows, tile.rows),),
            tile.warps,
            device,
            up,
            tau,
            setting_bits,
            grad_logits,
            rows,
            length,
            GRADIENT=estimator.gradient,
            WEIGHT=estimator.weight,
            ROWS=tile.rows,
            BLOCK=tile.block,
            PACKED=packed,
        )
        return grad_logits
    away = estimator.away_from_drawn if tau is None and grad_probs is None else None
    block = _LOOP_WARPS * 32 * elements
    part_size = block * launch.blocks_per_part(rows, launch.cdiv(categories, block), _LOOP_WARPS, device)
    parts = launch.cdiv(categories, part_size)
    written = [row.contiguous(grad_logits)] if away else []
    access = row.widest_access(up.logits, up.grad_one_hot, up.grad_probs, *written)
    shape = (5, rows, parts) if parts > 1 else (5, 0)
    partial = Partial(*torch.empty(shape, dtype=accumulated, device=device))
    group = launch.cdiv(launch.next_power_of_2(parts), _LOOP_WARPS * 32)  # of parts, for each lane
    blocks = {"BLOCK": block, "LANES": _LOOP_WARPS * 32, "ACCESS": access}
    largest = None
    if estimator.weight is not None and parts > 1:
        largest = torch.empty((rows, parts), dtype=accumulated, device=device)
        arguments = (up.logits, up.mask, largest, parts, part_size, length, inner)
        launch.run(largest_logit_kernel, (rows, parts), _LOOP_WARPS, device, *arguments, **blocks)
    for sums, writes, programs in (
        [(True, True, 1)] if parts == 1 else [(True, False, parts), (False, True, 1 if away else parts)]
    ):
        launch.run(
            backward_long_kernel,
            (rows, programs),
            _LOOP_WARPS,
            device,
            up,
            tau,
            setting_bits,
            grad_logits,
            largest,
            partial,
            parts,
            part_size,
            length,
            GRADIENT=estimator.gradient,
            WEIGHT=estimator.weight,
            AWAY_FROM_DRAWN=away,
            **blocks,
            GROUP=1 if sums and estimator.weight is None else group,
            SUMS=sums,
            WRITES=writes,
        )
    return grad_logits

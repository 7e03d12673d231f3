"""Gumbel-Rao of rows that no program holds: noise is made once for the sums of weights, and once more to write.
Sums of parts are added up between these launches: in each program, they would take registers from what it holds.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import launch, noise, row
from .gumbel_weights import base_of_logits, log_uniform_of, relative_weight
from .stream import Stream
from .upstream import Upstream, inverse_of, load, probability

WARPS = 4  # of a program
_MOST_SAMPLES = 1024  # whose sums are kept of a row


@triton.jit
def _block(first, QUADS: tl.constexpr):
    """Categories [QUADS, 4] from the first on, and the numbers of their quads [QUADS]."""
    quads = tl.arange(0, QUADS)
    return first + quads[:, None] * 4 + tl.arange(0, 4)[None, :], (first // 4 + quads).to(tl.uint32)


@triton.jit
def gumbel_rao_sums_kernel(
    up: Upstream,
    tau_ptr,
    of_parts_ptr,
    stream: Stream,
    first_sample,
    samples,
    parts,
    part_size,
    length: row.Multiple,
    ONE_SEED: tl.constexpr,
    QUADS: tl.constexpr,
):
    """The sums of one part of a row in [N, parts, 3 K + 1]: for each of K samples from the first on those of weights
    and of their products with g, and log u of the drawn category from the part that has it; behind them <pi, h>, where
    there is h.
    """
    DTYPE: tl.constexpr = tl.float64 if up.logits.data.dtype.element_ty == tl.float64 else tl.float32
    i = tl.program_id(0).to(tl.int64)
    first = tl.program_id(1) * part_size
    last = tl.minimum(first + part_size, row.value(length))
    index = tl.load(up.index + i).to(tl.int32)
    log_sum_exp = tl.load(up.log_sum_exp + i)
    inverse_tau = tl.full((), 1.0, DTYPE)
    if tau_ptr is not None:
        inverse_tau = inverse_of(tl.load(tau_ptr), DTYPE)
    source = noise.source(stream, i, i >= 0, ONE_SEED)
    of_part = of_parts_ptr + (i * parts + tl.program_id(1)) * (3 * samples + 1)
    for k in range(samples):
        sample = tl.cast(first_sample + k, tl.uint32)
        log_u_drawn = log_uniform_of(index, sample, source, DTYPE)
        weight_sum = tl.zeros([QUADS], DTYPE)
        product = tl.zeros([QUADS], DTYPE)
        for start in range(first, last, 4 * QUADS):
            j, quads = _block(start, QUADS)
            x, g, _ = load(up, i, j, j < last)
            base = base_of_logits(x, log_sum_exp, tau_ptr is not None)
            log_u = tl.reshape(noise.log_uniforms(quads, sample, source, DTYPE), [QUADS, 4])
            is_drawn = (j == index) & (j < last)
            weight = relative_weight(log_u, log_u_drawn, base, is_drawn, inverse_tau, tau_ptr is not None)
            weight_sum += tl.sum(weight, 1)
            product += tl.sum(weight * g, 1)
        tl.store(of_part + 3 * k, tl.sum(weight_sum, 0))
        tl.store(of_part + 3 * k + 1, tl.sum(product, 0))
        tl.store(of_part + 3 * k + 2, tl.where((first <= index) & (index < last), log_u_drawn, 0.0))
    if up.grad_probs.data is not None:
        pi_h = tl.zeros([QUADS], DTYPE)
        for start in range(first, last, 4 * QUADS):
            j, _ = _block(start, QUADS)
            x, _, h = load(up, i, j, j < last)
            pi_h += tl.sum(probability(x, log_sum_exp) * h, 1)
        tl.store(of_part + 3 * samples, tl.sum(pi_h, 0))


@triton.jit
def gumbel_rao_long_kernel(
    up: Upstream,
    tau_ptr,
    grad_logits_ptr,
    total_ptr,
    of_rows_ptr,
    stream: Stream,
    first_sample,
    samples,
    all_samples,
    part_size,
    length: row.Multiple,
    ONE_SEED: tl.constexpr,
    QUADS: tl.constexpr,
    BEGINS: tl.constexpr,
    ENDS: tl.constexpr,
):
    """What so many samples from the first on, whose sums [N, 3 K + 1] of whole rows are known, give one part of a row:
    added to what came before them, and the gradient where none comes after.
    """
    DTYPE: tl.constexpr = tl.float64 if up.logits.data.dtype.element_ty == tl.float64 else tl.float32
    categories = row.value(length)
    i = tl.program_id(0).to(tl.int64)
    first = tl.program_id(1) * part_size
    last = tl.minimum(first + part_size, categories)
    index = tl.load(up.index + i).to(tl.int32)
    log_sum_exp = tl.load(up.log_sum_exp + i)
    inverse_tau = tl.full((), 1.0, DTYPE)
    if tau_ptr is not None:
        inverse_tau = inverse_of(tl.load(tau_ptr), DTYPE)
    share = inverse_tau / tl.cast(all_samples, DTYPE)
    source = noise.source(stream, i, i >= 0, ONE_SEED)
    of_row = of_rows_ptr + i * (3 * samples + 1)
    centre_of_probs = tl.full((), 0.0, DTYPE)
    if up.grad_probs.data is not None:
        centre_of_probs = tl.load(of_row + 3 * samples)
    for start in range(first, last, 4 * QUADS):
        j, quads = _block(start, QUADS)
        inside = j < last
        x, g, h = load(up, i, j, inside)
        base = base_of_logits(x, log_sum_exp, tau_ptr is not None)
        if BEGINS:
            total = probability(x, log_sum_exp) * (h - centre_of_probs)
        else:
            total = tl.load(total_ptr + i * categories + j, mask=inside, other=0.0)
        for k in range(samples):
            scale = 1.0 / tl.load(of_row + 3 * k)
            centre = tl.load(of_row + 3 * k + 1) * scale
            sample = tl.cast(first_sample + k, tl.uint32)
            log_u = tl.reshape(noise.log_uniforms(quads, sample, source, DTYPE), [QUADS, 4])
            log_u_drawn = tl.load(of_row + 3 * k + 2)
            weight = relative_weight(log_u, log_u_drawn, base, j == index, inverse_tau, tau_ptr is not None)
            total += weight * (scale * share) * (g - centre)
        if ENDS:
            tl.store(grad_logits_ptr + i * categories + j, total.to(grad_logits_ptr.dtype.element_ty), mask=inside)
        else:
            tl.store(total_ptr + i * categories + j, total, mask=inside)


def launch_long(
    up: Upstream,
    tau: Tensor | None,
    grad_logits: Tensor,
    stream: Stream,
    num_samples: int,
    elements: int,
    is_one: bool,
    resident: float,
) -> None:
    rows, categories, device = up.index.numel(), grad_logits.shape[-1], grad_logits.device
    accumulated = torch.float64 if grad_logits.dtype == torch.float64 else torch.float32
    block = WARPS * 32 * elements
    part_size = block * launch.blocks_per_part(rows, launch.cdiv(categories, block), WARPS, device)
    parts = launch.cdiv(categories, part_size)
    at_once = min(num_samples, _MOST_SAMPLES)
    total = None
    if num_samples > at_once:
        total = torch.empty((rows, categories), dtype=accumulated, device=device)
    shape = {"ONE_SEED": is_one, "QUADS": block // 4, "resident": resident}
    for first in range(0, num_samples, at_once):
        samples = min(at_once, num_samples - first)
        of_parts = torch.empty((rows, parts, 3 * samples + 1), dtype=accumulated, device=device)
        place = (part_size, row.multiple(categories))
        arguments = (up, tau, of_parts, stream, first, samples, parts, *place)
        launch.run(gumbel_rao_sums_kernel, (rows, parts), WARPS, device, *arguments, **shape)
        ends = {"BEGINS": first == 0, "ENDS": first + samples == num_samples}
        of_rows = of_parts[:, 0] if parts == 1 else of_parts.sum(1)  # once, and not by each program
        arguments = (up, tau, grad_logits, total, of_rows, stream, first, samples, num_samples, *place)
        launch.run(gumbel_rao_long_kernel, (rows, parts), WARPS, device, *arguments, **shape, **ends)

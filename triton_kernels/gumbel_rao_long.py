"""Gumbel-Rao of rows that no program holds: noise is made once for the sums of weights, and once more to write."""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import launch, noise, row
from .gumbel_weights import base_and_factor_of_logits, log_uniform_of, relative_weight
from .stream import Stream
from .upstream import Upstream, inverse_of, load, probability

WARPS = 4  # of a program
_MOST_SAMPLES = 1024  # whose sums are kept of a row


class Sums(NamedTuple):
    """Of parts of rows: [N, parts, K] sums of weights and of their products with g, and [N, parts] of <pi, h>."""

    weight: Any
    product: Any
    pi_h: Any


@triton.jit
def _block(first, QUADS: tl.constexpr):
    """Categories [QUADS, 4] from the first on, and the numbers of their quads [QUADS]."""
    quads = tl.arange(0, QUADS)
    return first + quads[:, None] * 4 + tl.arange(0, 4)[None, :], (first // 4 + quads).to(tl.uint32)


@triton.jit
def gumbel_rao_sums_kernel(
    up: Upstream,
    tau_ptr,
    sums: Sums,
    stream: Stream,
    first_sample,
    samples,
    parts,
    part_size,
    length: row.Multiple,
    ONE_SEED: tl.constexpr,
    QUADS: tl.constexpr,
):
    """The sums of one part of a row, for so many samples from the first on."""
    DTYPE: tl.constexpr = tl.float64 if up.logits.data.dtype.element_ty == tl.float64 else tl.float32
    i = tl.program_id(0).to(tl.int64)
    first = tl.program_id(1) * part_size
    last = tl.minimum(first + part_size, row.value(length))
    index = tl.load(up.index + i)
    log_sum_exp = tl.load(up.log_sum_exp + i)
    inverse_tau = tl.full((), 1.0, DTYPE)
    if tau_ptr is not None:
        inverse_tau = inverse_of(tl.load(tau_ptr), DTYPE)
    source = noise.source(stream, i, i >= 0, ONE_SEED)
    at = i * parts + tl.program_id(1)
    for k in range(samples):
        sample = tl.cast(first_sample + k, tl.uint32)
        log_u_drawn = log_uniform_of(index, sample, source, DTYPE)
        weight_sum = tl.zeros([QUADS], DTYPE)
        product = tl.zeros([QUADS], DTYPE)
        for start in range(first, last, 4 * QUADS):
            j, quads = _block(start, QUADS)
            x, g, _ = load(up, i, j, j < last)
            base, factor = base_and_factor_of_logits(x, log_sum_exp, inverse_tau, tau_ptr is not None)
            log_u = tl.reshape(noise.log_uniforms(quads, sample, source, DTYPE), [QUADS, 4])
            is_drawn = (j == index) & (j < last)
            weight = relative_weight(log_u, log_u_drawn, base, factor, is_drawn, inverse_tau, tau_ptr is not None)
            weight_sum += tl.sum(weight, 1)
            product += tl.sum(weight * g, 1)
        tl.store(sums.weight + at * samples + k, tl.sum(weight_sum, 0))
        tl.store(sums.product + at * samples + k, tl.sum(product, 0))
    if up.grad_probs.data is not None:
        pi_h = tl.zeros([QUADS], DTYPE)
        for start in range(first, last, 4 * QUADS):
            j, _ = _block(start, QUADS)
            x, _, h = load(up, i, j, j < last)
            pi_h += tl.sum(probability(x, log_sum_exp) * h, 1)
        tl.store(sums.pi_h + at, tl.sum(pi_h, 0))


@triton.jit
def _sum_of_parts(of_part, start, stride, parts, LANES: tl.constexpr, GROUP: tl.constexpr):
    """Over a row's parts. Of its GROUP parts, a lane holds one at a time."""
    total = tl.zeros([LANES], of_part.dtype.element_ty)
    for member in range(GROUP):
        part = member * LANES + tl.arange(0, LANES)
        total += tl.load(of_part + (start + part) * stride, mask=part < parts, other=0.0)
    return tl.sum(total, 0)


@triton.jit
def gumbel_rao_long_kernel(
    up: Upstream,
    tau_ptr,
    grad_logits_ptr,
    total_ptr,
    sums: Sums,
    stream: Stream,
    first_sample,
    samples,
    all_samples,
    parts,
    part_size,
    length: row.Multiple,
    ONE_SEED: tl.constexpr,
    QUADS: tl.constexpr,
    LANES: tl.constexpr,
    GROUP: tl.constexpr,
    BEGINS: tl.constexpr,
    ENDS: tl.constexpr,
):
    """What so many samples from the first on, whose sums are known, give one part of a row: added to what came before
    them, and the gradient where none comes after.
    """
    DTYPE: tl.constexpr = tl.float64 if up.logits.data.dtype.element_ty == tl.float64 else tl.float32
    categories = row.value(length)
    i = tl.program_id(0).to(tl.int64)
    first = tl.program_id(1) * part_size
    last = tl.minimum(first + part_size, categories)
    index = tl.load(up.index + i)
    log_sum_exp = tl.load(up.log_sum_exp + i)
    inverse_tau = tl.full((), 1.0, DTYPE)
    if tau_ptr is not None:
        inverse_tau = inverse_of(tl.load(tau_ptr), DTYPE)
    share = inverse_tau / tl.cast(all_samples, DTYPE)
    source = noise.source(stream, i, i >= 0, ONE_SEED)
    centre_of_probs = tl.full((), 0.0, DTYPE)
    if up.grad_probs.data is not None:
        centre_of_probs = _sum_of_parts(sums.pi_h, i * parts, 1, parts, LANES, GROUP)
    for start in range(first, last, 4 * QUADS):
        j, quads = _block(start, QUADS)
        inside = j < last
        x, g, h = load(up, i, j, inside)
        base, factor = base_and_factor_of_logits(x, log_sum_exp, inverse_tau, tau_ptr is not None)
        if BEGINS:
            total = probability(x, log_sum_exp) * (h - centre_of_probs)
        else:
            total = tl.load(total_ptr + i * categories + j, mask=inside, other=0.0)
        for k in range(samples):
            scale = 1.0 / _sum_of_parts(sums.weight + k, i * parts, samples, parts, LANES, GROUP)
            centre = _sum_of_parts(sums.product + k, i * parts, samples, parts, LANES, GROUP) * scale
            sample = tl.cast(first_sample + k, tl.uint32)
            log_u = tl.reshape(noise.log_uniforms(quads, sample, source, DTYPE), [QUADS, 4])
            log_u_drawn = log_uniform_of(index, sample, source, DTYPE)
            weight = relative_weight(log_u, log_u_drawn, base, factor, j == index, inverse_tau, tau_ptr is not None)
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
    sums = Sums(
        *torch.empty((2, rows, parts, at_once), dtype=accumulated, device=device),
        torch.empty((rows, parts), dtype=accumulated, device=device),
    )
    total = None
    if num_samples > at_once:
        total = torch.empty((rows, categories), dtype=accumulated, device=device)
    shape = {"ONE_SEED": is_one, "QUADS": block // 4, "resident": resident}
    lanes = {"LANES": 32 * WARPS, "GROUP": launch.cdiv(launch.next_power_of_2(parts), 32 * WARPS)}
    for first in range(0, num_samples, at_once):
        samples = min(at_once, num_samples - first)
        place = (parts, part_size, row.multiple(categories))
        arguments = (up, tau, sums, stream, first, samples, *place)
        launch.run(gumbel_rao_sums_kernel, (rows, parts), WARPS, device, *arguments, **shape)
        ends = {"BEGINS": first == 0, "ENDS": first + samples == num_samples, **lanes}
        arguments = (up, tau, grad_logits, total, sums, stream, first, samples, num_samples, *place)
        launch.run(gumbel_rao_long_kernel, (rows, parts), WARPS, device, *arguments, **shape, **ends)

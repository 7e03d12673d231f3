"""Gumbel-Rao by Monte Carlo (Paulus et al., ICLR 2021): straight-through Gumbel-Softmax averaged over Gumbel noise that
is drawn given the sample. With one sample of noise it is straight-through Gumbel-Softmax itself (Jang et al., 2017).

The mean over samples k of J(s_k) g / tau, and J(pi) h. s_k = softmax(G_k / tau), where G_k are Gumbel-perturbed logits
given the draw D: with exponential variates E, G_D - G_j = log(1 + E_j / (E_D pi_j)), and so the weight of j beside that
of D is a power of 1 + E_j / (E_D pi_j). Noise is made where it is needed: once for a row that a program holds, twice
for a longer one, for the sums of its weights and to write.
"""

import math
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import launch, noise, row
from .backward import Upstream, inverse_of, load, probability
from .stream import Stream, stream_of

# Probabilities below e**-60 count as that, for their ratios to have no overflow, and a factor makes up for it: of so
# large a ratio the 1 has no part.
_LEAST_LOG_PROBABILITY = tl.constexpr(-60.0)
_LEAST_PROBABILITY = tl.constexpr(math.exp(-60))

_WARPS = 4  # of a program that shares a row, or has rows of two categories
_MOST_CALLS = 32  # of Philox, that threads make for a row of two categories at once
_MOST_SAMPLES = 1024  # whose sums are kept of a long row


class Sums(NamedTuple):
    """Of parts of rows: [N, parts, K] sums of weights and of their products with g, and [N, parts] of <pi, h>."""

    weight: Any
    product: Any
    pi_h: Any


@triton.jit
def base_and_factor(probability, log_probability, inverse_tau, TEMPERED: tl.constexpr):
    """What the weights of categories are made of: their probabilities, and a factor where there is a temperature."""
    base, factor = probability, probability
    if TEMPERED:
        base = tl.maximum(probability, _LEAST_PROBABILITY)
        factor = tl.exp(tl.minimum(log_probability - _LEAST_LOG_PROBABILITY, 0.0) * inverse_tau)
    return base, factor


@triton.jit
def _base_and_factor(x, log_sum_exp, inverse_tau, TEMPERED: tl.constexpr):
    return base_and_factor(probability(x, log_sum_exp), x - log_sum_exp.to(x.dtype), inverse_tau, TEMPERED)


@triton.jit
def _power(ratio, inverse_tau):
    return tl.exp(-noise.log_1p(ratio) * inverse_tau)


@triton.jit
def _weight(log_u, log_u_drawn, base, factor, is_drawn, inverse_tau, TEMPERED: tl.constexpr):
    scaled = base * log_u_drawn
    weight = _power(log_u / scaled, inverse_tau) * factor if TEMPERED else scaled / (scaled + log_u)
    return tl.where(is_drawn, 1.0, weight)


@triton.jit
def slope_of_two(base, factor, u, inverse_tau, TEMPERED: tl.constexpr):
    """s_D s_j of two categories, from a uniform; base and factor are those of j, the one that was not drawn."""
    if TEMPERED:
        weight = _power(u / ((1.0 - u) * base), inverse_tau) * factor
        slope = weight / ((weight + 1.0) * (weight + 1.0))
    else:  # a (a + u) / (2 a + u)**2, with a = pi_j (1 - u)
        a = base * (1.0 - u)
        b = a + u
        slope = a * b / ((a + b) * (a + b))
    return slope


@triton.jit
def _log_uniform_of(category, sample, source, DTYPE: tl.constexpr):
    """Of one category of one row."""
    u0, u1, u2, u3 = noise.uniforms((category // 4).to(tl.uint32), sample, source, DTYPE)
    word = category % 4
    return noise.log(tl.where(word < 2, tl.where(word == 0, u0, u1), tl.where(word == 2, u2, u3)))


@triton.jit
def gumbel_rao_tile_kernel(
    up: Upstream,
    tau_ptr,
    grad_logits_ptr,
    stream: Stream,
    samples,
    rows,
    length: row.Multiple,
    ONE_SEED: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """ROWS whole rows to a program."""
    categories = row.value(length)
    first = tl.program_id(0).to(tl.int64) * ROWS
    i = first + tl.arange(0, ROWS)
    j = tl.arange(0, BLOCK)[None, :]
    here = i < rows
    inside = here[:, None] & (j < categories)
    x, g, h = load(up, i[:, None], j, inside)
    index = tl.load(up.index + i, mask=here, other=0)
    log_sum_exp = tl.load(up.log_sum_exp + i, mask=here, other=0.0)[:, None]
    is_drawn = j == index[:, None]
    inverse_tau = tl.full((), 1.0, x.dtype)
    if tau_ptr is not None:
        inverse_tau = inverse_of(tl.load(tau_ptr), x.dtype)
    base, factor = _base_and_factor(x, log_sum_exp, inverse_tau, tau_ptr is not None)
    source = noise.source(stream, i[:, None], here[:, None], ONE_SEED)
    quads = tl.arange(0, BLOCK // 4).to(tl.uint32)[None, :]
    pi = probability(x, log_sum_exp)
    total = pi * (h - tl.sum(pi * h, 1)[:, None])
    share = inverse_tau / tl.cast(samples, x.dtype)
    for k in range(samples):
        sample = tl.cast(k, tl.uint32)
        log_u = tl.reshape(noise.log_uniforms(quads, sample, source, x.dtype), [ROWS, BLOCK])
        if ROWS == 1:  # made once more, where a sum would go through all threads
            log_u_drawn = _log_uniform_of(index[:, None], sample, source, x.dtype)
        else:
            log_u_drawn = tl.sum(tl.where(is_drawn, log_u, 0.0), 1)[:, None]
        weight = _weight(log_u, log_u_drawn, base, factor, is_drawn, inverse_tau, tau_ptr is not None)
        scale = (1.0 / tl.sum(weight, 1))[:, None]
        total += weight * (scale * share) * (g - tl.sum(weight * g, 1)[:, None] * scale)
    at = tl.arange(0, ROWS)[:, None] * categories + j
    tl.store(grad_logits_ptr + first * categories + at, total.to(grad_logits_ptr.dtype.element_ty), mask=inside)


@triton.jit
def gumbel_rao_of_two_kernel(
    up: Upstream,
    tau_ptr,
    grad_logits_ptr,
    stream: Stream,
    samples,
    rows,
    ONE_SEED: tl.constexpr,
    ROWS: tl.constexpr,
    CALLS: tl.constexpr,
):
    """ROWS rows of two categories to a program, which need one variate a sample, u / (1 - u) in place of E_j / E_D, and
    s_D s_j alone.
    """
    i = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    here = i < rows
    drawn = tl.load(up.index + i, mask=here, other=0)
    other = 1 - drawn
    log_sum_exp = tl.load(up.log_sum_exp + i, mask=here, other=0.0)
    x_drawn, g_drawn, h_drawn = load(up, i, drawn, here)
    x, g, h = load(up, i, other, here)
    inverse_tau = tl.full((), 1.0, x.dtype)
    if tau_ptr is not None:
        inverse_tau = inverse_of(tl.load(tau_ptr), x.dtype)
    base, factor = _base_and_factor(x, log_sum_exp, inverse_tau, tau_ptr is not None)
    source = noise.source(stream, i[:, None], here[:, None], ONE_SEED)
    total = tl.zeros([ROWS, CALLS], x.dtype)
    for start in range(0, samples, 4 * CALLS):
        calls = start // 4 + tl.arange(0, CALLS)[None, :]
        us = noise.uniforms(tl.zeros([ROWS, CALLS], tl.uint32), calls.to(tl.uint32), source, x.dtype)
        for word in tl.static_range(4):
            slope = slope_of_two(base[:, None], factor[:, None], us[word], inverse_tau, tau_ptr is not None)
            total += tl.where(4 * calls + word < samples, slope, 0.0)
    through_sample = tl.sum(total, 1) * (g - g_drawn) * (inverse_tau / tl.cast(samples, x.dtype))
    through_probs = probability(x, log_sum_exp) * probability(x_drawn, log_sum_exp) * (h - h_drawn)
    gradient = through_sample + through_probs
    out = grad_logits_ptr + 2 * i
    tl.store(out + other, gradient.to(grad_logits_ptr.dtype.element_ty), mask=here)
    tl.store(out + drawn, (-gradient).to(grad_logits_ptr.dtype.element_ty), mask=here)


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
        log_u_drawn = _log_uniform_of(index, sample, source, DTYPE)
        weight_sum = tl.zeros([QUADS], DTYPE)
        product = tl.zeros([QUADS], DTYPE)
        for start in range(first, last, 4 * QUADS):
            j, quads = _block(start, QUADS)
            x, g, _ = load(up, i, j, j < last)
            base, factor = _base_and_factor(x, log_sum_exp, inverse_tau, tau_ptr is not None)
            log_u = tl.reshape(noise.log_uniforms(quads, sample, source, DTYPE), [QUADS, 4])
            is_drawn = (j == index) & (j < last)
            weight = _weight(log_u, log_u_drawn, base, factor, is_drawn, inverse_tau, tau_ptr is not None)
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
        base, factor = _base_and_factor(x, log_sum_exp, inverse_tau, tau_ptr is not None)
        if BEGINS:
            total = probability(x, log_sum_exp) * (h - centre_of_probs)
        else:
            total = tl.load(total_ptr + i * categories + j, mask=inside, other=0.0)
        for k in range(samples):
            scale = 1.0 / _sum_of_parts(sums.weight + k, i * parts, samples, parts, LANES, GROUP)
            centre = _sum_of_parts(sums.product + k, i * parts, samples, parts, LANES, GROUP) * scale
            sample = tl.cast(first_sample + k, tl.uint32)
            log_u = tl.reshape(noise.log_uniforms(quads, sample, source, DTYPE), [QUADS, 4])
            log_u_drawn = _log_uniform_of(index, sample, source, DTYPE)
            weight = _weight(log_u, log_u_drawn, base, factor, j == index, inverse_tau, tau_ptr is not None)
            total += weight * (scale * share) * (g - centre)
        if ENDS:
            tl.store(grad_logits_ptr + i * categories + j, total.to(grad_logits_ptr.dtype.element_ty), mask=inside)
        else:
            tl.store(total_ptr + i * categories + j, total, mask=inside)


def gumbel_rao_backward(
    grad_one_hot: Tensor | None,
    grad_probs: Tensor | None,
    logits: Tensor,
    index: Tensor,
    log_sum_exp: Tensor,
    mask: Tensor | None,
    tau: Tensor | None,
    seed: Tensor,
    offset: int,
    row_offset: int,
    num_samples: int,
) -> Tensor:
    """The gradient [..., C] of the logits; a row without a distribution has NaN."""
    grad_logits = torch.empty_like(logits, memory_format=torch.contiguous_format)
    rows, categories, device = index.numel(), logits.shape[-1], logits.device
    if rows == 0:
        return grad_logits
    inner, operands = row.rows_of(logits.shape, grad_one_hot, grad_probs, logits, mask)
    up = Upstream(*operands, index.contiguous(), log_sum_exp.contiguous(), inner)
    stream, is_one = stream_of(seed, rows, offset, row_offset)
    # Logarithms and exponentials of doubles need many registers, and hide what latency there is.
    resident = launch.FEW if logits.dtype == torch.float64 else launch.HALF
    if categories == 2:
        calls = min(launch.next_power_of_2(launch.cdiv(num_samples, 4)), _MOST_CALLS)
        shape = {"ONE_SEED": is_one, "ROWS": 32 * _WARPS // calls, "CALLS": calls}
        grid = (launch.cdiv(rows, shape["ROWS"]),)
        arguments = (up, tau, grad_logits, stream, num_samples, rows)
        launch.run(gumbel_rao_of_two_kernel, grid, _WARPS, device, *arguments, **shape, resident=resident)
        return grad_logits
    elements = launch.elements_per_thread("noise", categories, logits.dtype)
    tile = launch.tile(max(categories, 4), elements)
    if tile is not None:
        arguments = (up, tau, grad_logits, stream, num_samples, rows, row.multiple(categories))
        shape = {"ONE_SEED": is_one, "ROWS": tile.rows, "BLOCK": tile.block}
        grid = (launch.cdiv(rows, tile.rows),)
        launch.run(gumbel_rao_tile_kernel, grid, tile.warps, device, *arguments, **shape, resident=resident)
    else:
        _launch_long(up, tau, grad_logits, stream, num_samples, elements, is_one, resident)
    return grad_logits


def _launch_long(
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
    block = _WARPS * 32 * elements
    part_size = block * launch.blocks_per_part(rows, launch.cdiv(categories, block), _WARPS, device)
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
    lanes = {"LANES": 32 * _WARPS, "GROUP": launch.cdiv(launch.next_power_of_2(parts), 32 * _WARPS)}
    for first in range(0, num_samples, at_once):
        samples = min(at_once, num_samples - first)
        place = (parts, part_size, row.multiple(categories))
        arguments = (up, tau, sums, stream, first, samples, *place)
        launch.run(gumbel_rao_sums_kernel, (rows, parts), _WARPS, device, *arguments, **shape)
        ends = {"BEGINS": first == 0, "ENDS": first + samples == num_samples, **lanes}
        arguments = (up, tau, grad_logits, total, sums, stream, first, samples, num_samples, *place)
        launch.run(gumbel_rao_long_kernel, (rows, parts), _WARPS, device, *arguments, **shape, **ends)

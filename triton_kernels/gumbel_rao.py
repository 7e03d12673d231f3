"""Gumbel-Rao by Monte Carlo (Paulus et al., ICLR 2021): straight-through Gumbel-Softmax averaged over Gumbel noise that
is drawn given the sample. With one sample of noise it is straight-through Gumbel-Softmax itself (Jang et al., 2017).

The mean over samples k of J(s_k) g / tau, and J(pi) h. s_k = softmax(G_k / tau), where G_k are Gumbel-perturbed logits
given the draw D: with exponential variates E, G_D - G_j = log(1 + E_j / (E_D pi_j)), and so the weight of j beside that
of D is a power of 1 + E_j / (E_D pi_j). Noise is made where it is needed: once for a row that a program holds, twice
for a longer one, for the sums of its weights and to write.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import launch, noise, row
from .gumbel_rao_long import WARPS, launch_long
from .gumbel_weights import base_of_logits, log_uniform_of, relative_weight, slope_of_two
from .stream import Stream, stream_of
from .upstream import Upstream, inverse_of, load, probability

_MOST_CALLS = 32  # of Philox, that threads make for a row of two categories at once


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
    index = tl.load(up.index + i, mask=here, other=0).to(tl.int32)
    log_sum_exp = tl.load(up.log_sum_exp + i, mask=here, other=0.0)[:, None]
    is_drawn = j == index[:, None]
    inverse_tau = tl.full((), 1.0, x.dtype)
    if tau_ptr is not None:
        inverse_tau = inverse_of(tl.load(tau_ptr), x.dtype)
    base = base_of_logits(x, log_sum_exp, tau_ptr is not None)
    source = noise.source(stream, i[:, None], here[:, None], ONE_SEED)
    quads = tl.arange(0, BLOCK // 4).to(tl.uint32)[None, :]
    pi = probability(x, log_sum_exp)
    total = pi * (h - tl.sum(pi * h, 1)[:, None])
    share = inverse_tau / tl.cast(samples, x.dtype)
    for k in range(samples):
        sample = tl.cast(k, tl.uint32)
        log_u = tl.reshape(noise.log_uniforms(quads, sample, source, x.dtype), [ROWS, BLOCK])
        if ROWS == 1:  # made once more, where a sum would go through all threads
            log_u_drawn = log_uniform_of(index[:, None], sample, source, x.dtype)
        else:
            log_u_drawn = tl.sum(tl.where(is_drawn, log_u, 0.0), 1)[:, None]
        weight = relative_weight(log_u, log_u_drawn, base, is_drawn, inverse_tau, tau_ptr is not None)
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
    base = base_of_logits(x, log_sum_exp, tau_ptr is not None)
    source = noise.source(stream, i[:, None], here[:, None], ONE_SEED)
    total = tl.zeros([ROWS, CALLS], x.dtype)
    for start in range(0, samples, 4 * CALLS):
        calls = start // 4 + tl.arange(0, CALLS)[None, :]
        us = noise.uniforms(tl.zeros([ROWS, CALLS], tl.uint32), calls.to(tl.uint32), source, x.dtype)
        for word in tl.static_range(4):
            slope = slope_of_two(base[:, None], us[word], inverse_tau, tau_ptr is not None)
            total += tl.where(4 * calls + word < samples, slope, 0.0)
    through_sample = tl.sum(total, 1) * (g - g_drawn) * (inverse_tau / tl.cast(samples, x.dtype))
    through_probs = probability(x, log_sum_exp) * probability(x_drawn, log_sum_exp) * (h - h_drawn)
    gradient = through_sample + through_probs
    out = grad_logits_ptr + 2 * i
    tl.store(out + other, gradient.to(grad_logits_ptr.dtype.element_ty), mask=here)
    tl.store(out + drawn, (-gradient).to(grad_logits_ptr.dtype.element_ty), mask=here)


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
    is_double = logits.dtype == torch.float64
    resident = launch.FEW if is_double else launch.HALF
    if categories == 2:
        calls = min(launch.next_power_of_2(launch.cdiv(num_samples, 4)), _MOST_CALLS)
        shape = {"ONE_SEED": is_one, "ROWS": 32 * WARPS // calls, "CALLS": calls}
        grid = (launch.cdiv(rows, shape["ROWS"]),)
        arguments = (up, tau, grad_logits, stream, num_samples, rows)
        launch.run(gumbel_rao_of_two_kernel, grid, WARPS, device, *arguments, **shape, resident=resident)
        return grad_logits
    elements = launch.elements_per_thread("noise", categories, logits.dtype)
    # A thread of 32 warps has 64 registers at most, too few for the doubles of this kernel.
    tile = launch.tile(max(categories, 4), elements, 16 if is_double else launch.MOST_WARPS)
    if tile is not None:
        arguments = (up, tau, grad_logits, stream, num_samples, rows, row.multiple(categories))
        shape = {"ONE_SEED": is_one, "ROWS": tile.rows, "BLOCK": tile.block}
        grid = (launch.cdiv(rows, tile.rows),)
        launch.run(gumbel_rao_tile_kernel, grid, tile.warps, device, *arguments, **shape, resident=resident)
    else:
        launch_long(up, tau, grad_logits, stream, num_samples, elements, is_one, resident)
    return grad_logits

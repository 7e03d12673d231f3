"""From an estimator's formula to its kernels. An estimator is a function of one position of a row and of the row's
sums.
"""

import torch
from torch import Tensor

from . import launch, row
from .backward_long import LOOP_WARPS, launch_long, part_size
from .backward_tile import backward_tile_kernel
from .upstream import Estimator, Upstream


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
    out: Tensor | None = None,
) -> Tensor:
    """The gradient [..., C] of the logits by one estimator, to a contiguous `out` where there is one; a row without a
    distribution has NaN.
    """
    grad_logits = torch.empty_like(logits, memory_format=torch.contiguous_format) if out is None else out
    rows, categories, device = index.numel(), logits.shape[-1], logits.device
    if rows == 0:
        return grad_logits
    inner, operands = row.rows_of(logits.shape, grad_one_hot, grad_probs, logits, mask)
    up = Upstream(*operands, index.contiguous(), log_sum_exp.contiguous(), inner)
    setting_bits = None if setting is None else row.double_bits(setting)
    elements = launch.elements_per_thread("backward", categories, logits.dtype)
    tile = launch.tile(categories, elements)
    away = estimator.away_from_drawn if tau is None and grad_probs is None else None
    if tile is None or (away is not None and _is_for_blocks(tile, rows, categories, elements, device)):
        launch_long(estimator, up, tau, setting_bits, grad_logits, away, elements)
        return grad_logits
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
        row.multiple(categories),
        GRADIENT=estimator.gradient,
        WEIGHT=estimator.weight,
        ROWS=tile.rows,
        BLOCK=tile.block,
        PACKED=packed,
    )
    return grad_logits


def _is_for_blocks(tile: launch.Tile, rows: int, categories: int, elements: int, device: torch.device) -> bool:
    """Whether rows that a tile could hold take less time if they are read once and written without their sums: if
    that needs fewer warps a row, and no second launch.

    float32 at sm_90 takes 30, 25 and 23 instructions an element of 2048, 4096 and 8192 categories, in place of 43, 44
    and 44, and at 8192 a multiprocessor has 9 programs, in place of one whose warps load or compute. On an H200
    (Triton 3.6, 2026-11-26) 4096 x 8192 took 128 us in tiles, as many bytes of 32768 categories in blocks 106 us.
    """
    return tile.warps > LOOP_WARPS and part_size(rows, categories, elements, device) >= categories

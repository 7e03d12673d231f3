"""Lookups of drawn codes. The draw is that of `sample`, which tells the log-sum-exp, too. The vectors are fetched by a
kernel of its own: beside the row of logits, an index that is read once more is 8 bytes.
"""

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import launch, row
from .codebook_backward import codebook_backward
from .reinmax import REINMAX
from .sample import sample_with_log_sum_exp
from .straight_through import STRAIGHT_THROUGH

_WARPS = 4
_ELEMENTS = 8  # of a thread
_MOST_COLUMNS = 1024  # of a program


@triton.jit
def gather_kernel(
    codebook_ptr, index_ptr, vectors_ptr, rows, width: row.Multiple, ROWS: tl.constexpr, BLOCK: tl.constexpr
):
    """A tile [ROWS, BLOCK] of codebook[index]."""
    d = row.value(width)
    i = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    k = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    here, inside = i < rows, (i < rows)[:, None] & (k < d)[None, :]
    index = tl.load(index_ptr + i, mask=here, other=0)
    vectors = tl.load(codebook_ptr + index[:, None] * d + k[None, :], mask=inside, other=0.0)
    tl.store(vectors_ptr + i[:, None] * d + k[None, :], vectors, mask=inside)


def codebook_lookup(
    logits: Tensor, codebook: Tensor, seed: Tensor, mask: Tensor | None, offset: int, row_offset: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The vectors [..., d] of the codes that are drawn, their index [...], and log-sum-exp [...] in float64. A row
    without a distribution: index 0, log-sum-exp NaN.
    """
    index, log_sum_exp = sample_with_log_sum_exp(logits, seed, mask, offset, row_offset)
    rows, d = index.numel(), codebook.shape[1]
    vectors = torch.empty((*index.shape, d), dtype=codebook.dtype, device=codebook.device)
    if rows > 0:
        block = min(launch.next_power_of_2(d), _MOST_COLUMNS)
        at_once = _WARPS * 32 * _ELEMENTS // block
        launch.run(
            gather_kernel,
            (launch.cdiv(rows, at_once), launch.cdiv(d, block)),
            _WARPS,
            logits.device,
            codebook.contiguous(),
            index,
            vectors,
            rows,
            row.multiple(d),
            ROWS=at_once,
            BLOCK=block,
        )
    return vectors, index, log_sum_exp


codebook_reinmax_backward = functools.partial(codebook_backward, REINMAX)
codebook_straight_through_backward = functools.partial(codebook_backward, STRAIGHT_THROUGH)

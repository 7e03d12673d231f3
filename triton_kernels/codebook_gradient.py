"""The codebook's gradient: for each code the sum over the rows that drew it, without atomics, so that it is the same at
every call. Rows are sorted by their codes, stably, and cut into pieces of as many. A program sums the rows of a piece
one after the other, code by code, in float64. What codes have in several pieces is summed in a second launch, in the
order of the pieces. However often a code is drawn, no program has more rows than a piece.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import launch, row

_PIECE = 128  # rows
_MOST_COLUMNS = 128  # of a program
_WARPS = 1


@triton.jit
def _code(codes_ptr, at, rows):
    """Of the row that is at this place of the order; -1 where none is."""
    return tl.load(codes_ptr + at, mask=(at >= 0) & (at < rows), other=-1)


@triton.jit
def _store(to, code, c, d, total):
    """The gradient of a code: of half types by way of float32, as PyTorch rounds float64."""
    DTYPE: tl.constexpr = to.dtype.element_ty
    rounded = total if DTYPE == tl.float64 else total.to(tl.float32).to(DTYPE)
    tl.store(to + code.to(tl.int64) * d + c, rounded, mask=c < d)


@triton.jit
def sum_pieces_kernel(
    codes_ptr,
    rows_by_code_ptr,
    grad_vectors_ptr,
    grad_codebook_ptr,
    pieces_ptr,
    rows,
    width: row.Multiple,
    PIECE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Writes the gradients of codes whose rows are all in this piece; of the others the sums, for the code that
    comes from the piece before and for the one that goes on in the next.
    """
    d = row.value(width)
    piece = tl.program_id(0).to(tl.int64)
    first, last = piece * PIECE, tl.minimum((piece + 1) * PIECE, rows)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    before = _code(codes_ptr, first - 1, rows)
    total = tl.zeros([BLOCK], tl.float64)
    for at in range(first, last):
        code, following = _code(codes_ptr, at, rows), _code(codes_ptr, at + 1, rows)
        i = tl.load(rows_by_code_ptr + at)
        total += tl.load(grad_vectors_ptr + i * d + c, mask=c < d, other=0.0).to(tl.float64)
        if (following != code) | (at + 1 == last):
            if (code != before) & (following != code):
                _store(grad_codebook_ptr, code, c, d, total)
            else:
                half = tl.where(code == before, 0, 1)
                tl.store(pieces_ptr + (2 * piece + half) * d + c, total, mask=c < d)
            total = tl.zeros([BLOCK], tl.float64)


@triton.jit
def join_pieces_kernel(
    codes_ptr,
    grad_codebook_ptr,
    pieces_ptr,
    rows,
    width: row.Multiple,
    PIECE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Writes the gradient of the code, if there is one, that begins in this piece and goes on in the next."""
    d = row.value(width)
    piece = tl.program_id(0).to(tl.int64)
    first, last = piece * PIECE, tl.minimum((piece + 1) * PIECE, rows)
    code = _code(codes_ptr, last - 1, rows)
    if (_code(codes_ptr, first - 1, rows) != code) & (_code(codes_ptr, last, rows) == code):
        c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        total = tl.load(pieces_ptr + (2 * piece + 1) * d + c, mask=c < d, other=0.0)
        piece += 1
        while _code(codes_ptr, piece * PIECE, rows) == code:
            total += tl.load(pieces_ptr + 2 * piece * d + c, mask=c < d, other=0.0)
            piece += 1
        _store(grad_codebook_ptr, code, c, d, total)


def codebook_gradient(grad_vectors: Tensor, index: Tensor, codes: int) -> Tensor:
    """For each code the sum of the gradients of its vectors [codes, d], summed in float64."""
    rows, d, device = index.numel(), grad_vectors.shape[-1], grad_vectors.device
    grad_codebook = torch.zeros((codes, d), dtype=grad_vectors.dtype, device=device)
    if rows == 0:
        return grad_codebook
    of_rows, order = index.flatten().int().sort(stable=True)
    pieces = launch.cdiv(rows, _PIECE)
    sums = torch.empty((pieces, 2, d), dtype=torch.float64, device=device)
    block = min(max(launch.next_power_of_2(d), 32), _MOST_COLUMNS)
    grid = (pieces, launch.cdiv(d, block))
    shape = {"PIECE": _PIECE, "BLOCK": block}
    to = grad_codebook, sums, rows, row.multiple(d)
    launch.run(sum_pieces_kernel, grid, _WARPS, device, of_rows, order, grad_vectors.contiguous(), *to, **shape)
    if pieces > 1:
        launch.run(join_pieces_kernel, grid, _WARPS, device, of_rows, *to, **shape)
    return grad_codebook

"""From an estimator's formula to the logits' gradient of a codebook lookup. The gradient of the one-hot is a product of
matrices, grad_vectors @ codebook.T, of which there is never more than a part.

Of matrices of one half type it is made in tiles. Of others PyTorch makes it, some rows at a time, in the precision that
the logits are computed in, and the estimator's backward takes those rows. For tensor cores would round float32 to 10
bits, and without them Triton's products are far behind the library's: on an H200 (Triton 3.6, 2026-11-26) a float32
backward of 4096 x 8192 and d = 64 took 1.33 ms in tiles that are made once, 2.6 ms in those made twice, and 0.37 ms so;
of d = 256 5.1, 9.9 and 0.68 ms.
"""

import torch
from torch import Tensor

from . import launch
from .backward import backward
from .codebook_tiles import backward_in_tiles
from .upstream import Estimator

_MOST_PRODUCTS = 16  # that the library makes: each is as much less of the logits' bytes
_LEAST_OF_PRODUCT = 2**20  # elements, else it takes no longer than its launch
_ROWS_ALIGNED = 16  # of any length, and their addresses are multiples of 16 bytes


def codebook_backward(
    estimator: Estimator,
    grad_vectors: Tensor,
    codebook: Tensor,
    logits: Tensor,
    index: Tensor,
    log_sum_exp: Tensor,
    mask: Tensor | None,
    tau: Tensor | None,
) -> Tensor:
    """The gradient [..., C] of the logits by one estimator; a row without a distribution has NaN."""
    is_half = codebook.element_size() == 2 and codebook.dtype == grad_vectors.dtype
    by_product = backward_in_tiles if is_half and logits.dtype != torch.float64 else _by_library
    return by_product(estimator, grad_vectors, codebook, logits, index, log_sum_exp, mask, tau)


def _by_library(
    estimator: Estimator,
    grad_vectors: Tensor,
    codebook: Tensor,
    logits: Tensor,
    index: Tensor,
    log_sum_exp: Tensor,
    mask: Tensor | None,
    tau: Tensor | None,
) -> Tensor:
    grad_logits = torch.empty_like(logits, memory_format=torch.contiguous_format)
    rows, categories = index.numel(), logits.shape[-1]
    accumulated = torch.float64 if logits.dtype == torch.float64 else torch.float32
    # Detached, for PyTorch differentiates nothing that it writes to a given tensor.
    left = grad_vectors.detach().reshape(rows, grad_vectors.shape[-1]).to(accumulated)
    right = codebook.detach().to(accumulated).t()
    x, to = logits.reshape(rows, categories), grad_logits.view(rows, categories)
    allowed = None if mask is None else mask.expand(logits.shape).reshape(rows, categories)
    state = index.reshape(rows), log_sum_exp.reshape(rows)
    at_once = max(launch.cdiv(rows, _MOST_PRODUCTS), launch.cdiv(_LEAST_OF_PRODUCT, categories))
    at_once = launch.cdiv(at_once, _ROWS_ALIGNED) * _ROWS_ALIGNED
    product = torch.empty((min(at_once, rows), categories), dtype=accumulated, device=logits.device)
    for first in range(0, rows, at_once):
        some = slice(first, min(first + at_once, rows))
        # Not as an operator, which would round it under autocast.
        g = torch.mm(left[some], right, out=product[: some.stop - first])
        of_some = None if allowed is None else allowed[some]
        backward(estimator, g, None, x[some], *(each[some] for each in state), of_some, tau, out=to[some])
    return grad_logits

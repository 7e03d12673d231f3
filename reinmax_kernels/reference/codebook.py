"""Lookups of drawn codes, and their gradients by way of the one-hot's."""

from collections.abc import Callable

import torch
from torch import Tensor

from .reinmax import reinmax_backward
from .sample import accumulate_dtype, log_sum_exps, sample
from .straight_through import straight_through_backward


def codebook_lookup(
    logits: Tensor, codebook: Tensor, seed: Tensor, mask: Tensor | None, offset: int, row_offset: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The vectors [..., d] of the codes that are drawn, their index [...], and log-sum-exp [...] in float64."""
    index = sample(logits, seed, mask, offset, row_offset)
    return codebook[index], index, log_sum_exps(logits, mask)


def _backward(
    one_hot_backward: Callable[..., Tensor],
    grad_vectors: Tensor,
    codebook: Tensor,
    logits: Tensor,
    index: Tensor,
    log_sum_exp: Tensor,
    mask: Tensor | None,
    tau: Tensor | None,
) -> Tensor:
    dtype = accumulate_dtype(logits.dtype)
    with torch.autocast(logits.device.type, enabled=False):  # which would round the product
        grad_one_hot = grad_vectors.to(dtype) @ codebook.to(dtype).T
    return one_hot_backward(grad_one_hot, None, logits, index, log_sum_exp, mask, tau)


def codebook_reinmax_backward(
    grad_vectors: Tensor,
    codebook: Tensor,
    logits: Tensor,
    index: Tensor,
    log_sum_exp: Tensor,
    mask: Tensor | None,
    tau: Tensor | None,
) -> Tensor:
    """ReinMax's product with the gradient of the one-hot, grad_vectors @ codebook.T."""
    return _backward(reinmax_backward, grad_vectors, codebook, logits, index, log_sum_exp, mask, tau)


def codebook_straight_through_backward(
    grad_vectors: Tensor,
    codebook: Tensor,
    logits: Tensor,
    index: Tensor,
    log_sum_exp: Tensor,
    mask: Tensor | None,
    tau: Tensor | None,
) -> Tensor:
    """Straight-through's product with the gradient of the one-hot, grad_vectors @ codebook.T."""
    return _backward(straight_through_backward, grad_vectors, codebook, logits, index, log_sum_exp, mask, tau)


def codebook_gradient(grad_vectors: Tensor, index: Tensor, codes: int) -> Tensor:
    """For each code the sum of the gradients of its vectors [codes, d], in float64, rounded once."""
    d = grad_vectors.shape[-1]
    total = torch.zeros((codes, d), dtype=torch.float64, device=grad_vectors.device)
    flat, rows = index.flatten(), grad_vectors.reshape(-1, d).double()
    # Of the two that compute this, on the CPU this one adds rows in their order, on a GPU the other one.
    total = total.index_add_(0, flat, rows) if total.is_cpu else total.index_put_((flat,), rows, accumulate=True)
    return total.to(grad_vectors.dtype)

"""Codebooks: a vector for each category, of which one is drawn."""

import torch
from torch import Tensor

from . import backends, codebook_ops, ops, rows
from .categorical import operands

ESTIMATORS = ("reinmax", "straight_through")


def codebook_lookup(
    logits: Tensor,
    codebook: Tensor,
    tau: float | Tensor = 1.0,
    *,
    estimator: str = "reinmax",
    dim: int = -1,
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
    seed: int | Tensor | None = None,
    offset: int = 0,
    row_offset: int = 0,
) -> tuple[Tensor, Tensor]:
    r"""Draw a code for each row of logits and look its vector up: `one_hot @ codebook`, without the one-hot.

    With the codebook :math:`B`, whose row :math:`B_j` is the vector of category j, :math:`D \sim \mathrm{softmax}(
    \theta)` and the gradient :math:`v` of the vector :math:`B_D`, the one-hot's gradient would be :math:`g_j = \langle
    B_j, v \rangle`. The logits get what :func:`reinmax_kernels.reinmax` or :func:`reinmax_kernels.straight_through`
    makes of it. Where rows lie one after the other, the kernels hold of the logits' size nothing but their gradient:
    the product is made for a few rows at a time, or, of half types on GPUs, for tiles that never leave the registers.
    Those are Triton's, for CUDA tensors too: its `tl.dot` multiplies on a GPU's matrix units, and cuBLAS would write
    what it multiplies to memory, to be read again. Other types these units would round; there PyTorch multiplies, by
    cuBLAS for one, which is several times as fast: a 16th of the rows at a time, or 2^20 elements. Without Triton half
    types are the reference's, which makes the product at once. The codebook gets :math:`\nabla_{B_j} = \sum_{i: D_i =
    j} v_i`, summed in float64: on the CPU in the order of the rows, on GPUs in pieces of some, without atomic
    additions: the same at every call and on every thread count.

    Args:
        logits, dim, mask, generator, seed, offset, row_offset: as in :func:`reinmax_kernels.sample`.
        codebook: [C, d], float16, bfloat16, float32 or float64; its dtype need not be the logits'.
        tau: the temperature, as in :func:`reinmax_kernels.reinmax`.
        estimator: "reinmax" or "straight_through".

    Returns:
        `(vectors, index)`: the vectors in the codebook's dtype and the logits' shape, with d in the place of C, and the
        int64 codes in the logits' shape less `dim`. The vectors are differentiable in logits and codebook, once.
        Products and sums of half types are computed in float32 or better, under autocast too (as torch.matmul does
        float32 where the reference serves the call); those of float32 on GPUs without TF32, unless PyTorch is set to it
        (`torch.set_float32_matmul_precision`); what PyTorch says of cuBLAS under `use_deterministic_algorithms` holds
        for them. Kept for the backward are logits and codebook, and an index and a float64 log-sum-exp a row.

    Raises:
        As :func:`reinmax_kernels.reinmax`, and TypeError for a codebook that is no floating-point tensor, ValueError
        for an unknown estimator, a codebook that is not [C, d] with d >= 1, or on another device than the logits.

    Source: van den Oord et al., "Neural Discrete Representation Learning", NeurIPS 2017, for codebooks; Liu et al.,
    NeurIPS 2023, and Bengio et al., 2013, for the gradients.
    Differs from it: the code is drawn from logits, where VQ-VAE takes the nearest, and the gradient is that of the
    logits, not of a copied vector.
    """
    if estimator not in ESTIMATORS:
        raise ValueError(f"estimator: expected one of {', '.join(ESTIMATORS)}; got {estimator!r}")
    rows_last, mask_last, seeds = operands(logits, dim, mask, generator, seed)
    vectors, index, _ = ops.apply(
        codebook_ops.LOOKUPS[backends.overload(logits.device)][estimator],
        rows_last,
        rows.codebook(codebook, rows_last),
        seeds,
        mask_last,
        rows.int64_bits(offset, "offset"),
        rows.int64_bits(row_offset, "row_offset"),
        rows.tau_tensor(tau, logits.device),
    )
    return vectors if dim in (-1, logits.ndim - 1) else vectors.movedim(-1, dim), index

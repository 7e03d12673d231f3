"""The estimators of bits: what users call."""

import torch
from torch import Tensor

from . import backends, ops, reference, rows

ESTIMATORS = ("reinmax", "straight_through", "gumbel_softmax")


def bernoulli(
    logits: Tensor,
    estimator: str = "reinmax",
    tau: float | Tensor = 1.0,
    *,
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
    seed: int | Tensor | None = None,
    offset: int = 0,
    row_offset: int = 0,
) -> tuple[Tensor, Tensor]:
    r"""Draw a bit for each logit, with an estimate of the gradient: :math:`b \sim P = \sigma(\phi)`.

    The same in law and gradient as an estimator of categorical choices on the pairs of logits :math:`(\phi, 0)`, in one
    pass and without the pairs. With :math:`s = \sigma(\phi / \tau)` and the gradients :math:`g` of the bits and
    :math:`h` of the probabilities, the logits get :math:`P (1 - P)\, h` and, by the estimator,

    - "reinmax": :math:`\tfrac12 g \left(b (1 - s^2) + (1 - b)(1 - (1 - s)^2) - P (1 - P)\right)`, at tau = 1
      :math:`\tfrac12 g\, (b + P - 2 b P)`: the most accurate, and the one to begin with. At tau = 1 its mean is the
      exact gradient for every quadratic function of the bits.
    - "straight_through": :math:`\tfrac1\tau g\, s (1 - s)`, exact in the mean for linear functions at tau = 1.
    - "gumbel_softmax": the same with :math:`s` a sigmoid of noisy logits given the bit, as
      :func:`reinmax_kernels.gumbel_softmax` has it. As tau falls, so does the bias, and the variance grows.

    Args:
        logits: log-odds of the bit 1, any shape, float16, bfloat16, float32 or float64, any strides. Infinities are
            certain bits, whose gradient is 0. Draws are made in float32.
        estimator: "reinmax", "straight_through" or "gumbel_softmax".
        tau: the temperature, as in :func:`reinmax_kernels.reinmax`.
        mask: boolean, broadcastable to the logits. Where it is False the bit is 0, its probability and its gradient
            too, and whatever the logit holds (NaN included) does not matter.
        generator, seed, offset, row_offset: as in :func:`reinmax_kernels.sample`, with elements for rows, counted as
            in the flattened logits. The same bits on every backend, device and thread count.

    Returns:
        `(bits, probs)` in the logits' shape and dtype: 0 or 1, and :math:`\sigma(\phi)`. Both are differentiable, once;
        half types are computed in float32. Kept for the backward are the logits and the bits themselves,
        which must not be changed in place before it.

    Raises:
        TypeError: logits no floating-point tensor; a tau that is no number; a mask or seed of the wrong type.
        ValueError: an unknown estimator; a tau that is not finite and > 0; a mask or seed that does not fit; a
            generator of another device; on the CPU, a NaN or a float64 beyond float32's range (the first is named). On
            a GPU such an element has bit 0, probability NaN and gradient NaN, unless REINMAX_KERNELS_CHECK=1 is set,
            which makes it raise there too.

    Source: Liu et al., "Bridging Discrete and Backpropagation: Straight-Through and Beyond", NeurIPS 2023; Bengio et
    al., 2013; Jang, Gu, Poole, ICLR 2017.
    Differs from it: nowhere in law; the papers' formulas are given for categories, of which these are two.
    """
    if estimator not in ESTIMATORS:
        raise ValueError(f"estimator: expected one of {', '.join(ESTIMATORS)}; got {estimator!r}")
    rows.floating_point(logits, "logits")
    mask = rows.broadcast_mask(mask, logits)
    if backends.CHECKS:
        reference.require_bits(logits, mask)
    return ops.estimate(
        ops.ESTIMATORS[backends.overload(logits.device)][f"bernoulli_{estimator}"],
        logits,
        rows.seed_tensor(seed, generator, logits.unsqueeze(-1)),
        mask,
        rows.int64_bits(offset, "offset"),
        rows.int64_bits(row_offset, "row_offset"),
        rows.tau_tensor(tau, logits.device),
        None,
    )

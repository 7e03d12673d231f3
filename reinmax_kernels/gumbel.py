"""The estimators that perturb logits with Gumbel noise: what users call."""

import torch
from torch import Tensor

from . import rows
from .categorical import estimate


def gumbel_rao(
    logits: Tensor,
    tau: float | Tensor = 1.0,
    num_samples: int = 100,
    *,
    dim: int = -1,
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
    seed: int | Tensor | None = None,
    offset: int = 0,
    row_offset: int = 0,
) -> tuple[Tensor, Tensor]:
    r"""Draw one-hot samples with the Gumbel-Rao gradient: that of :func:`gumbel_softmax`, averaged over Gumbel noise.

    Given the draw :math:`D`, K samples :math:`G_k` of the Gumbel-perturbed logits whose largest is the drawn one are
    made in the kernel, never all of them at once: :math:`G_D = Z - \log E_D` and
    :math:`G_j = -\log(E_j e^{-\theta_j} + E_D e^{-Z})` for :math:`j \ne D`, with independent exponential variates
    :math:`E` and :math:`Z = \mathrm{logsumexp}(\theta)`. With :math:`s_k = \mathrm{softmax}(G_k / \tau)` and the
    gradients :math:`g` of the one-hot and :math:`h` of the probabilities,

    .. math:: \nabla_\theta = \tfrac1K \sum_{k=1}^K \tfrac1\tau J(s_k)\, g + J(\pi)\, h .

    The mean is that of :func:`gumbel_softmax`; the variance falls with K, which makes a small tau usable, where the
    bias is small. Memory does not grow with K, time does.

    Args, returns and raises: as :func:`reinmax`, without `hard`, and
        num_samples: K, in [1, 2**32). TypeError where it is no integer, ValueError where it is out of range.
    The noise is made anew in the backward, from the seed and the offsets, which are kept for it: the same noise on
    every backend, but for the last place of its logarithms.

    Source: Paulus, Maddison, Krause, "Rao-Blackwellizing the Straight-Through Gumbel-Softmax Gradient Estimator", ICLR
    2021: GR-MCK.
    Differs from it: nowhere in law. For two categories one variate a sample is made, which is enough.
    """
    num_samples = rows.sample_count(num_samples)
    return estimate("gumbel_rao", logits, tau, dim, mask, generator, seed, offset, row_offset, num_samples)


def gumbel_softmax(
    logits: Tensor,
    tau: float | Tensor = 1.0,
    *,
    dim: int = -1,
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
    seed: int | Tensor | None = None,
    offset: int = 0,
    row_offset: int = 0,
) -> tuple[Tensor, Tensor]:
    r"""Draw one-hot samples with the straight-through Gumbel-Softmax gradient: that of a softmax of noisy logits.

    With Gumbel-perturbed logits :math:`G`, whose largest is the drawn one, :math:`s = \mathrm{softmax}(G / \tau)`, and
    the gradients :math:`g` of the one-hot and :math:`h` of the probabilities,

    .. math:: \nabla_\theta = \tfrac1\tau J(s)\, g + J(\pi)\, h .

    As tau falls, so does the bias, and the variance grows. :func:`gumbel_rao` with `num_samples=1` is the same, bit for
    bit.

    Args, returns and raises: as :func:`reinmax`, without `hard`.

    Source: Jang, Gu, Poole, "Categorical Reparameterization with Gumbel-Softmax", ICLR 2017: its straight-through form,
    `torch.nn.functional.gumbel_softmax(hard=True)`.
    Differs from it: nowhere in law. The sample is drawn first, and the noise given the sample; it is returned exactly
    one-hot, beside softmax(logits) without noise.
    """
    return estimate("gumbel_rao", logits, tau, dim, mask, generator, seed, offset, row_offset, 1)

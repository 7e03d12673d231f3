"""The estimators as distributions of `torch.distributions`."""

from typing import Any, cast

import torch
from torch import Tensor
from torch.distributions import OneHotCategorical

from . import rows
from .categorical import reinmax


class OneHotCategoricalReinMax(OneHotCategorical):
    r"""One-hot categorical samples that can be differentiated, with the gradient of :func:`reinmax_kernels.reinmax`.

    A sibling of `torch.distributions.OneHotCategoricalStraightThrough`: the same distribution, whose `rsample` gives
    exact one-hot vectors with ReinMax's second-order gradient in place of the straight-through one.

    Args:
        probs: event probabilities [..., C], normalised where they don't sum to 1; those of 0 are never drawn.
        logits: or event log-probabilities [..., C], unnormalised. Exactly one of the two.
        tau: the temperature of the gradient, as in :func:`reinmax_kernels.reinmax`.
        validate_args: as in `torch.distributions.Distribution`.

    `sample` and `rsample` draw from the global generator of the parameters' device: after the same
    `torch.manual_seed` the same sample, as :func:`reinmax_kernels.reinmax` does. Everything else (log_prob, entropy,
    mean, enumerate_support, `kl_divergence`) is that of `torch.distributions.OneHotCategorical`. Float dtypes as in
    :func:`reinmax_kernels.sample`.

    Raises:
        ValueError: neither or both of probs and logits; parameters that validate_args refuses; a tau that is not
            finite and > 0. TypeError: a tau that is no number.

    Source: Liu et al., "Bridging Discrete and Backpropagation: Straight-Through and Beyond", NeurIPS 2023.
    Differs from it: nowhere.
    """

    has_rsample = True

    def __init__(
        self,
        probs: Tensor | None = None,
        logits: Tensor | None = None,
        tau: float | Tensor = 1.0,
        validate_args: bool | None = None,
    ) -> None:
        super().__init__(probs, logits, validate_args)
        rows.tau_tensor(tau, self._param.device)  # refuses what is none
        self.tau = tau
        self._given_probs = probs is not None

    def expand(self, batch_shape: Any, _instance: Any = None) -> "OneHotCategoricalReinMax":
        new = self._get_checked_instance(OneHotCategoricalReinMax, _instance)  # type: ignore[no-untyped-call]
        new.tau, new._given_probs = self.tau, self._given_probs
        super().expand(batch_shape, _instance=new)  # type: ignore[no-untyped-call]
        return cast(OneHotCategoricalReinMax, new)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            return self.rsample(sample_shape)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        if not self._given_probs:
            return reinmax(self.logits.expand(shape), self.tau)[0]
        # `self.logits` holds a probability of 0 for a small one, and its logarithm has no derivative.
        possible = self.probs > 0
        logits = torch.where(possible, self.probs, 1.0).log()
        return reinmax(logits.expand(shape), self.tau, mask=possible)[0]

"""Pyro: the distributions of `reinmax_kernels.distributions` as `pyro.sample` takes them."""

from pyro.distributions.torch_distribution import TorchDistributionMixin

from .. import distributions


class OneHotCategoricalReinMax(distributions.OneHotCategoricalReinMax, TorchDistributionMixin):  # type: ignore[misc]
    """:class:`reinmax_kernels.distributions.OneHotCategoricalReinMax` with what Pyro adds to PyTorch's distributions.

    Where a guide samples from it, let the ELBO have the divergence in closed form, as `TraceMeanField_ELBO` does: a
    one-hot's own log-probability is a function of its index, and passes no gradient on.
    """

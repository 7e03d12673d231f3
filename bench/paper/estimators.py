"""The estimators that the paper compares, by the names it gives them."""

from collections.abc import Callable
from functools import partial

from torch import Tensor

import reinmax_kernels

# An estimator is one line.
ESTIMATORS: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {
    "ReinMax": reinmax_kernels.reinmax,
    "ST": reinmax_kernels.straight_through,
    "STGS": reinmax_kernels.gumbel_softmax,
    "GST-1.0": partial(reinmax_kernels.gapped_straight_through, gap=1.0),
    "GR-MCK": partial(reinmax_kernels.gumbel_rao, num_samples=100),
}

"""Gradient estimators for discrete choices, as fused kernels: ReinMax and those it is compared with."""

from importlib.metadata import version

__version__ = version("reinmax_kernels")

from . import distributions, routing
from .backends import backend, build_info
from .bernoulli import bernoulli
from .categorical import gapped_straight_through, reinmax, sample, straight_through
from .codebook import codebook_lookup
from .gumbel import gumbel_rao, gumbel_softmax

__all__ = [
    "backend",
    "bernoulli",
    "build_info",
    "codebook_lookup",
    "distributions",
    "gapped_straight_through",
    "gumbel_rao",
    "gumbel_softmax",
    "reinmax",
    "routing",
    "sample",
    "straight_through",
]

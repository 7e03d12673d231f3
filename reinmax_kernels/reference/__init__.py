"""Plain PyTorch, readable beside the papers, on any device: the oracle that every other backend is tested against."""

from .reinmax import reinmax_backward
from .sample import require_distributions, sample, sample_dense
from .straight_through import straight_through_backward

__all__ = ["reinmax_backward", "require_distributions", "sample", "sample_dense", "straight_through_backward"]

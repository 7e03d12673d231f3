"""Plain PyTorch, readable beside the papers, on any device: the oracle that every other backend is tested against."""

from .gapped_straight_through import gapped_straight_through_backward
from .gumbel_rao import gumbel_rao_backward
from .reinmax import reinmax_backward
from .sample import require_distributions, sample, sample_dense
from .straight_through import straight_through_backward

__all__ = [
    "gapped_straight_through_backward",
    "gumbel_rao_backward",
    "reinmax_backward",
    "require_distributions",
    "sample",
    "sample_dense",
    "straight_through_backward",
]

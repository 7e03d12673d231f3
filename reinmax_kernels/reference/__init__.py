"""Plain PyTorch, readable beside the papers, on any device: the oracle that every other backend is tested against."""

from .bernoulli import (
    bernoulli,
    bernoulli_gumbel_softmax_backward,
    bernoulli_reinmax_backward,
    bernoulli_straight_through_backward,
    require_bits,
)
from .codebook import (
    codebook_gradient,
    codebook_lookup,
    codebook_reinmax_backward,
    codebook_straight_through_backward,
)
from .dispatch_plan import dispatch_plan, expert_counts
from .gapped_straight_through import gapped_straight_through_backward
from .gumbel_rao import gumbel_rao_backward
from .reinmax import reinmax_backward
from .sample import require_distributions, sample, sample_dense
from .sparse_mixer import require_experts_to_draw, sparse_mixer, sparse_mixer_backward
from .straight_through import straight_through_backward
from .topk_router import require_scores, topk_router, topk_router_backward

__all__ = [
    "bernoulli",
    "bernoulli_gumbel_softmax_backward",
    "bernoulli_reinmax_backward",
    "bernoulli_straight_through_backward",
    "codebook_gradient",
    "codebook_lookup",
    "codebook_reinmax_backward",
    "codebook_straight_through_backward",
    "dispatch_plan",
    "expert_counts",
    "gapped_straight_through_backward",
    "gumbel_rao_backward",
    "reinmax_backward",
    "require_bits",
    "require_distributions",
    "require_experts_to_draw",
    "require_scores",
    "sample",
    "sample_dense",
    "sparse_mixer",
    "sparse_mixer_backward",
    "straight_through_backward",
    "topk_router",
    "topk_router_backward",
]

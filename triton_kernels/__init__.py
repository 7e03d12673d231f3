"""The ops as Triton kernels; installed as `reinmax_kernels.triton_kernels`.

The folder's own name belongs to another project's package, which it must never shadow.
"""

if __name__ != "reinmax_kernels.triton_kernels":
    raise ImportError(
        f"imported as {__name__!r}, expected 'reinmax_kernels.triton_kernels': take the sources' folder off sys.path "
        "and import the installed package"
    )

try:
    import triton  # noqa: F401
except ImportError as error:
    raise ImportError("the Triton kernels need Triton: pip install 'reinmax_kernels[triton]'") from error

from .bernoulli import (
    bernoulli,
    bernoulli_gumbel_softmax_backward,
    bernoulli_reinmax_backward,
    bernoulli_straight_through_backward,
)
from .codebook_gradient import codebook_gradient
from .codebook_lookup import codebook_lookup, codebook_reinmax_backward, codebook_straight_through_backward
from .dispatch_plan import dispatch_plan, expert_counts
from .gapped_straight_through import gapped_straight_through_backward
from .gumbel_rao import gumbel_rao_backward
from .reinmax import reinmax_backward
from .sample import sample, sample_dense
from .sparse_mixer import sparse_mixer, sparse_mixer_backward
from .straight_through import straight_through_backward
from .topk_router import topk_router, topk_router_backward

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
    "sample",
    "sample_dense",
    "sparse_mixer",
    "sparse_mixer_backward",
    "straight_through_backward",
    "topk_router",
    "topk_router_backward",
]

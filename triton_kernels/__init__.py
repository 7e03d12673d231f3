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

from .reinmax import reinmax_backward
from .sample import sample, sample_dense
from .straight_through import straight_through_backward

__all__ = ["reinmax_backward", "sample", "sample_dense", "straight_through_backward"]

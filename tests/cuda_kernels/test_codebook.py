"""The results of codebook lookups' backwards by the CUDA kernels."""

import device_codebook


class TestBackward(device_codebook.CodebookBackwardOfReals):
    pass


class TestGradient(device_codebook.CodebookGradientBySorting):
    pass

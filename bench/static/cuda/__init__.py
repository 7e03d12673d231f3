"""The CUDA kernels without a GPU: built with a fake CUDA runtime under them, whose launches are taken down."""

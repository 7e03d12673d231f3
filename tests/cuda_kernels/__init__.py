"""The CUDA kernels without a GPU: what nvcc makes of them runs on `tests/ptx`, launched by their own host code."""

"""`python -m reinmax_kernels`: what this build contains."""

from .backends import build_info

for key, value in build_info().items():
    print(f"{key}: {', '.join(value) if isinstance(value, list) else value}")

"""The project's benchmarks and the paper's experiments, run from a checkout: `python -m bench`."""

import os

# PyTorch's profiler reports its own comings and goings on stderr; it reads this once, when torch is first imported.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

"""The project's benchmarks and the paper's experiments, run from a checkout: `python -m bench`."""

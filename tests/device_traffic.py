"""What compiled kernels move, as the PTX interpreter counts it, against the least that a path has to: cases and goals
that all kernels share.

Beside the row, each thread loads a few scalars (seed, index, log-sum-exp, tau), which are its own to allow for.

What a kernel doesn't hold on the chip it reads again, and that counts in the least, too. Of a short row, which was just
read, caches can serve that: 8192 dense float32 rows of 2048 and 4096 categories, read twice, took Triton's kernel 68
and 142 us on an H200 (Triton 3.6, 2026-11-26). Its three passes over memory would take 48 and 96 us at 4.2 TB/s, a
fourth 16 and 32 us more. A kernel that held those rows and read them once took 154 and 296 us.
"""

import torch

from bench.static.specimens import Specimen, is_on_chip

MOST_BYTES, MOST_SECTORS = 1.05, 1.02

CASES = [
    Specimen("sample", 1, 4096, processors=None),
    Specimen("sample", 1, 32768, torch.bfloat16, processors=None),
    Specimen("sample_dense", 1, 4096, processors=None),
    Specimen("sample_dense", 1, 32768, torch.bfloat16, processors=None),
    Specimen("reinmax_backward", 1, 4096, processors=None),
    Specimen("reinmax_backward", 1, 32768, torch.bfloat16, processors=None),
    Specimen("straight_through_backward", 1, 4096, processors=None),
    Specimen("straight_through_backward", 1, 32768, torch.bfloat16, processors=None),
    Specimen("straight_through_backward", 1, 32768, torch.bfloat16, processors=132),
    Specimen("sample_dense", 1, 65536, torch.bfloat16, processors=132),
    Specimen("reinmax_backward, tau, both", 1, 16400, processors=None),
    Specimen("bernoulli", 1, 4096, processors=None),
    Specimen("bernoulli", 1, 8192, torch.bfloat16, processors=None),
    Specimen("bernoulli_reinmax_backward", 1, 8192, torch.bfloat16, processors=None),
    Specimen("bernoulli_straight_through_backward, tau", 1, 4096, processors=None),
    Specimen("bernoulli_gumbel_softmax_backward, tau, both", 1, 8192, torch.bfloat16, processors=None),
]


def identify(specimen):
    return f"{specimen} {specimen.processors}"


def assert_little_is_moved(specimen, execution, scalars, scalar_sectors, drawn_again=0):
    """drawn_again: bytes of the chosen chunks that are read a third time."""
    moved = sum(report.global_loads.bytes + report.global_stores.bytes for report in execution.reports)
    sectors = sum(report.global_loads.sectors + report.global_stores.sectors for report in execution.reports)
    chosen = specimen.chosen_chunk_bytes(execution.launches)
    least = specimen.least_bytes(is_on_chip(execution.launches)) + chosen + (drawn_again if chosen else 0)
    assert moved >= least  # what is counted is all of it
    assert moved <= MOST_BYTES * least + scalars
    assert 32 * sectors <= MOST_SECTORS * least + 32 * scalar_sectors

"""What the compiled kernels move, as the PTX interpreter counts it, against the least that a path has to.

Beside the row, each thread loads a few scalars (seed, index, log-sum-exp, tau), which are its own to allow for.
"""

import pytest
import torch

from bench.static.code import figures
from bench.static.specimens import Specimen, is_on_chip

from .execution import executed

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
]


@pytest.mark.parametrize("specimen", CASES, ids=lambda specimen: f"{specimen} {specimen.processors}")
def test_rows_are_moved_no_more_than_needed(specimen):
    with executed(processors=specimen.processors) as execution:
        specimen.call(zeroed=True)
    moved = sectors = scalars = scalar_sectors = 0
    for launch, report in zip(execution.launches, execution.reports, strict=True):
        moved += report.global_loads.bytes + report.global_stores.bytes
        sectors += report.global_loads.sectors + report.global_stores.sectors
        found = figures(launch, 90)
        narrow = {bits: number for bits, number in found.load_bits.items() if bits < 128}
        scalars += launch.threads(90) * sum(bits // 8 * number for bits, number in narrow.items())
        scalar_sectors += launch.threads(90) // 32 * sum(narrow.values())
    least = specimen.least_bytes(is_on_chip(execution.launches)) + specimen.chosen_chunk_bytes(execution.launches)
    assert moved <= MOST_BYTES * least + scalars
    assert 32 * sectors <= MOST_SECTORS * least + 32 * scalar_sectors

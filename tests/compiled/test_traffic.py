"""What the Triton kernels move."""

import device_traffic
import pytest
import torch

from bench.static.code import figures
from bench.static.specimens import Specimen

from .execution import executed

CASES = [
    *device_traffic.CASES,
    Specimen("gapped_straight_through_backward", 1, 4096, processors=None),
    Specimen("gapped_straight_through_backward", 1, 32768, torch.bfloat16, processors=None),
    Specimen("gapped_straight_through_backward", 1, 32768, torch.bfloat16, processors=132),
]


@pytest.mark.parametrize("specimen", CASES, ids=device_traffic.identify)
def test_rows_are_moved_no_more_than_needed(specimen):
    with executed(processors=specimen.processors) as execution:
        specimen.call(execution, zeroed=True)
    scalars = scalar_sectors = 0
    for launch in execution.launches:
        if launch.name == "sample_long_kernel":  # has few warps, or loads them once for all
            continue
        found = figures(launch, 90)
        narrow = {bits: number for bits, number in found.load_bits.items() if bits < 128}
        scalars += launch.threads(90) * sum(bits // 8 * number for bits, number in narrow.items())
        scalar_sectors += launch.threads(90) // 32 * sum(narrow.values())
    device_traffic.assert_little_is_moved(specimen, execution, scalars, scalar_sectors)

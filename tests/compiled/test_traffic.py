"""What the Triton kernels move."""

import device_traffic
import pytest
import torch
from device_routers import assignments

from bench.static.code import figures
from bench.static.specimens import Specimen

from .execution import executed

CASES = [
    *device_traffic.CASES,
    Specimen("sample", 1, 65536, processors=132),
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


@pytest.mark.parametrize(
    ("chosen", "most"),
    [
        ("the same", 1.07),  # a chunk's places are one expert's: 32 bytes read and written for 32 assignments
        ("drawn", 1.4),  # of eight experts, whose runs in a chunk begin and end within 32 bytes
    ],
)
def test_a_plan_reads_its_assignments_twice_and_writes_them_once(chosen, most):
    """What is counted is read 16 bytes at a time, and no byte of it twice."""
    length, experts = 8192, 8
    specimen = Specimen("dispatch_plan", length // 2, experts, processors=None)
    with executed() as execution:
        execution.dispatch_plan(assignments((length,), experts, chosen), experts)
    counting, _, placing = execution.reports
    assert (counting.global_loads.bytes, 32 * counting.global_loads.sectors) == (8 * length, 8 * length)
    assert 16 * length <= placing.global_stores.bytes
    sectors = sum(report.global_loads.sectors + report.global_stores.sectors for report in execution.reports)
    assert specimen.least_bytes(False) <= 32 * sectors <= most * specimen.least_bytes(False)

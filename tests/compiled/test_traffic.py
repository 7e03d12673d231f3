"""What the Triton kernels move."""

import device_traffic
import pytest

from bench.static.code import figures

from .execution import executed


@pytest.mark.parametrize("specimen", device_traffic.CASES, ids=device_traffic.identify)
def test_rows_are_moved_no_more_than_needed(specimen):
    with executed(processors=specimen.processors) as execution:
        specimen.call(execution, zeroed=True)
    scalars = scalar_sectors = 0
    for launch in execution.launches:
        found = figures(launch, 90)
        narrow = {bits: number for bits, number in found.load_bits.items() if bits < 128}
        scalars += launch.threads(90) * sum(bits // 8 * number for bits, number in narrow.items())
        scalar_sectors += launch.threads(90) // 32 * sum(narrow.values())
    device_traffic.assert_little_is_moved(specimen, execution, scalars, scalar_sectors)

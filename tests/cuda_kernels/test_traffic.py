"""What the CUDA kernels move."""

import dataclasses

import device_traffic
import pytest

WHOLE_ROWS = 4  # occupy the one multiprocessor of the smallest device
SCALARS = 4  # of a thread, by 8 bytes, and of a backward besides logit and gradient of the drawn category, by 4
SEGMENT = 512  # bytes of a chunk: the drawn one's elements are summed up one by one


@pytest.mark.parametrize("specimen", device_traffic.CASES, ids=device_traffic.identify)
def test_rows_are_moved_no_more_than_needed(executed, specimen):
    if specimen.processors is None:
        specimen = dataclasses.replace(specimen, rows=WHOLE_ROWS)
    with executed(processors=specimen.processors) as execution:
        specimen.call(execution, zeroed=True)
    threads = sum(launch.threads for launch in execution.launches)
    of_thread = 8 * SCALARS + (0 if specimen.path.startswith("sample") else 2 * 4)
    sectors = (SCALARS + 2) * threads // 32
    device_traffic.assert_little_is_moved(specimen, execution, of_thread * threads, sectors, SEGMENT * specimen.rows)

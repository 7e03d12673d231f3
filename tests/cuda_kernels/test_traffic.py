"""What the CUDA kernels move."""

import dataclasses

import device_traffic
import pytest
import torch

from bench.static.specimens import Specimen

WHOLE_ROWS = 4  # occupy the one multiprocessor of the smallest device
SCALARS = 4  # of a thread, by 8 bytes, and of a backward besides logit and gradient of the drawn category, by 4
ROUTED = 2  # experts of a specimen's row
SEGMENT = 512  # bytes of a chunk: the drawn one's elements are summed up one by one


CASES = [
    *device_traffic.CASES,
    # In float32 a thread has a sector by two accesses, for each of which it is counted.
    Specimen("gumbel_rao_backward", WHOLE_ROWS, 8192, torch.bfloat16, processors=None),
]


@pytest.mark.parametrize("specimen", CASES, ids=device_traffic.identify)
def test_rows_are_moved_no_more_than_needed(executed, specimen):
    if specimen.processors is None:
        specimen = dataclasses.replace(specimen, rows=WHOLE_ROWS)
    with executed(processors=specimen.processors) as execution:
        specimen.call(execution, zeroed=True)
    threads = sum(launch.threads for launch in execution.launches)
    of_thread = 8 * SCALARS + (0 if specimen.path.startswith("sample") else 2 * 4)
    sectors = (SCALARS + 2) * threads // 32
    device_traffic.assert_little_is_moved(specimen, execution, of_thread * threads, sectors, SEGMENT * specimen.rows)


# Of the row's logits, how often they are read: once where a group of threads holds them; of a long row, which comes
# from the caches then, for each draw twice, and for a gradient once more than there are draws.
READS = {("sparse_mixer", False): 1, ("sparse_mixer", True): 4, ("sparse_mixer_backward", False): 1}
READS |= {("sparse_mixer_backward", True): 3, ("topk_router", False): 1, ("topk_router_backward", False): 0}


@pytest.mark.parametrize(("dtype", "categories"), [(torch.float32, 64), (torch.bfloat16, 256), (torch.float32, 1024)])
@pytest.mark.parametrize("path", sorted({path for path, _ in READS}))
def test_experts_are_moved_no_more_than_needed(executed, path, dtype, categories):
    specimen = Specimen(path, 8, categories, dtype, None)
    if (path, specimen.categories > 256) not in READS:
        pytest.skip("a thread whose best expert was taken looks for its next one")
    with executed() as execution:
        specimen.call(execution, zeroed=True)
    (report,) = execution.reports
    chosen, size = specimen.rows * ROUTED, dtype.itemsize
    row = specimen.elements * size
    # Of a draw: the drawn expert's logit, the segment that it lies in where the row is long, and the seed.
    own = {"sparse_mixer": chosen * (size + SEGMENT) + 8 * specimen.rows, "topk_router": chosen * size}
    # Of a gradient, by all threads of a row, at most a warp: index, log-sum-exp, weight's gradient and logit.
    most = READS[path, specimen.categories > 256] * row + own.get(path, 32 * chosen * (8 + 8 + 2 * size))
    assert report.global_loads.bytes <= most
    if path.endswith("backward"):
        assert row <= report.global_stores.bytes <= row + (chosen * size if path.startswith("topk") else 0)
    else:
        state = 16 if path == "sparse_mixer" else 8
        assert report.global_stores.bytes == chosen * (state + size)

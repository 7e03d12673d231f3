"""Draws of the CUDA kernels at both ends of intervals, and faults in the roundings that they depend on."""

import pytest
from device_boundaries import DrawsAtBoundaries, assert_a_draw_is_wrong

from .planting import Fault, Planted


class TestCuda(DrawsAtBoundaries):
    pass


def rounded_twice(coefficient):
    """A step of Horner's rule that rounds its product before it adds the coefficient."""
    step = f"Simd::fma(value, f, Simd::broadcast({coefficient}))"
    return Fault("contract.h", step, f"(value * f + {coefficient})")


STEPS = ["1.3399930903688073e-3f", "9.618489071726799e-3f", "5.550328642129898e-2f", "2.4022646248340607e-1f"]
STEPS += ["6.931471824645996e-1f", "1.0f"]
FAULTS = {
    **{f"step {number} rounds twice": rounded_twice(each) for number, each in enumerate(STEPS, 1)},
    "integers rounded down": Fault("cuda/weights.cuh", "rest = __fmaf_rn(", "rest = __fmaf_rd("),
    "integers rounded up": Fault("cuda/weights.cuh", "rest = __fmaf_rn(", "rest = __fmaf_ru("),
    "low bits of a prefix sum": Fault("cuda/weights.cuh", "(high + (low >> 22)) >> 31", "high >> 31"),
}
OF_CHUNKS = {
    "step 6 rounds twice": rounded_twice(STEPS[-1]),
    "chunk weights rounded down": Fault("cuda/chunks.cuh", "__double2ll_rn(", "__double2ll_rd("),
}


@pytest.mark.parametrize(
    ("kernel", "fault"), [*(("short", fault) for fault in FAULTS), *(("long", fault) for fault in OF_CHUNKS)]
)
def test_a_wrong_rounding_changes_draws_at_boundaries(build_for, executed, tmp_path, kernel, fault, monkeypatch):
    planted = Planted(build_for(90), tmp_path, [(FAULTS | OF_CHUNKS)[fault]])
    assert_a_draw_is_wrong(executed, kernel, monkeypatch, edit=planted)

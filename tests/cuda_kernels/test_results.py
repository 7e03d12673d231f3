"""The results of the CUDA kernels."""

import device_results
import pytest

WHOLE_ROWS = 4  # occupy the one multiprocessor of the smallest device


class TestDraws(device_results.Draws):
    whole_rows = WHOLE_ROWS


class TestGradients(device_results.Gradients):
    whole_rows = WHOLE_ROWS


@pytest.mark.slow
class TestOtherTargets(device_results.OtherTargets):
    pass


class TestRows(device_results.Rows):
    pass

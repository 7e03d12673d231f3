"""The results of the CUDA kernels."""

import device_results
import pytest


class TestDraws(device_results.Draws):
    pass


class TestGradients(device_results.Gradients):
    pass


@pytest.mark.slow
class TestOtherTargets(device_results.OtherTargets):
    pass


class TestRows(device_results.Rows):
    pass

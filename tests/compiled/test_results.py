"""The results of the compiled Triton kernels."""

import device_results


class TestDraws(device_results.Draws):
    pass


class TestGradients(device_results.Gradients):
    pass


class TestOtherTargets(device_results.OtherTargets):
    pass


class TestRows(device_results.Rows):
    pass

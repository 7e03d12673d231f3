"""The results of the CUDA kernels of bits."""

import device_bernoulli
import pytest


class TestDraws(device_bernoulli.Draws):
    pass


class TestGradients(device_bernoulli.Gradients):
    pass


class TestElements(device_bernoulli.Elements):
    pass


@pytest.mark.slow
class TestOtherTargets(device_bernoulli.OtherTargets):
    pass

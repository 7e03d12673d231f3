"""The results of the compiled Triton kernels of bits."""

import device_bernoulli


class TestDraws(device_bernoulli.Draws):
    pass


class TestGradients(device_bernoulli.Gradients):
    pass


class TestElements(device_bernoulli.Elements):
    pass


class TestOtherTargets(device_bernoulli.OtherTargets):
    pass

"""The results of the CUDA kernels."""

import device_results
import pytest
import torch

WHOLE_ROWS = 4  # occupy the one multiprocessor of the smallest device


class TestDraws(device_results.Draws):
    whole_rows = WHOLE_ROWS

    @pytest.mark.parametrize("rows", [32, 64])  # so many that each has two warps, and one
    def test_many_rows_of_several_chunks(self, executed, rows):
        self.check(executed, (rows, 2056), torch.bfloat16, None)


class TestGradients(device_results.Gradients):
    whole_rows = WHOLE_ROWS


class TestNoisyGradients(device_results.NoisyGradients):
    pass


@pytest.mark.slow
class TestOtherTargets(device_results.OtherTargets):
    pass


class TestRows(device_results.Rows):
    pass

"""The results of the compiled Triton kernels."""

import device_results
import pytest
import torch
from reinmax_kernels.triton_kernels import launch


class TestDraws(device_results.Draws):
    pass


class TestGradients(device_results.Gradients):
    pass


class TestNoisyGradients(device_results.NoisyGradients):
    pass


class TestOtherTargets(device_results.OtherTargets):
    pass


class TestRows(device_results.Rows):
    pass


@pytest.fixture
def narrow_programs(monkeypatch):
    """Of so few threads that each goes along a group of a row's chunks, as otherwise from 2**20 categories on."""
    monkeypatch.setattr(launch, "MOST_WARPS", 4)


@pytest.mark.usefixtures("narrow_programs")
class TestGroups:
    """Of chunks, or of parts, of which each thread holds one at a time."""

    CATEGORIES = 150 * 1024 + 8

    @staticmethod
    def are_in_groups(execution):
        return any(each.constants["GROUP"] > 1 for each in execution.launches)

    def test_draws(self, executed):
        """All of a row's probability lies in one chunk: of the first group, of a whole one, of the last."""
        drawn = torch.tensor([1030, 77 * 1024 + 5, self.CATEGORIES - 1])
        logits = torch.full((3, self.CATEGORIES), -torch.inf)
        logits[torch.arange(3), drawn] = 0
        with executed(processors=device_results.IN_PARTS) as device:
            assert torch.equal(device.sample(logits, device_results.seed(), None, 0, 0), drawn)
            one_hot, _, index, log_sum_exp = device.sample_dense(logits, device_results.seed(), None, 0, 0)
        assert self.are_in_groups(device)
        assert torch.equal(index, drawn)
        assert torch.equal(one_hot, (logits == 0).float())
        assert log_sum_exp.abs().max() < 1e-13

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_forward(self, executed, dtype):
        device_results.Draws().check(executed, (1, self.CATEGORIES), dtype, device_results.IN_PARTS)

    @pytest.mark.parametrize("chunk", [1, 149])
    def test_a_row_without_a_distribution(self, executed, chunk):
        logits = torch.zeros(1, self.CATEGORIES)
        logits[0, 1024 * chunk + 9] = torch.nan
        with executed(processors=device_results.IN_PARTS) as device:
            _, probs, index, log_sum_exp = device.sample_dense(logits, device_results.seed(), None, 0, 0)
        assert self.are_in_groups(device)
        assert index == 0
        assert probs.isnan().all()
        assert log_sum_exp.isnan()

    @pytest.mark.parametrize("name", device_results.BACKWARDS)
    def test_backward(self, executed, name):
        device_results.Gradients().check(
            executed, name, (1, self.CATEGORIES), torch.float32, 0.5, "gh", device_results.IN_PARTS
        )

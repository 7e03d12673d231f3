"""What kernels of the routers for a GPU have to give, beside the reference: cases that all ways to run them share.

The fixture `executed` is as in `device_results`.
"""

import pytest
import torch
from device_results import random, seed

from reinmax_kernels import router_ops

REFERENCE = router_ops.OPS["reference"]
KINDS = [(1, 1), (2, 1), (2, 2)]  # version, k
STREAM = 2**62 + 5, 2**32 - 20  # offset and row_offset
CASES = [
    ((70, 2), torch.float32),
    ((40, 8), torch.bfloat16),
    ((9, 10), torch.float64),
    ((6, 64), torch.float32),
    ((3, 100), torch.float16),
    ((2, 1024), torch.float32),
    ((1, 1000), torch.float64),
]


def assert_close(found, expected, dtype, scale=1.0):
    """But for the rounding to the logits' dtype, and that of what it was computed in."""
    eps = torch.finfo(dtype).eps
    tolerance = scale * (1e-14 if dtype == torch.float64 else 1e-6)
    torch.testing.assert_close(found.double(), expected.double(), rtol=eps, atol=tolerance, equal_nan=True)


class SparseMixer:
    @pytest.mark.parametrize("masked", [False, True], ids=["", "masked"])
    @pytest.mark.parametrize("training", [True, False], ids=["training", "evaluating"])
    @pytest.mark.parametrize(("version", "k"), KINDS)
    @pytest.mark.parametrize(("shape", "dtype"), CASES)
    def test_values_and_gradients(self, executed, shape, dtype, version, k, training, masked):
        logits = random(shape, dtype)
        mask = None
        if masked:
            mask = torch.rand(shape) < 0.7
            mask[:, :2] = True
            logits = logits.masked_fill(~mask, torch.nan)
        self.check(executed, logits, seed(-9) if training else None, mask, version, k)

    def check(self, executed, logits, seeds, mask, version, k):
        operands, dtype = (logits, seeds, mask, *STREAM, k, version, 0.3), logits.dtype
        g = random((*logits.shape[:-1], k), dtype)
        expected = REFERENCE["sparse_mixer"](*operands)
        with executed() as device:
            index, weight, log_sum_exp = device.sparse_mixer(*operands)
            grad = device.sparse_mixer_backward(g, logits, expected[0], expected[2], mask, 0.3, 2.0)
        assert torch.equal(index, expected[0])
        assert (weight.dtype, grad.dtype) == (dtype, dtype)
        assert_close(weight, expected[1], dtype)
        assert_close(log_sum_exp, expected[2], torch.float64 if dtype == torch.float64 else torch.float32)
        truth = REFERENCE["sparse_mixer_backward"](
            g.double(), logits.double(), expected[0], expected[2], mask, 0.3, 2.0
        )
        assert_close(grad, truth, dtype, 4)
        if mask is not None:
            assert (grad[~mask.expand_as(grad)] == 0).all()

    def test_seeds_of_groups(self, executed):
        self.check(executed, torch.randn(6, 12), seed(1, -2, 2**62), None, 2, 2)

    def test_strides(self, executed):
        self.check(executed, torch.randn(12, 4, 3).movedim(0, -1), seed(), None, 2, 2)

    def test_ties_go_to_the_lower_index(self, executed):
        logits = torch.zeros(5, 12)
        logits[:, :3] = -1
        with executed() as device:
            index, _, _ = device.sparse_mixer(logits, None, None, 0, 0, 2, 2, 0.1)
        assert torch.equal(index, torch.tensor([3, 4]).expand(5, 2))

    @pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
    @pytest.mark.parametrize("experts", [5, 100])
    def test_a_row_without_a_distribution_disturbs_no_other(self, executed, experts, value):
        logits = torch.randn(3, experts)
        expected = REFERENCE["sparse_mixer"](logits, seed(), None, 0, 0, 2, 2, 0.1)
        spoilt = logits.clone()
        spoilt[1, slice(None) if value == -torch.inf else -1] = value
        with executed() as device:
            index, weight, log_sum_exp = device.sparse_mixer(spoilt, seed(), None, 0, 0, 2, 2, 0.1)
            grad = device.sparse_mixer_backward(torch.ones(3, 2), spoilt, index, log_sum_exp, None, 0.1, 1.0)
        assert (index[1] == 0).all()
        assert weight[1].isnan().all()
        assert log_sum_exp[1].isnan().all()
        assert grad[1].isnan().all()
        assert torch.equal(index[::2], expected[0][::2])
        assert grad[::2].isfinite().all()

    def test_no_rows(self, executed):
        with executed() as device:
            index, weight, log_sum_exp = device.sparse_mixer(torch.randn(0, 5), seed(), None, 0, 0, 2, 2, 0.1)
            grad = device.sparse_mixer_backward(weight, torch.randn(0, 5), index, log_sum_exp, None, 0.1, 1.0)
        assert (index.shape, weight.shape, grad.shape) == ((0, 2), (0, 2), (0, 5))


class TopkRouter:
    @pytest.mark.parametrize("normalize", [True, False], ids=["normalized", ""])
    @pytest.mark.parametrize("sigmoid", [False, True], ids=["softmax", "sigmoid"])
    @pytest.mark.parametrize(
        ("shape", "dtype", "k"),
        [
            ((70, 2), torch.float32, 1),
            ((40, 8), torch.bfloat16, 2),  # whose logits have ties
            ((9, 10), torch.float64, 10),
            ((6, 64), torch.float16, 6),
            ((3, 100), torch.float32, 7),
            ((5, 200), torch.float32, 9),  # a warp to a row
            ((2, 1024), torch.float32, 2),
        ],
    )
    def test_values_and_gradients(self, executed, shape, dtype, k, sigmoid, normalize):
        logits = random(shape, dtype, 3)
        logits[0, 1:] = -torch.inf
        logits[-1, ::2] = -0.0
        logits[-1, 1::2] = 0.0
        self.check(executed, logits, k, sigmoid, normalize)

    def check(self, executed, logits, k, sigmoid, normalize):
        dtype, g = logits.dtype, random((*logits.shape[:-1], k), logits.dtype)
        expected = REFERENCE["topk_router"](logits, k, sigmoid, normalize)
        with executed() as device:
            index, weight = device.topk_router(logits, k, sigmoid, normalize)
            grad = device.topk_router_backward(g, logits, expected[0], sigmoid, normalize)
        assert torch.equal(index, expected[0])
        assert (weight.dtype, grad.dtype) == (dtype, dtype)
        assert_close(weight, expected[1], dtype)
        truth = REFERENCE["topk_router_backward"](g.double(), logits.double(), expected[0], sigmoid, normalize)
        assert_close(grad, truth, dtype, 4)

    @pytest.mark.parametrize("sigmoid", [False, True], ids=["softmax", "sigmoid"])
    def test_logits_far_apart(self, executed, sigmoid):
        self.check(executed, torch.tensor([[-1e4, -9999.0, -3e4], [1e4, 0.0, 9999.0]]), 2, sigmoid, True)

    def test_strides(self, executed):
        self.check(executed, torch.randn(12, 4, 3).movedim(0, -1), 3, False, True)

    @pytest.mark.parametrize("value", [torch.nan, -torch.nan, torch.inf])
    def test_a_row_without_a_distribution_disturbs_no_other(self, executed, value):
        logits = torch.randn(3, 20)
        expected = REFERENCE["topk_router"](logits, 4, False, True)
        spoilt = logits.clone()
        spoilt[1, 5] = value
        with executed() as device:
            index, weight = device.topk_router(spoilt, 4, False, True)
        assert index[1, 0] == 5
        assert weight[1].isnan().all()
        assert torch.equal(index[::2], expected[0][::2])

    def test_no_rows(self, executed):
        with executed() as device:
            index, weight = device.topk_router(torch.randn(0, 5), 2, False, True)
            grad = device.topk_router_backward(weight, torch.randn(0, 5), index, False, True)
        assert (index.shape, weight.shape, grad.shape) == ((0, 2), (0, 2), (0, 5))


def assignments(shape, experts, chosen="drawn"):
    """Lists of experts: drawn, all the same, or in falling order, which a sort has to turn round."""
    if chosen == "drawn":
        return torch.randint(experts, shape)
    if chosen == "the same":
        return torch.full(shape, experts - 1)
    return torch.arange(shape[-1]).flip(0).remainder(experts).expand(shape)


class DispatchPlan:
    @pytest.mark.parametrize(
        ("shape", "experts", "chosen"),
        [
            ((1,), 1, "drawn"),
            ((31,), 2, "drawn"),
            ((33,), 5, "falling"),
            ((130,), 3, "the same"),
            ((1500,), 8, "drawn"),  # more than one round to a part
            ((300,), 8, "falling"),
            ((555,), 256, "drawn"),  # as many as are looked at at a time, and with those that are none one more
            ((1100,), 1030, "drawn"),  # more than a router has
            ((3, 100), 9, "drawn"),
            ((2, 3, 37), 12, "falling"),
        ],
    )
    def test_plan_and_counts(self, executed, shape, experts, chosen):
        self.check(executed, assignments(shape, experts, chosen), experts)

    def check(self, executed, index, experts, **device_options):
        """What is no expert is one more for the reference, behind the others."""
        known = torch.where((index >= 0) & (index < experts), index, experts)
        counts, order, inverse = REFERENCE["dispatch_plan"](known, experts + 1)
        counts = counts[..., :experts]
        with executed(**device_options) as device:
            found = device.dispatch_plan(index, experts)
            assert torch.equal(device.expert_counts(index, experts), counts)
        for ours, expected in zip(found, (counts, order, inverse), strict=True):
            assert ours.dtype == torch.int64
            assert torch.equal(ours, expected)

    @pytest.mark.parametrize("experts", [1, 300])
    def test_what_is_no_expert_comes_last_and_is_written_nowhere_else(self, executed, experts):
        index = torch.randint(experts, (2, 80))
        index[0, ::5] = torch.tensor([-1, experts, 2**31, 2**32, 2**40 + 1, -(2**63), 2**63 - 1, -7]).repeat(2)
        index[1] = -1
        self.check(executed, index, experts)

    @pytest.mark.parametrize("length", [64, 66, 67])
    def test_strides(self, executed, length):
        self.check(executed, torch.randint(9, (length, 2)).T, 9)
        self.check(executed, torch.randint(9, (length + 1,))[1:], 9)

    @pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 5)])
    def test_no_assignments(self, executed, shape):
        self.check(executed, torch.zeros(shape, dtype=torch.int64), 4)

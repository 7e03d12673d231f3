"""What the op table makes of tensors, for the kernels: two loops over rows, copies where that is not how they lie."""

import pytest
import torch
from device_results import BACKWARDS, REFERENCE, backward, seed, true_backward


def check(executed, logits, g, mask):
    """All ops give what the reference gives, of whatever strides."""
    expected = REFERENCE["sample_dense"](logits, seed(), mask, 0, 0)
    arguments = g, None, logits, *expected[2:], mask, None
    with executed() as device:
        one_hot, probs, index, log_sum_exp = device.sample_dense(logits, seed(), mask, 0, 0)
        grad = device.reinmax_backward(*arguments)
    assert torch.equal(index, expected[2])
    assert torch.equal(one_hot, expected[0])
    assert torch.allclose(probs, expected[1], atol=1e-6)
    assert torch.allclose(log_sum_exp, expected[3])
    assert torch.allclose(grad, REFERENCE["reinmax_backward"](*arguments), atol=1e-6)
    assert all(tensor.is_contiguous() for tensor in (one_hot, probs, index, log_sum_exp, grad))


def some(*shape):
    mask = torch.rand(shape) < 0.6
    mask[..., 0] = True
    return mask


MASKS = {
    "none": lambda shape: None,
    "of categories": lambda shape: some(shape[-1]),
    "of rows": lambda shape: torch.ones(*shape[:-1], 1, dtype=torch.bool),
    "of the middle": lambda shape: some(shape[1], 1, shape[-1]),
    "apart": lambda shape: some(*shape[::-1]).permute(3, 2, 1, 0) | some(shape[-1]),
    "one for all": lambda shape: torch.tensor(True),
}
LAYOUTS = {
    "contiguous": lambda shape: torch.randn(shape),
    "three loops": lambda shape: torch.randn(shape[2], shape[1], shape[0], shape[3]).permute(2, 1, 0, 3),
    "categories apart": lambda shape: torch.randn(shape[3], *shape[:3]).movedim(0, -1),
    "one row for all": lambda shape: torch.randn(shape[-1]).expand(shape),
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_and_masks(executed, layout, mask):
    shape = (2, 3, 2, 7)
    check(executed, LAYOUTS[layout](shape), LAYOUTS[layout](shape), MASKS[mask](shape))


@pytest.mark.parametrize("g", ["contiguous", "three loops", "categories apart", "one number"])
def test_gradients_that_lie_otherwise_than_logits(executed, g):
    shape = (2, 3, 2, 7)
    gradient = torch.randn(()).expand(shape) if g == "one number" else LAYOUTS[g](shape)
    check(executed, torch.randn(shape), gradient, None)


@pytest.mark.parametrize("given", ["g", "h", "gh"])
@pytest.mark.parametrize("tau", [None, 0.5])
@pytest.mark.parametrize("name", BACKWARDS)
def test_masks_and_absent_gradients_of_rows_in_registers(executed, name, tau, given):
    logits, mask = torch.randn(2, 1001), some(2, 1001)
    g, h = (torch.randn(2, 1001).where(mask, torch.nan) if letter in given else None for letter in "gh")
    tau = None if tau is None else torch.tensor(tau, dtype=torch.float64)
    arguments = g, h, logits, *REFERENCE["sample_dense"](logits, seed(), mask, 0, 0)[2:], mask, tau
    with executed() as device:
        grad = backward(device, name, *arguments)
    assert torch.allclose(grad, true_backward(name, *arguments), atol=1e-6)


@pytest.mark.parametrize("shape", [(7,), (1, 1, 7), (5, 1), (1,)])
def test_few_dimensions(executed, shape):
    check(executed, torch.randn(shape), torch.randn(shape), None)


@pytest.mark.parametrize("shape", [(0, 5), (3, 0, 5)])
def test_no_rows(executed, shape):
    with executed() as device:
        one_hot, probs, index, log_sum_exp = device.sample_dense(torch.empty(shape), seed(), None, 0, 0)
        grad = device.reinmax_backward(one_hot, probs, torch.empty(shape), index, log_sum_exp, None, None)
        assert device.launches == []
    assert one_hot.shape == probs.shape == grad.shape == shape
    assert index.shape == log_sum_exp.shape == shape[:-1]


def test_seeds_apart_are_gathered(executed):
    logits, seeds = torch.randn(6, 5), torch.arange(12).view(6, 2)[:, 1][::2]
    with executed() as device:
        index = device.sample(logits, seeds, None, 0, 0)
    assert torch.equal(index, REFERENCE["sample"](logits, seeds, None, 0, 0))


X = torch.randn(3, 4)
WRONG = {
    "logits: expected floating-point": (X > 0, seed(), None),
    "logits: expected a category dimension": (X[0, 0], seed(), None),
    "logits: expected 1 to": (X[:, :0], seed(), None),
    "seed: expected int64": (X, seed().int(), None),
    "seed: expected int64 seeds whose number divides": (X, seed(1, 2), None),
    "mask: expected a boolean": (X, seed(), X),
    "broadcasts to the logits' shape": (X, seed(), X[:2] > 0),
    "expected a tensor that broadcasts": (X, seed(), X[None, None] > 0),
}


@pytest.mark.parametrize("message", WRONG)
def test_what_does_not_fit_is_refused(executed, message):
    with executed() as device, pytest.raises(ValueError, match=message):
        device.sample(*WRONG[message], 0, 0)


def test_gradients_of_another_dtype_are_refused(executed):
    index, log_sum_exp = torch.zeros(3, dtype=torch.int64), torch.zeros(3, dtype=torch.float64)
    with executed() as device:
        with pytest.raises(ValueError, match="gradient: expected the logits' dtype"):
            device.reinmax_backward(X.double(), None, X, index, log_sum_exp, None, None)
        with pytest.raises(ValueError, match="tau: expected one float64"):
            device.reinmax_backward(X, None, X, index, log_sum_exp, None, torch.ones(1))


def test_a_launch_that_fails_is_an_error(executed):
    def missing(name, text):
        raise FileNotFoundError("no such kernel")

    with executed(edit=missing) as device, pytest.raises(FileNotFoundError):
        device.sample(X, seed(), None, 0, 0)

"""Bits on a GPU: the contract's vectors, values and gradients against the reference on the CPU, the law of the draws,
elements without a bit, graphs, streams, and more than 2**31 elements.
"""

import pytest
import torch
from device_bernoulli import BITS, DTYPES, LAYOUTS, vector
from scipy import stats

import reinmax_kernels
from reinmax_kernels import bernoulli
from reinmax_kernels.bernoulli import ESTIMATORS

from .concurrency import assert_replays, assert_streams_do_not_meet

TOLERANCE = {torch.float16: 2e-3, torch.bfloat16: 1.6e-2, torch.float32: 4e-6, torch.float64: 1e-13}


@pytest.fixture(params=ESTIMATORS)
def estimator(request):
    return request.param


@pytest.mark.parametrize("name", BITS)
def test_contract_vectors(device, name):
    logits, (seed, _mask, offset, row_offset), bits = vector(name)
    drawn, _ = bernoulli(logits.to(device), seed=seed.to(device), offset=offset, row_offset=row_offset)
    assert torch.equal(drawn.cpu(), bits.float())


def forward_and_backward(estimator, tensors, mask, tau, **stream):
    """`tensors`: logits, the gradient of the bits, and that of the probabilities, if there is one."""
    logits, g, *h = tensors
    logits = logits.detach().requires_grad_()
    outputs = bernoulli(logits, estimator, tau, mask=mask, **stream)
    (grad,) = torch.autograd.grad(outputs[: 1 + len(h)], logits, (g, *h))
    return [tensor.detach().double().cpu() for tensor in (*outputs, grad)]


def check(device, estimator, tensors, mask, tau, **stream):
    """Beside the reference on the CPU."""
    stream = {"seed": 5, "row_offset": 2**32 - 20} | stream
    on_device = None if mask is None else mask.to(device)
    actual = forward_and_backward(estimator, [tensor.to(device) for tensor in tensors], on_device, tau, **stream)
    with reinmax_kernels.backend("reference"):
        expected = forward_and_backward(estimator, tensors, mask, tau, **stream)
    tolerance = TOLERANCE[tensors[0].dtype]
    assert torch.equal(actual[0], expected[0])
    for ours, reference in zip(actual, expected, strict=True):
        assert torch.allclose(ours, reference, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("gradients", [1, 2], ids=["g", "gh"])
@pytest.mark.parametrize("tau", [1.0, 0.7])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [1, 1000, 1024, 2**20, 1_000_003])
def test_values_and_gradients(device, estimator, count, dtype, tau, gradients):
    check(device, estimator, [(3 * torch.randn(count)).to(dtype) for _ in range(1 + gradients)], None, tau)


@pytest.mark.parametrize("row_offset", [0, 1, -1])
@pytest.mark.parametrize("dtype", DTYPES)
def test_odd_offsets(device, estimator, dtype, row_offset):
    check(device, estimator, [torch.randn(4099).to(dtype) for _ in range(2)], None, 0.7, row_offset=row_offset)


@pytest.mark.parametrize("shape", [(), (50,), (90, 1), (8, 1, 50), (8, 90, 50)])
def test_masks(device, estimator, shape):
    mask = torch.rand(shape) < 0.7
    check(device, estimator, [torch.randn(8, 90, 50).masked_fill(~mask, torch.nan) for _ in range(3)], mask, 0.7)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_strides(device, estimator, layout, dtype):
    check(device, estimator, [LAYOUTS[layout]((70, 30, 100)).to(dtype) for _ in range(3)], None, 1.0)


@pytest.mark.parametrize("x", [0.0, 0.7, -2.0, -9.0])
def test_bits_follow_the_sigmoid(device, x):
    bits, _ = bernoulli(torch.full((2**20,), x, device=device), seed=5)
    assert stats.binomtest(int(bits.sum()), 2**20, torch.tensor(x).double().sigmoid().item()).pvalue > 1e-4


def test_an_element_without_a_bit_disturbs_no_other(device, estimator):
    logits = torch.randn(100_001, device=device)
    clean, _ = bernoulli(logits, estimator, seed=1)
    logits[[0, 7, 100_000]] = torch.nan
    logits[3] = torch.inf
    logits.requires_grad_()
    bits, probs = bernoulli(logits, estimator, seed=1)
    (grad,) = torch.autograd.grad(bits.sum(), logits)
    bad = logits.isnan()
    assert bad.sum() == 3
    assert (bits[bad] == 0).all()
    assert torch.equal(probs.isnan(), bad)
    assert torch.equal(grad.isnan(), bad)
    assert (bits[3], probs[3], grad[3]) == (1, 1, 0)
    bad[3] = True
    assert torch.equal(bits[~bad], clean[~bad])


@pytest.mark.parametrize("count", [1000, 2**20])
def test_a_graph_replays_forward_and_backward(device, count, estimator):
    logits, g = (torch.randn(count, device=device) for _ in range(2))
    logits.requires_grad_()
    seed = torch.tensor([1], device=device)

    def step():
        bits, probs = bernoulli(logits, estimator, 0.9, seed=seed)
        return bits, probs, *torch.autograd.grad(bits, logits, g)

    assert_replays(step, lambda: (seed.add_(1), logits.normal_()))


def test_two_streams_at_once(device):
    logits = [torch.randn(2**22, device=device) for _ in range(2)]
    assert_streams_do_not_meet(lambda x: bernoulli(x, seed=3)[0], logits)


def test_more_than_2_31_elements(device, estimator):
    count = 2**31 + 5
    logits = torch.zeros(count, dtype=torch.bfloat16, device=device)
    last = torch.randn(3, device=device).to(torch.bfloat16)
    logits[-3:] = last
    logits.requires_grad_()
    bits, _ = bernoulli(logits, estimator, seed=2)
    (grad,) = torch.autograd.grad(bits, logits, torch.ones((), dtype=logits.dtype, device=device).expand(count))
    few = last.clone().requires_grad_()
    expected, _ = bernoulli(few, estimator, seed=2, row_offset=count - 3)
    assert torch.equal(bits[-3:], expected)
    (expected,) = torch.autograd.grad(expected.sum(), few)
    assert torch.allclose(grad[-3:], expected, rtol=TOLERANCE[grad.dtype], atol=TOLERANCE[grad.dtype])

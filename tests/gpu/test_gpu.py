"""The kernels on a GPU: the contract's vectors, values and gradients against the reference on the CPU, the law of the
draws, rows without a distribution, graphs, streams, and more than 2**31 elements.
"""

import pytest
import torch
from scipy import stats
from test_contract import NAMES, vector

import reinmax_kernels
from reinmax_kernels import reinmax, sample, straight_through

ESTIMATORS = [reinmax, straight_through]
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
SHAPES = [(7, 1), (300, 2), (33, 3), (100, 10), (16, 64), (9, 255), (4, 1024), (3, 2049), (5, 9000), (2, 40000)]
TOLERANCE = {torch.float16: 2e-3, torch.bfloat16: 1.6e-2, torch.float32: 2e-6, torch.float64: 1e-13}


@pytest.fixture(autouse=True, params=["auto", "triton"])
def gpu_backend(request, device):
    with reinmax_kernels.backend(request.param):
        yield request.param


@pytest.mark.parametrize("name", NAMES)
def test_contract_vectors(device, name):
    logits, args, index = vector(name)
    if isinstance(args["seed"], torch.Tensor):
        args["seed"] = args["seed"].to(device)
    assert torch.equal(sample(logits.to(device), **args).cpu(), index)


def forward_and_backward(estimator, tensors, mask, tau):
    logits, g, h = tensors
    logits = logits.requires_grad_()
    one_hot, probs = estimator(logits, tau, mask=mask, seed=5)
    (grad,) = torch.autograd.grad((one_hot, probs), logits, (g, h))
    return [tensor.detach().double().cpu() for tensor in (one_hot, probs, grad)]


@pytest.mark.parametrize("tau", [1.0, 0.7])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_values_and_gradients(device, estimator, shape, dtype, tau):
    tensors = [torch.randn(shape).to(dtype) for _ in range(3)]
    mask = torch.rand(shape) < 0.8
    mask[:, 0] = True
    actual = forward_and_backward(estimator, [tensor.to(device) for tensor in tensors], mask.to(device), tau)
    with reinmax_kernels.backend("reference"):
        expected = forward_and_backward(estimator, tensors, mask, tau)
    assert torch.equal(actual[0], expected[0])
    for ours, reference in zip(actual, expected, strict=True):
        assert torch.allclose(ours, reference, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("categories", [2, 10, 100, 3000])
def test_draws_follow_the_softmax(device, categories):
    logits = torch.randn(categories, device=device)
    counts = sample(logits.expand(2**18, -1), seed=1).bincount(minlength=categories).cpu().numpy()
    expected = 2**18 * logits.double().softmax(-1).cpu().numpy()
    often = expected > 20
    observed = [*counts[often], counts[~often].sum()]
    assert stats.chisquare(observed, [*expected[often], expected[~often].sum() + 1e-9]).pvalue > 1e-4


@pytest.mark.parametrize("categories", [5, 1000, 5000, 40000])
def test_a_row_without_a_distribution_disturbs_no_other(device, categories):
    logits = torch.randn(3, categories, device=device)
    clean, _ = reinmax(logits, seed=1)
    logits[1, -1] = torch.nan
    logits.requires_grad_()
    one_hot, probs = reinmax(logits, seed=1)
    assert torch.equal(one_hot[::2], clean[::2])
    assert sample(logits, seed=1)[1] == 0
    assert probs[1].isnan().all()
    (one_hot * torch.ones_like(one_hot)).sum().backward()
    assert logits.grad[1].isnan().all()
    assert logits.grad[::2].isfinite().all()


@pytest.mark.parametrize("shape", [(512, 10), (64, 3000), (2, 100_000)])
def test_a_graph_replays_with_another_seed(device, shape):
    logits, seed = torch.randn(shape, device=device), torch.tensor([1], device=device)
    sample(logits, seed=seed)  # compiled before the capture
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        index = sample(logits, seed=seed)
    for value in (1, 2, 3):
        seed.fill_(value)
        graph.replay()
        assert torch.equal(index, sample(logits, seed=value))


def test_two_streams_at_once(device):
    logits = [torch.randn(256, 50_000, device=device) for _ in range(2)]
    expected = [sample(x, seed=3) for x in logits]
    streams = [torch.cuda.Stream() for _ in logits]
    torch.cuda.synchronize()
    for _ in range(20):
        drawn = []
        for x, stream in zip(logits, streams, strict=True):
            with torch.cuda.stream(stream):
                drawn.append(sample(x, seed=3))
        torch.cuda.synchronize()
        for index, reference in zip(drawn, expected, strict=True):
            assert torch.equal(index, reference)


def test_more_than_2_31_elements(device):
    rows, categories = 2**21 + 3, 1024
    logits = torch.zeros(rows, categories, dtype=torch.bfloat16, device=device)
    last = torch.randn(3, categories, device=device).to(torch.bfloat16)
    logits[-3:] = last
    index = sample(logits, seed=2)
    assert torch.equal(index[-3:], sample(last, seed=2, row_offset=rows - 3))
    logits.requires_grad_()
    one_hot, _ = reinmax(logits, seed=2)
    assert torch.equal(one_hot[-3:].argmax(-1), index[-3:])
    (grad,) = torch.autograd.grad(one_hot, logits, torch.ones_like(one_hot))
    assert grad[-3:].isfinite().all()

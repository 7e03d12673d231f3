"""The kernels on a GPU: the contract's vectors, values and gradients against the reference on the CPU, the law of the
draws, rows without a distribution, graphs, streams, and more than 2**31 elements.
"""

import functools

import laws
import pytest
import torch
from estimators import ESTIMATORS
from scipy import stats
from test_contract import NAMES, vector

import reinmax_kernels
from reinmax_kernels import codebook_lookup, gumbel_rao, reinmax, routing, sample

from .concurrency import assert_replays, assert_streams_do_not_meet

HALF = [torch.float16, torch.bfloat16]
DTYPES = [*HALF, torch.float32, torch.float64]
SHAPES = [(7, 1), (300, 2), (33, 3), (100, 10), (16, 64), (9, 255), (4, 1024), (3, 2049), (5, 9000), (2, 40000)]
ALIGNED = [(1000, 8), (64, 64), (40, 1024), (600, 4096), (3, 16384), (600, 20480), (2, 2**18)]
NOISY = [ESTIMATORS[name] for name in laws.NOISY]
TOLERANCE = {torch.float16: 2e-3, torch.bfloat16: 1.6e-2, torch.float32: 4e-6, torch.float64: 1e-13}


@pytest.fixture(params=ESTIMATORS.values(), ids=ESTIMATORS)
def estimator(request):
    return request.param


@pytest.mark.parametrize("name", NAMES)
def test_contract_vectors(device, name):
    logits, args, index = vector(name)
    if isinstance(args["seed"], torch.Tensor):
        args["seed"] = args["seed"].to(device)
    assert torch.equal(sample(logits.to(device), **args).cpu(), index)


def forward_and_backward(estimator, tensors, mask, tau):
    """`tensors`: logits, the gradient of the one-hot, and that of the probabilities, if there is one."""
    logits, g, *h = tensors
    logits = logits.detach().requires_grad_()
    one_hot, probs = estimator(logits, tau, mask=mask, seed=5)
    (grad,) = torch.autograd.grad((one_hot, probs)[: 1 + len(h)], logits, (g, *h))
    return [tensor.detach().double().cpu() for tensor in (one_hot, probs, grad)]


def check(device, estimator, tensors, mask, tau):
    """Beside the reference on the CPU."""
    if estimator in NOISY and tensors[0].numel() > 2**21:
        pytest.skip("the reference takes long to make so much noise")
    on_device = None if mask is None else mask.to(device)
    actual = forward_and_backward(estimator, [tensor.to(device) for tensor in tensors], on_device, tau)
    with reinmax_kernels.backend("reference"):
        expected = forward_and_backward(estimator, tensors, mask, tau)
    tolerance = TOLERANCE[tensors[0].dtype]
    assert torch.equal(actual[0], expected[0])
    for ours, reference in zip(actual, expected, strict=True):
        assert torch.allclose(ours, reference, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("tau", [1.0, 0.7])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients(device, estimator, shape, dtype, tau):
    mask = torch.rand(shape) < 0.8
    mask[:, 0] = True
    check(device, estimator, [torch.randn(shape).to(dtype) for _ in range(3)], mask, tau)


@pytest.mark.parametrize("gradients", [1, 2], ids=["g", "gh"])
@pytest.mark.parametrize("tau", [1.0, 0.7])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", ALIGNED)
def test_accesses_of_16_bytes(device, estimator, shape, dtype, tau, gradients):
    """Rows without a mask that begin at multiples of 16 bytes; of many categories, shared by several blocks and not."""
    check(device, estimator, [torch.randn(shape).to(dtype) for _ in range(1 + gradients)], None, tau)


@pytest.mark.parametrize("categories", [10, 1000, 5000, 40000])
def test_rows_that_begin_anywhere(device, estimator, categories):
    storage = [torch.randn(3 * categories + 1) for _ in range(2)]
    check(device, estimator, [each[1:].view(3, categories) for each in storage], None, 1.0)


@pytest.mark.parametrize("tau", [1.0, 0.3])
@pytest.mark.parametrize(
    ("shape", "samples"), [((3000, 2), 1000), ((3000, 10), 100), ((64, 300), 33), ((3, 5000), 1030)]
)
def test_many_samples_of_noise(device, shape, samples, tau):
    """Of long rows more than one launch takes."""
    estimator = functools.partial(gumbel_rao, num_samples=samples)
    check(device, estimator, [torch.randn(shape).double() for _ in range(3)], None, tau)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("tau", [1.0, 0.3])
@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("dtype", DTYPES)
def test_noise_of_many_long_rows(device, dtype, samples, tau, masked):
    """A block has each of them, and keeps its weights in more shared memory than launches have unasked."""
    shape = (300, 8200) if dtype == torch.float64 else (300, 12800)
    mask = torch.rand(shape) < 0.8
    mask[:, 0] = True
    tensors = [torch.randn(shape).to(dtype) for _ in range(3)]
    check(device, functools.partial(gumbel_rao, num_samples=samples), tensors, mask if masked else None, tau)


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


def routed(router, logits, *arguments, **options):
    """Index and weights of a router, and the logits' gradient for weights that matter differently."""
    logits = logits.detach().requires_grad_()
    index, weight = router(logits, *arguments, **options)
    g = torch.linspace(-1, 2, weight.numel()).view(weight.shape).to(weight)
    (grad,) = torch.autograd.grad(weight, logits, g)
    return index.cpu(), weight.detach().double().cpu(), grad.double().cpu()


def check_router(device, router, logits, *arguments, **options):
    found = routed(router, logits.to(device), *arguments, **options)
    with reinmax_kernels.backend("reference"):
        expected = routed(router, logits, *arguments, **options)
    tolerance = TOLERANCE[logits.dtype]
    assert torch.equal(found[0], expected[0])
    for ours, reference in zip(found[1:], expected[1:], strict=True):
        assert torch.allclose(ours, reference, rtol=tolerance, atol=tolerance)


EXPERTS = [2, 8, 10, 64, 100, 256, 1024]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("version", "k"), [(1, 1), (2, 1), (2, 2)])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("experts", EXPERTS)
def test_sparse_mixer(device, experts, dtype, version, k, training):
    logits = torch.randn(777, experts).to(dtype)
    check_router(device, routing.sparse_mixer, logits, k, version=version, jitter_eps=0.3, training=training, seed=3)


@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("experts", EXPERTS)
def test_topk_router(device, experts, dtype, normalize, score):
    for k in (1, min(experts, 8)):
        logits = torch.randn(777, experts).to(dtype)
        check_router(device, routing.topk_router, logits, k, score=score, normalize=normalize)


@pytest.mark.parametrize("experts", [1, *EXPERTS, 5000])
@pytest.mark.parametrize("length", [1, 31, 1000, 100_001, 2**20])
def test_dispatch_plan(device, experts, length):
    index = torch.randint(experts, (length,))
    found = routing.dispatch_plan(index.to(device), experts)
    with reinmax_kernels.backend("reference"):
        reference = routing.dispatch_plan(index, experts)
    for ours, expected in zip(found, reference, strict=True):
        assert torch.equal(ours.cpu(), expected)


def test_dispatch_plan_of_many_assignments(device):
    index = torch.randint(64, (2**25 + 3,), device=device)
    counts, order, inverse = routing.dispatch_plan(index, 64)
    assert torch.equal(counts, index.bincount(minlength=64))
    assert torch.equal(order, index.argsort(stable=True))
    assert torch.equal(order[inverse], torch.arange(len(index), device=device))


def test_what_is_no_expert_comes_last(device):
    index = torch.randint(8, (10_000,))
    index[::7] = -1
    index[5::70] = 2**40
    counts, order, inverse = (t.cpu() for t in routing.dispatch_plan(index.to(device), 8))
    last = torch.where((index >= 0) & (index < 8), index, 8)
    assert torch.equal(counts, last.bincount()[:8])
    assert torch.equal(order, last.argsort(stable=True))
    assert torch.equal(order[inverse], torch.arange(len(index)))


@pytest.mark.parametrize("experts", [8, 256])
def test_load_balance_loss(device, experts):
    probs = torch.randn(5000, experts).softmax(-1)
    index = probs.topk(2).indices
    loss = routing.load_balance_loss(probs.to(device), index.to(device))
    with reinmax_kernels.backend("reference"):
        expected = routing.load_balance_loss(probs, index)
    assert torch.allclose(loss.cpu(), expected, rtol=1e-5)


def test_a_graph_replays_a_plan_of_other_assignments(device):
    index = torch.randint(64, (20_000, 2), device=device)
    assert_replays(lambda: routing.dispatch_plan(index, 64), lambda: index.random_(64))


@pytest.mark.parametrize("experts", [10, 64, 300])
def test_routers_take_rows_that_lie_anywhere(device, experts):
    for logits in (torch.randn(experts, 77).t(), torch.randn(77 * experts + 1)[1:].view(77, experts)):
        check_router(device, routing.sparse_mixer, logits, 2, seed=3)
        check_router(device, routing.topk_router, logits, 3)


@pytest.mark.parametrize("experts", [10, 300])
def test_a_row_without_experts_disturbs_no_other(device, experts):
    logits = torch.randn(3, experts, device=device)
    expected, _ = routing.sparse_mixer(logits, 2, seed=1)
    logits[1, -1] = torch.nan
    logits.requires_grad_()
    index, weight = routing.sparse_mixer(logits, 2, seed=1)
    assert torch.equal(index[::2], expected[::2])
    assert (index[1] == 0).all()
    assert weight[1].isnan().all()
    (grad,) = torch.autograd.grad(weight.sum(), logits)
    assert grad[1].isnan().all()
    assert grad[::2].isfinite().all()


def test_millions_of_tokens(device):
    tokens = 2**22 + 3
    logits = torch.randn(tokens, 8, device=device)
    index, _ = routing.sparse_mixer(logits, 2, seed=2)
    last, _ = routing.sparse_mixer(logits[-5:], 2, seed=2, row_offset=tokens - 5)
    assert torch.equal(index[-5:], last)
    assert (logits.gather(-1, routing.topk_router(logits, 1)[0])[:, 0] == logits.amax(-1)).all()


def looked_up(logits, codebook, v, mask, *arguments, **options):
    """Codes, their vectors, and the gradients of logits and codebook."""
    logits, codebook = (tensor.detach().requires_grad_() for tensor in (logits, codebook))
    vectors, index = codebook_lookup(logits, codebook, *arguments, mask=mask, seed=5, **options)
    grads = torch.autograd.grad(vectors, (logits, codebook), v)
    return [tensor.detach().double().cpu() for tensor in (index, vectors, *grads)]


@pytest.mark.parametrize("name", ["reinmax", "straight_through"])
@pytest.mark.parametrize("tau", [1.0, 0.7])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("rows", "codes", "d"),
    [(7, 1, 1), (300, 33, 3), (1000, 64, 16), (129, 1000, 65), (4096, 1024, 64), (3, 40000, 256)],
)
def test_codebook_lookup(device, rows, codes, d, dtype, tau, name):
    logits, codebook, v = (
        torch.randn(rows, codes).to(dtype),
        torch.randn(codes, d).to(dtype),
        torch.randn(rows, d).to(dtype),
    )
    mask = torch.rand(rows, codes) < 0.8
    mask[:, 0] = True
    given = logits, codebook, v, mask
    found = looked_up(*(tensor.to(device) for tensor in given), tau, estimator=name)
    again = looked_up(*(tensor.to(device) for tensor in given), tau, estimator=name)
    with reinmax_kernels.backend("reference"):
        expected = looked_up(*(tensor.double() for tensor in (logits, codebook, v)), mask, tau, estimator=name)
    assert all(map(torch.equal, found, again))
    assert all(map(torch.equal, found[:2], expected[:2]))
    tolerance = TOLERANCE[dtype]
    assert torch.allclose(found[2], expected[2], rtol=tolerance, atol=tolerance * (d**0.5 if dtype not in HALF else 1))
    assert torch.allclose(found[3], expected[3], rtol=tolerance, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("tau", [1.0, 0.7])
@pytest.mark.parametrize("name", ["reinmax", "straight_through"])
def test_of_the_logits_size_a_lookup_holds_their_gradient_alone(device, name, tau, dtype):
    logits = torch.randn(8192, 8192, device=device, dtype=dtype).requires_grad_()
    codebook = torch.randn(8192, 64, device=device, dtype=dtype).requires_grad_()
    v = torch.randn(8192, 64, device=device, dtype=dtype)

    def step():
        return torch.autograd.grad(codebook_lookup(logits, codebook, tau, estimator=name)[0], (logits, codebook), v)

    step()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    assert torch.cuda.max_memory_allocated() - before <= 1.15 * logits.nbytes


@pytest.mark.parametrize("name", ["reinmax", "straight_through"])
def test_a_graph_replays_a_lookup(device, name):
    logits, codebook = torch.randn(512, 300, device=device), torch.randn(300, 40, device=device)
    v, seed = torch.randn(512, 40, device=device), torch.tensor([1], device=device)
    leaves = [tensor.requires_grad_() for tensor in (logits, codebook)]

    def step():
        vectors, index = codebook_lookup(*leaves, 0.9, seed=seed, estimator=name)
        return vectors, index, *torch.autograd.grad(vectors, leaves, v)

    assert_replays(step, lambda: seed.add_(1))


@pytest.mark.parametrize("shape", [(512, 10), (64, 3000), (2, 100_000)])
def test_a_graph_replays_with_another_seed(device, shape):
    logits, seed = torch.randn(shape, device=device), torch.tensor([1], device=device)
    assert_replays(lambda: (sample(logits, seed=seed),), lambda: seed.add_(1))


@pytest.mark.parametrize("shape", [(512, 10), (64, 3000), (2, 100_000)])
def test_a_graph_replays_forward_and_backward(device, shape, estimator):
    logits, g = (torch.randn(shape, device=device) for _ in range(2))
    logits.requires_grad_()
    seed = torch.tensor([1], device=device)

    def step():
        one_hot, probs = estimator(logits, 0.9, seed=seed)
        return one_hot, probs, *torch.autograd.grad(one_hot, logits, g)

    assert_replays(step, lambda: (seed.add_(1), logits.normal_()))


def test_two_streams_at_once(device):
    logits = [torch.randn(256, 50_000, device=device) for _ in range(2)]
    assert_streams_do_not_meet(lambda x: sample(x, seed=3), logits)


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
    g = torch.empty_like(logits).normal_()
    (grad,) = torch.autograd.grad(one_hot, logits, g)
    few = last.clone().requires_grad_()
    one_hot, _ = reinmax(few, seed=2, row_offset=rows - 3)
    (expected,) = torch.autograd.grad(one_hot, few, g[-3:])
    assert torch.allclose(grad[-3:], expected, rtol=TOLERANCE[g.dtype], atol=TOLERANCE[g.dtype])

"""Codebook lookups against the dense form: values, gradients, memory, and PyTorch's transformations."""

import laws
import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from bench.memory import peak_bytes
from reinmax_kernels import backends, codebook_lookup, codebook_ops, reinmax, sample, straight_through

ESTIMATORS = {"reinmax": reinmax, "straight_through": straight_through}
HALF = [torch.float16, torch.bfloat16]
SHAPES = [(1, 1, 1), (7, 2, 3), (90, 32, 1), (70, 33, 5), (9, 1025, 4), (300, 2000, 17), (3, 70_000, 2)]  # N, C, d


@pytest.fixture(params=ESTIMATORS)
def name(request):
    return request.param


def double(*shape):
    return torch.randn(shape, dtype=torch.float64)


def run(logits, codebook, v, *arguments, **options):
    """Vectors, index, and the gradients of <vectors, v> to logits and codebook."""
    logits, codebook = (t.detach().requires_grad_() for t in (logits, codebook))
    vectors, index = codebook_lookup(logits, codebook, *arguments, **options)
    vectors.backward(v)
    return vectors.detach(), index, logits.grad, codebook.grad


def dense(name, logits, codebook, v, tau=1.0, **options):
    logits, codebook = (t.detach().requires_grad_() for t in (logits, codebook))
    one_hot, _ = ESTIMATORS[name](logits, tau, **options)
    vectors = one_hot @ codebook
    vectors.backward(v)
    return vectors.detach(), one_hot.argmax(-1), logits.grad, codebook.grad


def close(ours, expected, tolerance=1e-13):
    torch.testing.assert_close(ours, expected, rtol=tolerance, atol=tolerance)


# Values and gradients.


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("tau", [1.0, 0.3, 4.0])
def test_the_dense_form(backend, name, shape, tau):
    n, c, d = shape
    logits, codebook, v = double(n, c), double(c, d), double(n, d)
    ours = run(logits, codebook, v, tau, estimator=name, seed=-3, offset=5, row_offset=2**40)
    close(ours, dense(name, logits, codebook, v, tau, seed=-3, offset=5, row_offset=2**40))
    # And by the definition alone, which shares nothing with the library.
    index, g = ours[1], v @ codebook.T
    close(ours[0], codebook[index])
    if n * c * c < 1e7:  # the law forms Jacobians
        close(ours[2], laws.gradient(name, logits, index, g, torch.zeros_like(g), tau), 1e-12)
    close(ours[3], laws.one_hot(index, c).T @ v, 1e-12)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_log_sum_exp_that_the_backward_goes_by(overload, shape, dtype):
    logits = (3 * torch.randn(shape[:2])).to(dtype)
    lookup = codebook_ops.OPS[overload]["codebook_lookup"]
    _, index, log_sum_exp = lookup(logits, torch.randn(shape[1], 1), torch.tensor([1]), None, 0, 0)
    assert torch.equal(index, sample(logits, seed=1))
    # Of float32 the sum is of weights that were rounded.
    torch.testing.assert_close(
        log_sum_exp, logits.double().logsumexp(-1), rtol=0, atol={torch.float64: 1e-14}.get(dtype, 1e-6)
    )


def test_codes_that_are_drawn_often_and_never(backend, name):
    logits = torch.full((5000, 40), -50.0, dtype=torch.float64)
    logits[:, 7] = logits[::2, 31] = 0.0
    codebook, v = double(40, 6), double(5000, 6)
    _, index, _, grad = run(logits, codebook, v, estimator=name, seed=1)
    counts = index.bincount(minlength=40)
    assert counts[[7, 31]].min() > 1000
    assert counts.sum() == counts[[7, 31]].sum()
    close(grad, torch.zeros_like(codebook).index_add(0, index, v), 1e-11)
    unused = counts == 0
    assert (grad[unused] == 0).all()


def test_the_codebooks_gradient_is_summed_in_the_order_of_the_rows(backend, threads):
    # Sums that the order decides: 1 is lost beside 2^60, unless 2^60 is gone before it comes.
    rows = [2.0**60, 1.0, -(2.0**60), 1.0] * 20_000
    v = torch.tensor(rows).unsqueeze(-1).repeat(1, 3)
    logits = torch.tensor([0.0, -1e4]).expand(len(rows), 2)
    *_, grad = run(logits, torch.zeros(2, 3), v, seed=1)
    assert grad.tolist() == [[1.0] * 3, [0.0] * 3]


@pytest.mark.parametrize("logits_dtype", [*HALF, torch.float32, torch.float64])
@pytest.mark.parametrize("codebook_dtype", [*HALF, torch.float32, torch.float64])
def test_dtypes(backend, name, logits_dtype, codebook_dtype):
    logits, codebook = torch.randn(60, 50).to(logits_dtype), torch.randn(50, 8).to(codebook_dtype)
    v = torch.randn(60, 8).to(codebook_dtype)
    vectors, index, grad, grad_codebook = run(logits, codebook, v, 0.7, estimator=name, seed=1)
    assert (vectors.dtype, grad.dtype, grad_codebook.dtype) == (codebook_dtype, logits_dtype, codebook_dtype)
    assert torch.equal(vectors, codebook[index])
    assert torch.equal(index, sample(logits, seed=1))
    g = v.double() @ codebook.double().T
    truth = laws.gradient(name, logits, index, g, torch.zeros_like(g), 0.7)
    # What is rounded: the product, in the type that the logits are computed in, and once the result.
    once = torch.finfo(logits_dtype).eps if logits_dtype in HALF else 0
    tolerance = 1e-13 if logits_dtype == torch.float64 else 2e-5
    assert ((grad.double() - truth).abs() <= once * (truth.abs() + 1e-6) + tolerance).all()
    exact = laws.one_hot(index, 50).T @ v.double()
    eps = torch.finfo(codebook_dtype).eps
    assert ((grad_codebook.double() - exact).abs() <= eps * exact.abs() + eps * 1e-4).all()


@pytest.mark.parametrize("dtype", [*HALF, torch.float32])
@pytest.mark.parametrize("tau", [1.0, 0.05, 20.0])
def test_far_logits_never_give_nan(backend, name, dtype, tau):
    logits = torch.randn(200, 50).mul(3e4).clamp(-1e4, 1e4).to(dtype)
    logits[::7, 1:] = -torch.inf
    mask = torch.rand(200, 50) < 0.7
    mask[:, 0] = True
    _, index, *grads = run(
        logits, torch.randn(50, 4).to(dtype), torch.randn(200, 4).to(dtype), tau, estimator=name, mask=mask
    )
    assert all(grad.isfinite().all() for grad in grads)
    assert mask.gather(-1, index.unsqueeze(-1)).all()
    assert (grads[0][~mask | (logits == -torch.inf)] == 0).all()


@pytest.mark.parametrize("shape", [(6,), (5, 1), (5, 6), (4, 1, 6), ()])
def test_masks(backend, name, shape):
    logits, codebook, v = double(4, 5, 6), double(6, 3), double(4, 5, 3)
    mask = torch.rand(shape) < 0.6 if shape[-1:] == (6,) else torch.ones(shape, dtype=torch.bool)
    if shape[-1:] == (6,):
        mask[..., 2] = True
    expected = run(logits.masked_fill(~mask, -torch.inf), codebook, v, 0.8, estimator=name, seed=8)
    dirty = logits.masked_fill(~mask, torch.nan)
    assert all(map(torch.equal, run(dirty, codebook, v, 0.8, estimator=name, seed=8, mask=mask), expected))


def test_what_a_forbidden_code_holds_does_not_matter(backend, name):
    mask = torch.tensor([True, False, True, True])
    logits, codebook, v = double(30, 4), double(4, 3), double(30, 3)
    expected = run(logits, codebook, v, estimator=name, seed=8, mask=mask)
    codebook[1] = torch.nan
    assert all(map(torch.equal, run(logits, codebook, v, estimator=name, seed=8, mask=mask), expected))


@pytest.mark.parametrize("dim", [0, 1, 2, -1, -2])
def test_dim(backend, name, dim):
    logits, codebook = double(3, 4, 5), double((3, 4, 5)[dim], 7)
    mask = torch.ones(3, 4, 5, dtype=torch.bool)
    mask.select(dim, 1)[...] = False
    v = double(3, 4, 5).movedim(dim, -1)[..., :1].expand(-1, -1, 7)
    vectors, index, *grads = run(logits, codebook, v.movedim(-1, dim), dim=dim, mask=mask, estimator=name, seed=3)
    last = run(logits.movedim(dim, -1), codebook, v, mask=mask.movedim(dim, -1), estimator=name, seed=3)
    close((vectors.movedim(dim, -1), index, grads[0].movedim(dim, -1), grads[1]), last)


@pytest.mark.parametrize("shape", [(0, 5), (3, 0, 5), (5,), (2, 3, 1)])
def test_odd_shapes(backend, name, shape):
    logits, codebook, v = torch.randn(shape), torch.randn(shape[-1], 2), torch.randn(*shape[:-1], 2)
    vectors, index, grad, grad_codebook = run(logits, codebook, v, estimator=name, seed=1)
    assert (vectors.shape, index.shape) == (v.shape, shape[:-1])
    assert (grad.shape, grad_codebook.shape) == (shape, codebook.shape)
    if 0 in shape:
        assert (grad_codebook == 0).all()


def test_strides_and_an_expanded_gradient(backend, name):
    logits, codebook = double(40, 90).T, double(6, 80)[:, ::2].T
    for v in (double(6, 90).T, torch.ones(()).double().expand(90, 6), double(1, 6).expand(90, 6)):
        close(
            run(logits, codebook, v, 0.9, estimator=name, seed=1), dense(name, logits, codebook, v, 0.9, seed=1), 1e-12
        )


def test_each_gradient_alone(backend, name):
    logits, codebook, v = double(30, 9), double(9, 4), double(30, 4)
    *_, of_logits, of_codebook = run(logits, codebook, v, estimator=name, seed=1)
    theta = logits.clone().requires_grad_()
    codebook_lookup(theta, codebook, estimator=name, seed=1)[0].backward(v)
    assert torch.equal(theta.grad, of_logits)
    codes = codebook.clone().requires_grad_()
    codebook_lookup(logits, codes, estimator=name, seed=1)[0].backward(v)
    assert torch.equal(codes.grad, of_codebook)
    assert not codebook_lookup(logits, codebook)[0].requires_grad


@pytest.mark.skipif(backends.native is None, reason="the reference forms the one-hot's gradient")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tau", [1.0, 0.7])
def test_memory_is_that_of_the_logits_gradient(name, dtype, tau):
    logits = torch.randn(1024, 8192).to(dtype).requires_grad_()
    codebook, v = torch.randn(8192, 16).to(dtype).requires_grad_(), torch.randn(1024, 16).to(dtype)

    def step():
        return torch.autograd.grad(codebook_lookup(logits, codebook, tau, estimator=name)[0], (logits, codebook), v)

    # Beside it a tile for each thread, and the codebook as it is computed with.
    few = torch.get_num_threads() * 2**20 + 5 * 4 * codebook.numel() + 2**20
    assert peak_bytes(step) <= logits.nbytes + few
    assert few < 0.5 * logits.nbytes


@pytest.mark.parametrize(("n", "categories", "d"), [(500, 2000, 24), (1000, 100, 64)], ids=["tiles", "a lone tile"])
def test_results_do_not_depend_on_the_thread_count(name, n, categories, d):
    logits, codebook, v = torch.randn(n, categories), torch.randn(categories, d), torch.randn(n, d)
    before, results = torch.get_num_threads(), []
    for count in (1, 2, 3, 4):
        torch.set_num_threads(count)
        results.append(run(logits, codebook, v, 0.8, estimator=name, seed=1))
    torch.set_num_threads(before)
    for tensors in zip(*results, strict=True):
        assert all(torch.equal(tensors[0], other) for other in tensors[1:])


# Refusals.

X, B = torch.zeros(4, 6), torch.zeros(6, 3)
BAD = [
    (
        ValueError,
        "estimator: expected one of reinmax, straight_through; got 'gumbel_rao'",
        (X, B),
        {"estimator": "gumbel_rao"},
    ),
    (TypeError, "codebook: expected a tensor, got list", (X, [[1.0]]), {}),
    (TypeError, "codebook: expected float16, bfloat16, float32 or float64, got int64", (X, B.long()), {}),
    (ValueError, r"codebook: expected shape \(6, d\) with d >= 1 for these logits, got \(5, 3\)", (X, B[1:]), {}),
    (ValueError, r"codebook: expected shape \(4, d\) .* got \(6, 3\)", (X, B), {"dim": 0}),
    (ValueError, r"codebook: expected shape \(6, d\) .* got \(6,\)", (X, B[:, 0]), {}),
    (ValueError, r"codebook: expected shape \(6, d\) .* got \(6, 0\)", (X, B[:, :0]), {}),
    (ValueError, "codebook: expected it on cpu like the logits, got meta", (X, B.to("meta")), {}),
    (ValueError, "tau: expected a finite value > 0, got 0", (X, B, 0), {}),
    (ValueError, "logits: row 0 of 4 holds only -inf", (X - torch.inf, B), {}),
    (ValueError, "seed: .* divides the 4 rows, got 3", (X, B), {"seed": torch.arange(3)}),
]


@pytest.mark.parametrize(("error", "message", "arguments", "options"), BAD)
def test_bad_input(backend, error, message, arguments, options):
    with pytest.raises(error, match=message):
        codebook_lookup(*arguments, **options)


REFUSED = [
    ({"grad_vectors": torch.ones(4, 2)}, "codebook: expected"),
    ({"grad_vectors": torch.ones(3, 3)}, "grad_vectors: expected"),
    ({"codebook": torch.ones(5, 3)}, "codebook: expected"),
    ({"index": torch.tensor([0, 1, 2, 6])}, "index: expected categories in"),
    ({"index": torch.tensor([0, 1, 2])}, "index: expected int64, one a row"),
    ({"log_sum_exp": torch.zeros(4)}, "log_sum_exp: expected float64"),
    ({"tau": torch.tensor(-1.0).double()}, "tau: expected a finite value > 0"),
]


@pytest.mark.skipif(backends.native is None, reason="the reference leaves these checks to PyTorch")
@pytest.mark.parametrize(("change", "message"), REFUSED)
def test_the_kernels_refuse_tensors_that_do_not_fit(name, change, message):
    index = torch.zeros(4, dtype=torch.int64)
    given = {"grad_vectors": torch.ones(4, 3), "codebook": B, "logits": X, "index": index}
    given |= {"log_sum_exp": index.double(), "mask": None, "tau": None}
    with pytest.raises(ValueError, match=message):
        codebook_ops.OPS["default"][f"codebook_{name}_backward"](*(given | change).values())
    with pytest.raises(ValueError, match="index: expected categories in"):
        codebook_ops.OPS["default"]["codebook_gradient"](torch.ones(4, 3), index - 1, 6)


# PyTorch's transformations.


@pytest.mark.parametrize("overload", codebook_ops.OVERLOADS)
@pytest.mark.parametrize("mask", [None, (5,), (6, 1)])
@pytest.mark.parametrize("tau", [None, 0.5])
def test_opcheck(overload, name, mask, tau):
    ops = codebook_ops.OPS[overload]
    logits, codebook = torch.randn(5, 6).T, torch.randn(5, 3)
    mask = None if mask is None else (torch.rand(mask) < 0.6).index_fill_(-1, torch.tensor(0), True)
    torch.library.opcheck(ops["codebook_lookup"], (logits, codebook, torch.arange(3), mask, 2, 7))
    vectors, index, log_sum_exp = ops["codebook_lookup"](logits, codebook, torch.tensor([1]), mask, 0, 0)
    tau = None if tau is None else torch.tensor(tau, dtype=torch.float64)
    args = torch.randn_like(vectors), codebook, logits, index, log_sum_exp, mask, tau
    torch.library.opcheck(ops[f"codebook_{name}_backward"], args)
    torch.library.opcheck(ops["codebook_gradient"], (vectors, index, 5))


@pytest.mark.parametrize("with_backend", ["aot_eager", "inductor"])
def test_compiled_equals_eager(backend, name, with_backend):
    torch._dynamo.reset()
    counter = CompileCounterWithBackend(with_backend)

    def model(logits, codebook):
        return codebook_lookup(2 * logits, codebook, 0.7, estimator=name, seed=3)[0].sin()

    function = torch.compile(model, fullgraph=True, backend=counter, dynamic=True)
    for n in (4, 9, 17):
        logits, codebook, v = double(n, 6), double(6, 3), double(n, 3)
        results = []
        for f in (function, model):
            leaves = [t.clone().requires_grad_() for t in (logits, codebook)]
            vectors = f(*leaves)
            results.append((vectors.detach(), *torch.autograd.grad(vectors, leaves, v)))
        close(*results)
    assert counter.frame_count == 1


def test_autocast_rounds_no_product(backend, name):
    logits, codebook, v = torch.randn(90, 50), torch.randn(50, 64), torch.randn(90, 64)
    expected = run(logits, codebook, v, estimator=name, seed=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert all(map(torch.equal, run(logits, codebook, v, estimator=name, seed=1), expected))


@pytest.mark.parametrize("codebooks", [1, 4])
@pytest.mark.parametrize("masked", [False, True])
def test_vmap(backend, name, codebooks, masked):
    logits, codebook, v = double(4, 5, 7), double(codebooks, 7, 3), double(4, 5, 3)
    seeds, mask = torch.tensor([3, -1, 3, 2**62]), torch.rand(4, 7) < 0.6 if masked else torch.ones(4, 7).bool()
    mask[:, 2] = True

    def loss(x, codes, seed, m, weight):
        return (codebook_lookup(x, codes, 0.8, estimator=name, seed=seed, mask=m)[0] * weight).sum()

    given = logits, codebook if codebooks > 1 else codebook[0], seeds, mask, v
    dims = 0, 0 if codebooks > 1 else None, 0, 0, 0
    ours = torch.func.vmap(torch.func.grad(loss, argnums=(0, 1)), dims)(*given)
    one_by_one = [
        torch.func.grad(loss, argnums=(0, 1))(logits[i], codebook[i % codebooks], seeds[i], mask[i], v[i])
        for i in range(4)
    ]
    close(ours, tuple(map(torch.stack, zip(*one_by_one, strict=True))))


@pytest.mark.parametrize("codebooks", ["shared", "each its own"])
def test_vmap_over_nothing_gives_nothing(backend, name, codebooks):
    def lookup(x, codes):
        return codebook_lookup(x, codes, estimator=name)

    shape, dim = ((7, 3), None) if codebooks == "shared" else ((7, 0, 3), 1)
    logits, codebook = double(0, 5, 7).requires_grad_(), double(*shape).requires_grad_()
    vectors, index = torch.func.vmap(lookup, (0, dim), randomness="different")(logits, codebook)
    assert (vectors.shape, index.shape, index.dtype) == ((0, 5, 3), (0, 5), torch.int64)
    grads = torch.autograd.grad(vectors.sum(), (logits, codebook))
    assert [grad.shape for grad in grads] == [logits.shape, shape]
    assert grads[1].eq(0).all()


def test_a_codebook_that_all_entries_of_a_vmap_share_gets_the_sum(backend, name):
    logits, codebook = double(4, 5, 7), double(7, 3).requires_grad_()
    vectors, index = torch.func.vmap(lambda x, s: codebook_lookup(x, codebook, estimator=name, seed=s))(
        logits, torch.arange(4)
    )
    (grad,) = torch.autograd.grad(vectors.sum(), codebook)
    close(grad, index.flatten().bincount(minlength=7).double().unsqueeze(-1).expand(7, 3))


def test_what_autograd_keeps(backend, name):
    logits, codebook, kept = torch.randn(30, 9, requires_grad=True), torch.randn(9, 4), []

    def keep(tensor):
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        codebook_lookup(logits, codebook, estimator=name, seed=1)
    shared = {t.untyped_storage().data_ptr() for t in (logits, codebook)}
    own = [(t.dtype, t.numel()) for t in kept if t.untyped_storage().data_ptr() not in shared]
    assert sorted(own, key=str) == [(torch.float64, 30), (torch.int64, 30)]


def test_double_backward_is_refused(backend, name):
    logits, codebook = torch.randn(3, 4, requires_grad=True), torch.randn(4, 2, requires_grad=True)
    vectors, _ = codebook_lookup(logits, codebook, estimator=name)
    for leaf in (logits, codebook):
        (grad,) = torch.autograd.grad(vectors.square().sum(), leaf, create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            grad.sum().backward()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_shape_functions_on_any_device(name, device):
    with torch._subclasses.FakeTensorMode():
        logits, codebook = torch.empty(4, 7, device=device), torch.empty(7, 3, device=device, dtype=torch.float16)
        vectors, index = codebook_lookup(logits, codebook, estimator=name, seed=3)
        assert (vectors.shape, vectors.dtype, vectors.device.type) == ((4, 3), torch.float16, device)
        assert (index.shape, index.dtype) == ((4,), torch.int64)

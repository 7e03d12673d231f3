"""Bits: the contract's draws, the estimators' gradients against categories of two, and PyTorch's transformations."""

import functools
import sys

import laws
import pytest
import torch
from boundaries import counter_for, edges
from scipy import stats
from test_contract import VECTORS
from test_laws import OVERLOADS, cubic, linear, quadratic
from torch._dynamo.testing import CompileCounterWithBackend

import reinmax_kernels
from reinmax_kernels import backends, bernoulli, gumbel_softmax, ops, reinmax, straight_through

HALF = [torch.float16, torch.bfloat16]
DTYPES = [*HALF, torch.float32, torch.float64]
BITS = sorted(name.removesuffix("_bits") for name in VECTORS.files if name.endswith("_bits"))
OF_PAIRS = {"reinmax": reinmax, "straight_through": straight_through, "gumbel_softmax": gumbel_softmax}
TAUS = [0.1, 0.5, 1.0, 1.5, 10.0]


@pytest.fixture(params=laws.BIT_ESTIMATORS)
def name(request):
    return request.param


def run(name, logits, g, h, *, tau=1.0, **options):
    """Bits, probabilities, and the gradient of <bits, g> + <probs, h>."""
    logits = logits.detach().requires_grad_()
    outputs = bernoulli(logits, name, tau, **options)
    torch.autograd.backward(outputs, [g, h])
    return *(output.detach() for output in outputs), logits.grad


def problem(*shape, dtype=torch.float32):
    return (3 * torch.randn(shape)).to(dtype), torch.randn(shape).to(dtype), torch.randn(shape).to(dtype)


def same(ours, expected):
    return all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))


def alike(ours, expected):
    """Bits are the same; the rest may differ in its last place, for PyTorch rounds the ends of a tensor otherwise."""
    assert torch.equal(ours[0], expected[0])
    rounding = torch.finfo(ours[0].dtype).eps
    torch.testing.assert_close(ours[1:], expected[1:], rtol=2 * rounding, atol=4 * rounding)


# The draw.


def vector(name):
    seed, offset, row_offset = VECTORS[f"{name}_args"].tolist()
    logits, bits = (torch.from_numpy(VECTORS[f"{name}_{part}"]) for part in ("logits", "bits"))
    return logits, {"seed": seed, "offset": offset, "row_offset": row_offset}, bits


@pytest.mark.parametrize("name", BITS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_vectors(backend, threads, name, dtype):
    logits, args, bits = vector(name)
    assert torch.equal(bernoulli(logits.to(dtype), **args)[0], bits.to(dtype))


@pytest.mark.parametrize("name", BITS)
@pytest.mark.parametrize("step", [1, 7, 64, 65])
def test_a_split_batch_continues_with_row_offset(backend, name, step):
    logits, args, bits = vector(name)
    row_offset = args.pop("row_offset")
    parts = [
        bernoulli(part, **args, row_offset=row_offset + step * i)[0]
        for i, part in enumerate(logits.flatten()[:200].split(step))
    ]
    assert torch.equal(torch.cat(parts), bits.flatten()[:200].float())


@pytest.mark.parametrize("per_seed", [1, 5, 64, 129])
def test_seeds_of_groups(backend, name, per_seed):
    logits, g, h = problem(7 * per_seed)
    seeds = torch.arange(7) ** 9 - 3
    together = run(name, logits, g, h, tau=0.7, seed=seeds, offset=2, row_offset=9)
    parts = [
        run(name, *part, tau=0.7, seed=seed, offset=2, row_offset=9)
        for seed, *part in zip(seeds, *(t.split(per_seed) for t in (logits, g, h)), strict=True)
    ]
    alike(together, tuple(map(torch.cat, zip(*parts, strict=True))))


def test_the_numbers_of_elements_wrap_around(backend):
    logits = torch.zeros(130)
    whole, _ = bernoulli(logits, seed=1, row_offset=2**64 - 61)
    assert torch.equal(whole[61:], bernoulli(logits, seed=1)[0][:-61])
    with reinmax_kernels.backend("reference"):
        assert torch.equal(whole, bernoulli(logits, seed=1, row_offset=2**64 - 61)[0])


def test_offset_and_seed_choose_the_stream(backend):
    draw = functools.partial(bernoulli, torch.zeros(200))
    drawn = [draw(**key)[0] for key in ({"seed": 1}, {"seed": 2}, {"seed": 1, "offset": 1}, {"seed": 1, "offset": -1})]
    assert len({tuple(bits.tolist()) for bits in drawn}) == 4


@pytest.mark.parametrize("x", [0.0, -0.0, 0.3, -0.3, 5.0, -5.0, 26.0, -26.0, 27.9, -27.9])
@pytest.mark.parametrize("odd", [0, 1])
def test_the_draw_is_exact_at_every_boundary(backend, x, odd):
    unlikely = round(2.0 ** (-abs(x) * 1.44269504) * 2**39)
    with reinmax_kernels.backend("reference"):  # whose weight it is, to the last digit
        from reinmax_kernels.reference import contract

        exact = contract.exp2(torch.tensor([-abs(x)]) * torch.tensor(contract.LOG2_E)).double() * 2.0**39
        assert abs(exact.round().item() - unlikely) <= 4e-7 * unlikely + 1
        unlikely = int(exact.round())
    weights = [2**39, unlikely] if x >= 0 else [unlikely, 2**39]
    for i, uniform in edges(weights):
        for other in range(64):  # until the pair's number has 63 bits
            place = counter_for(*((other, uniform) if odd else (uniform, other)), 7)
            pair = place.pop("row_offset") % 2**64
            if pair < 2**63:
                break
        bits, _ = bernoulli(torch.tensor([x]), seed=7, row_offset=2 * pair + odd, **place)
        assert bits.item() == 1 - i


@pytest.mark.parametrize("x", [0.0, 0.7, -2.0, 4.0])
def test_bits_follow_the_sigmoid_and_neighbours_are_independent(backend, x):
    bits, _ = bernoulli(torch.full((200_000,), x), seed=5)
    p = torch.tensor(x, dtype=torch.float64).sigmoid().item()
    assert stats.binomtest(int(bits.sum()), len(bits), p).pvalue > 1e-4
    if abs(x) < 1:
        for a, b in ((bits[::2], bits[1::2]), (bits[1:-1:2], bits[2::2])):
            assert (
                stats.chi2_contingency(
                    [[(a * b).sum(), (a * (1 - b)).sum()], [((1 - a) * b).sum(), ((1 - a) * (1 - b)).sum()]]
                ).pvalue
                > 1e-4
            )


def test_a_rare_bit_is_as_rare_as_it_should_be(backend):
    rows = 2**18
    bits, _ = bernoulli(torch.full((rows,), -9.0), seed=11)
    assert stats.binomtest(int(bits.sum()), rows, torch.tensor(-9.0).double().sigmoid().item()).pvalue > 1e-4


# Values and gradients.


@pytest.mark.parametrize("dtype", DTYPES)
def test_outputs(backend, name, dtype):
    logits, _, _ = problem(5, 301, dtype=dtype)
    bits, probs = bernoulli(logits, name, seed=3)
    assert (bits.dtype, probs.dtype, bits.shape, probs.shape) == (dtype, dtype, logits.shape, logits.shape)
    assert torch.equal(bits, bernoulli(logits.float(), seed=3)[0].to(dtype))
    truth, eps = logits.double().sigmoid(), torch.finfo(dtype).eps
    roundings = 0.51 if dtype in HALF else 3 + logits.double().abs()
    assert ((probs.double() - truth).abs() <= roundings * eps * truth + torch.finfo(dtype).smallest_normal * eps).all()


@pytest.mark.parametrize("tau", TAUS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_gradient_is_that_of_two_categories(backend, name, tau, dtype):
    logits, g, h = problem(707, dtype=dtype)
    stream = {"seed": -4, "offset": 2**40 + 1, "row_offset": 2**32 - 301}
    bits, _, grad = run(name, logits, g, h, tau=tau, **stream)
    assert 100 < bits.sum() < 600
    truth = laws.bit_gradient(name, logits, bits, g, h, tau, **stream)
    rounding = {torch.float32: 2e-7, torch.float64: 0}.get(dtype, 0.51 * torch.finfo(dtype).eps)
    tolerance = 1e-14 if dtype == torch.float64 else 2e-6
    scale = (g.double().abs() + h.double().abs()) * max(1, 1 / tau)
    smallest = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    assert ((grad.double() - truth).abs() <= rounding * truth.abs() + tolerance * scale + smallest).all()


def test_the_pairs_given_to_the_categories_estimator_have_the_same_mean_gradient(backend, name):
    # Not only the formulas: the public functions themselves, over many draws of each.
    rows = 40_000
    x, g = torch.tensor(0.7, dtype=torch.float64), torch.randn(rows, dtype=torch.float64)
    logits = x.expand(rows).clone().requires_grad_()
    bits, _ = bernoulli(logits, name, 0.8, seed=1)
    (ours,) = torch.autograd.grad((bits * g).sum(), logits)
    pairs = torch.stack([logits, torch.zeros_like(logits)], -1)
    one_hot, _ = OF_PAIRS[name](pairs, 0.8, seed=2)
    (theirs,) = torch.autograd.grad((one_hot[:, 0] * g).sum(), logits)
    for a, b in ((bits, one_hot[:, 0]), (ours / g, theirs / g)):
        error = ((a.var() + b.var()) / rows).sqrt()
        assert (a.mean() - b.mean()).abs() <= 4.5 * error + 1e-12


@pytest.mark.parametrize("overload", OVERLOADS)
@pytest.mark.parametrize(
    ("estimator", "family", "exact"),
    [
        ("reinmax", quadratic, True),
        ("reinmax", cubic, False),
        ("straight_through", linear, True),
        ("straight_through", quadratic, False),
    ],
)
def test_for_which_functions_the_mean_is_exact(overload, estimator, family, exact):
    logits, f = torch.randn(6, dtype=torch.float64), family(6, 1)
    expected = laws.true_bit_gradient(lambda bits: f(bits.unsqueeze(-1)), logits)
    bias = laws.expected_bit_gradient(estimator, overload, lambda bits: f(bits.unsqueeze(-1)), logits) - expected
    if exact:
        assert bias.abs().max() < 1e-12 * (1 + expected.abs().max())
    else:
        assert bias.abs().max() > 0.01


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tau", [1.0, 0.05, 20.0, 1e-50, 1e50])
def test_far_logits_never_give_nan(backend, name, dtype, tau):
    logits = torch.tensor([1e4, -1e4, 88.0, -88.0, 120.0, -120.0, 0.0, -0.0, torch.inf, -torch.inf] * 9).to(dtype)
    g, h = torch.ones_like(logits), torch.ones_like(logits)
    bits, probs, grad = run(name, logits, g, h, tau=tau, seed=2)
    assert bits[logits.isinf()].tolist() == [1.0, 0.0] * 9
    assert torch.equal(probs[logits.isinf()], bits[logits.isinf()])
    assert (grad[logits.isinf()] == 0).all()
    finite = 0 if tau == 1e-50 and name != "reinmax" else 1  # 1 / tau is no float
    assert not grad.isnan().any()
    assert grad[(logits != 0) | bool(finite)].isfinite().all()
    if 0.01 < tau < 100:
        # The law's softmax of a noisy pair loses what a probability below 1e-16 has.
        near = logits.abs() < 30
        truth = laws.bit_gradient(name, logits[near], bits[near], g[near], h[near], tau, seed=2)
        if name != "gumbel_softmax":
            torch.testing.assert_close(grad[near].double(), truth, rtol=2 * torch.finfo(dtype).eps, atol=1e-7)


def test_a_bit_far_below_keeps_its_weight_at_a_high_temperature(backend):
    # e^(-200) is no float, e^(-200 / 100) is.
    for dtype, rtol in ((torch.float32, 2e-5), (torch.float64, 1e-12)):
        logits, zero = torch.tensor([200.0, -200.0, 90.0, -30.0], dtype=dtype), torch.zeros(4, dtype=dtype)
        bits, _, grad = run("gumbel_softmax", logits, zero + 1, zero, tau=100.0, seed=4)
        truth = laws.bit_gradient("gumbel_softmax", logits, bits, zero + 1, zero, 100.0, seed=4)
        torch.testing.assert_close(grad.double(), truth, rtol=rtol, atol=0)


@pytest.mark.parametrize("shape", [(), (9,), (1,), (5, 9), (5, 1), (4, 1, 9), (4, 5, 9)])
@pytest.mark.parametrize("tau", [1.0, 0.6])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_masks(backend, name, shape, tau, dtype):
    logits, g, h = problem(4, 5, 9, dtype=dtype)
    mask = torch.rand(shape) < 0.6
    expected = run(name, logits.masked_fill(~mask, -torch.inf), g, h, tau=tau, seed=8)
    for junk in (0.0, torch.nan, torch.inf):
        dirty = [t.masked_fill(~mask, junk) for t in (logits, g, h)]
        outputs = run(name, *dirty, tau=tau, seed=8, mask=mask)
        assert same(outputs, expected)
        assert all((output[~mask.expand(4, 5, 9)] == 0).all() for output in outputs)


@pytest.mark.parametrize("shape", [(), (1,), (0,), (3, 0, 2), (2, 1, 3), (131,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shapes(backend, name, shape, dtype):
    logits, g, h = problem(*shape, dtype=dtype)
    outputs = run(name, logits, g, h, tau=0.9, seed=1)
    assert all(output.shape == shape for output in outputs)
    with reinmax_kernels.backend("reference"):
        expected = run(name, logits, g, h, tau=0.9, seed=1)
    assert torch.equal(outputs[0], expected[0])
    torch.testing.assert_close(outputs, expected, rtol=1e-6, atol=1e-6)


LAYOUTS = {
    "transposed": lambda t: t.mT,
    "sliced": lambda t: t[:, 1::2, ::3],
    "flipped": lambda t: t.movedim(0, -1)[1:],
    "expanded": lambda t: t[:1, :, :1].expand(3, -1, 5),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_strides(backend, name, layout, dtype):
    given = [LAYOUTS[layout](t) for t in problem(6, 70, 9, dtype=dtype)]
    mask = LAYOUTS[layout](torch.rand(6, 70, 9) < 0.8)
    expected = run(name, *(t.contiguous() for t in given), mask=mask.contiguous(), tau=0.7, seed=6)
    alike(run(name, *given, mask=mask, tau=0.7, seed=6), expected)


def test_a_gradient_that_is_one_number(backend, name):
    logits = torch.randn(300, requires_grad=True)
    (ours,) = torch.autograd.grad(bernoulli(logits, name, seed=1)[0].sum(), logits)
    assert torch.equal(ours, run(name, logits, torch.ones(300), torch.zeros(300), seed=1)[2])


def test_each_output_alone(backend, name):
    logits, g, h = problem(90, dtype=torch.float64)
    zero = torch.zeros_like(g)
    for output, grad in ((0, g), (1, h)):
        theta = logits.clone().requires_grad_()
        (ours,) = torch.autograd.grad(bernoulli(theta, name, seed=1)[output], theta, grad)
        expected = run(name, logits, g if output == 0 else zero, h if output == 1 else zero, seed=1)[2]
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-15)


def test_threads_change_nothing(name):
    given, before, results = problem(70_001), torch.get_num_threads(), []
    for count in (1, 2):
        torch.set_num_threads(count)
        results.append(run(name, *given, tau=0.8, seed=1, row_offset=3))
    torch.set_num_threads(before)
    assert same(*results)


def test_training_draws_afresh_and_replays(backend):
    logits = torch.zeros(400)
    torch.manual_seed(3)
    first, second = (bernoulli(logits)[0] for _ in range(2))
    torch.manual_seed(3)
    assert torch.equal(bernoulli(logits)[0], first)
    assert not torch.equal(first, second)
    generators = [torch.Generator().manual_seed(3) for _ in range(2)]
    assert torch.equal(*(bernoulli(logits, generator=generator)[0] for generator in generators))


# Refusals.

X = torch.zeros(4, 6)


def with_entry(value, dtype=torch.float32):
    return torch.zeros(4, 6, dtype=dtype).index_put_(
        (torch.tensor(2), torch.tensor(3)), torch.tensor(value, dtype=dtype)
    )


BAD = [
    (TypeError, "logits: expected a tensor, got list", ([1.0],), {}),
    (TypeError, "logits: expected float16, bfloat16, float32 or float64, got int64", (X.long(),), {}),
    (ValueError, "estimator: expected one of reinmax, straight_through, gumbel_softmax; got 'gst'", (X, "gst"), {}),
    (ValueError, "tau: expected a finite value > 0, got 0", (X, "reinmax", 0), {}),
    (TypeError, "tau: expected a real number, got str", (X, "reinmax", "1"), {}),
    (TypeError, "mask: expected a boolean tensor", (X,), {"mask": X}),
    (ValueError, r"mask: .* broadcasts to the logits' \(4, 6\), got \(5,\)", (X,), {"mask": torch.ones(5).bool()}),
    (ValueError, "seed: expected a number of seeds that divides the 24 rows, got 5", (X,), {"seed": torch.arange(5)}),
    (TypeError, "offset: expected an int, got float", (X,), {"offset": 0.5}),
    (ValueError, "logits: element 15 of 24 holds NaN; expected numbers or infinities", (with_entry(torch.nan),), {}),
    (ValueError, "logits: element 15 of 24 holds NaN", (with_entry(torch.nan, torch.bfloat16),), {}),
    (ValueError, "logits: element 15 of 24 holds NaN", (with_entry(torch.nan, torch.float64),), {}),
    (ValueError, r"element 15 of 24 holds -1e\+39 \(beyond float32", (with_entry(-1e39, torch.float64),), {}),
]


@pytest.mark.parametrize(("error", "message", "arguments", "options"), BAD)
def test_bad_input(backend, error, message, arguments, options):
    with pytest.raises(error, match=message):
        bernoulli(*arguments, **options)


def test_the_first_bad_element_is_named_across_threads(backend, threads):
    logits = torch.zeros(70_000)
    logits[[69_999, 40_001, 33_000]] = torch.nan
    with pytest.raises(ValueError, match="element 33000 of 70000 holds NaN"):
        bernoulli(logits)
    mask = torch.ones(70_000, dtype=torch.bool)
    mask[33_000] = False
    with pytest.raises(ValueError, match="element 40001 of 70000 holds NaN"):
        bernoulli(logits, mask=mask)


REFUSED = [
    ({"grad_bits": torch.ones(6).double()}, "gradient: expected the logits' dtype"),
    ({"grad_probs": torch.ones(5)}, "expected a tensor that broadcasts to the logits' shape"),
    ({"bits": torch.ones(6).double()}, "bits: expected the logits' dtype"),
    ({"tau": torch.tensor(0.0).double()}, "tau: expected a finite value > 0"),
    ({"mask": torch.ones(6)}, "mask: expected a boolean tensor"),
]


@pytest.mark.skipif(backends.native is None, reason="the reference leaves these checks to PyTorch")
@pytest.mark.parametrize(("change", "message"), REFUSED)
def test_the_kernels_refuse_tensors_that_do_not_fit(name, change, message):
    given = dict.fromkeys(("grad_bits", "grad_probs", "logits", "bits"), torch.zeros(6)) | {"mask": None, "tau": None}
    with pytest.raises(ValueError, match=message):
        ops.OPS["default"][f"bernoulli_{name}_backward"](*(given | change).values(), *own_arguments(name))


# PyTorch's transformations.


def own_arguments(name):
    return (torch.tensor([1]), 2, 3) if name == "gumbel_softmax" else ()


@pytest.mark.parametrize("overload", ops.OVERLOADS)
@pytest.mark.parametrize("mask", [None, (5,), (6, 1)])
@pytest.mark.parametrize("tau", [None, 0.5])
def test_opcheck(overload, name, mask, tau):
    logits, mask = torch.randn(5, 6).T, None if mask is None else torch.rand(mask) < 0.6
    torch.library.opcheck(ops.OPS[overload]["bernoulli"], (logits, torch.arange(3), mask, 2, 7))
    bits, _ = ops.OPS[overload]["bernoulli"](logits, torch.tensor([1]), mask, 0, 0)
    tau = None if tau is None else torch.tensor(tau, dtype=torch.float64)
    for g, h in ((torch.randn(6, 5), None), (None, torch.ones(()).expand(6, 5))):
        args = g, h, logits, bits, mask, tau, *own_arguments(name)
        torch.library.opcheck(ops.OPS[overload][f"bernoulli_{name}_backward"], args)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("with_backend", ["aot_eager", "inductor"])
def test_compiled_equals_eager(backend, name, dynamic, with_backend):
    torch._dynamo.reset()
    counter = CompileCounterWithBackend(with_backend)

    def model(logits, mask):
        return bernoulli(2 * logits, name, 0.7, seed=3, mask=mask)

    function = torch.compile(model, fullgraph=True, backend=counter, dynamic=dynamic)
    for n in (4, 9, 17):
        logits, g, h = problem(n, 6, dtype=torch.float64)
        results = []
        for f in (function, model):
            theta = logits.clone().requires_grad_()
            bits, probs = f(theta, torch.tensor([True] * 5 + [False]))
            torch.autograd.backward([bits, probs], [g, h])
            results.append((bits.detach(), probs.detach(), theta.grad))
        assert torch.equal(results[0][0], results[1][0])
        torch.testing.assert_close(*results, rtol=0, atol=1e-14)
    assert counter.frame_count == (1 if dynamic else 3)


def test_autocast_keeps_the_dtype_that_comes_in(backend, name):
    linear, x = torch.nn.Linear(8, 16), torch.randn(20, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        bits, probs = bernoulli(linear(x), name)
        assert (bits.dtype, probs.dtype) == (torch.bfloat16, torch.bfloat16)
        (bits.square().sum() + probs.square().sum()).backward()
        assert bernoulli(torch.randn(3))[0].dtype == torch.float32
    assert all(weight.grad.abs().sum() > 0 for weight in linear.parameters())


@pytest.mark.parametrize("in_dim", [0, -1])
@pytest.mark.parametrize("masked", [False, True])
def test_vmapped_seeds_are_seeds_of_groups(backend, name, in_dim, masked):
    logits, seeds = torch.randn(4, 5, 7), torch.tensor([3, -1, 3, 2**62])
    mask = torch.rand(4, 7) < 0.6 if masked else torch.ones(4, 7, dtype=torch.bool)
    ours = torch.func.vmap(lambda x, s, m: bernoulli(x, name, 0.8, seed=s, mask=m), (in_dim, 0, 0))(
        logits.movedim(0, in_dim), seeds, mask
    )
    assert same(ours, bernoulli(logits, name, 0.8, seed=seeds, mask=mask.unsqueeze(1)))


def test_randomness_of_vmap(backend, name):
    def draw(x):
        return bernoulli(x, name)[0]

    logits = torch.zeros(6, 90)
    assert torch.func.vmap(draw, randomness="different")(logits).unique(dim=0).shape == (6, 90)
    assert torch.func.vmap(draw, randomness="same")(logits).unique(dim=0).shape == (1, 90)
    with pytest.raises(RuntimeError, match="randomness"):
        torch.func.vmap(draw)(logits)


@pytest.mark.parametrize("randomness", ["different", "same"])
def test_vmap_over_nothing_gives_nothing(backend, name, randomness):
    logits = torch.randn(0, 7, requires_grad=True)
    bits, probs = torch.func.vmap(lambda x: bernoulli(x, name), randomness=randomness)(logits)
    assert bits.shape == probs.shape == (0, 7)
    (grad,) = torch.autograd.grad(bits.sum() + probs.sum(), logits)
    assert grad.shape == (0, 7)


def test_grad_inside_vmap(backend, name):
    logits, weight, seeds, mask = torch.randn(4, 7), torch.randn(7), torch.arange(4), torch.rand(4, 7) < 0.7

    def loss(x, seed, m):
        bits, probs = bernoulli(x, name, 0.6, seed=seed, mask=m)
        return (bits * weight).sum() ** 2 + (probs * weight.cos()).sum()

    ours = torch.func.vmap(torch.func.grad(loss))(logits, seeds, mask)
    theta = logits.clone().requires_grad_()
    sum(loss(*entry) for entry in zip(theta, seeds, mask, strict=True)).backward()
    torch.testing.assert_close(ours, theta.grad, rtol=0, atol=1e-6)


def test_what_autograd_keeps(backend, name):
    logits, kept = torch.randn(300, requires_grad=True), []

    def keep(tensor):
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        bits, _ = bernoulli(logits, name, seed=1)
    shared = {logits.untyped_storage().data_ptr(), bits.untyped_storage().data_ptr()}
    own = [t for t in kept if t.untyped_storage().data_ptr() not in shared]
    assert {t.untyped_storage().data_ptr() for t in kept} >= shared
    assert [t.numel() for t in own] == ([1] if name == "gumbel_softmax" else [])  # the seed


def test_double_backward_is_refused(backend, name):
    logits = torch.randn(3, requires_grad=True)
    bits, probs = bernoulli(logits, name)
    (grad,) = torch.autograd.grad((bits * probs).sum(), logits, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_shape_functions_on_any_device(name, device):
    with torch._subclasses.FakeTensorMode():
        logits = torch.empty(4, 7, device=device, dtype=torch.float16)
        for output in bernoulli(logits, name, 0.5, seed=3):
            assert (output.shape, output.dtype, output.device.type) == ((4, 7), torch.float16, device)


@pytest.mark.parametrize("value", [torch.nan, 1e39])
def test_without_a_check_what_has_no_bit_is_nan(monkeypatch, name, value):
    # As on a GPU, which the reference serves too.
    module = sys.modules["reinmax_kernels.reference.bernoulli"]
    monkeypatch.setattr(module, "require_bits", lambda *_: None)
    logits = torch.tensor([0.5, value, 1.0], dtype=torch.float64)
    bits, probs = module.bernoulli(logits, torch.tensor([1]), None, 0, 0)
    assert bits[1] == 0
    one, op = torch.ones(3, dtype=torch.float64), getattr(module, f"bernoulli_{name}_backward")
    for output in (probs, op(one, one, logits, bits, None, None, *own_arguments(name))):
        assert output.isnan().tolist() == [False, True, False]

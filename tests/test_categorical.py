"""The public functions on categorical logits: values, gradients, masks, seeds and errors."""

import concurrent.futures
import multiprocessing
from unittest import mock

import laws
import numpy as np
import pytest
import reinmax as upstream
import torch
from estimators import ESTIMATORS

import reinmax_kernels
from reinmax_kernels import gapped_straight_through, gumbel_rao, reinmax, sample

HALF = [torch.float16, torch.bfloat16]
DTYPES = [*HALF, torch.float32, torch.float64]
SHAPES = [(7, 1), (64, 2), (33, 3), (5, 31), (16, 64), (9, 255), (4, 1000), (3, 2049)]


@pytest.fixture(params=ESTIMATORS)
def name(request):
    return request.param


def run(name, logits, g, h, **options):
    """One-hot, probabilities, and the gradient of <one_hot, g> + <probs, h>; g or h may be None."""
    logits = logits.detach().requires_grad_()
    one_hot, probs = ESTIMATORS[name](logits, **options)
    outputs = [(output, grad) for output, grad in ((one_hot, g), (probs, h)) if grad is not None]
    torch.autograd.backward(*zip(*outputs, strict=True))
    return one_hot.detach(), probs.detach(), logits.grad


def problem(shape, dtype=torch.float32, scale=2.0):
    """Logits, and the gradients of both outputs."""
    return (scale * torch.randn(shape)).to(dtype), torch.randn(shape).to(dtype), torch.randn(shape).to(dtype)


def scale_of(g, h, tau):
    """The size of a row's gradient before any cancellation."""
    return (g.double().abs().amax(-1, keepdim=True) + h.double().abs().amax(-1, keepdim=True)) * max(1, 1 / tau)


# Values.


def softmax_in_long_double(logits):
    x = logits.double().numpy().astype(np.longdouble)
    e = np.exp(x - x.max(-1, keepdims=True))
    return torch.from_numpy((e / e.sum(-1, keepdims=True)).astype(np.float64))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_outputs(backend, name, shape, dtype):
    logits, _, _ = problem(shape, dtype)
    one_hot, probs = ESTIMATORS[name](logits, seed=3)
    index = sample(logits, seed=3)
    assert (index.dtype, index.shape) == (torch.int64, shape[:-1])
    assert (one_hot.dtype, probs.dtype) == (dtype, dtype)
    assert torch.equal(one_hot.double(), laws.one_hot(index, shape[-1]))
    # The ideal: the softmax of these logits in long double, rounded once. Before, the exponent is rounded twice: an
    # error in proportion to how far below the largest logit a category lies.
    truth, eps = softmax_in_long_double(logits), torch.finfo(dtype).eps
    gap = logits.double().amax(-1, keepdim=True) - logits.double()
    roundings = 0.51 if dtype in HALF else 3 + gap
    smallest = torch.finfo(dtype).smallest_normal * eps
    assert ((probs.double() - truth).abs() <= roundings * eps * truth + smallest).all()


def test_sample_draws_from_the_float32_value_of_every_dtype(backend):
    for dtype in DTYPES:
        logits, _, _ = problem((20, 50), dtype)
        assert torch.equal(sample(logits, seed=1), sample(logits.float(), seed=1))


def test_all_functions_draw_the_same(backend):
    logits, _, _ = problem((4, 6, 9))
    index = sample(logits, seed=5, offset=3, row_offset=8)
    for estimator in ESTIMATORS.values():
        for tau in (1.0, 0.1, 7):
            one_hot, _ = estimator(logits, tau, seed=5, offset=3, row_offset=8)
            assert torch.equal(one_hot.argmax(-1), index)


# Gradients.


@pytest.mark.parametrize("tau", [0.1, 0.5, 1, 1.1, 10])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 3e-6), (torch.float64, 1e-14)])
def test_gradient(backend, name, shape, tau, dtype, tolerance):
    logits, g, h = problem(shape, dtype)
    one_hot, _, grad = run(name, logits, g, h, tau=tau, seed=2)
    assert grad.dtype == dtype
    truth = laws.gradient(name, logits, one_hot.argmax(-1), g, h, tau, seed=2)
    assert ((grad.double() - truth).abs() <= tolerance * scale_of(g, h, tau)).all()


@pytest.mark.parametrize("tau", [0.5, 1, 1.1])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", HALF)
def test_gradient_in_half_types(backend, name, shape, tau, dtype):
    logits, g, h = problem(shape, dtype)
    one_hot, _, grad = run(name, logits, g, h, tau=tau, seed=2)
    assert grad.dtype == dtype
    truth = laws.gradient(name, logits, one_hot.argmax(-1), g, h, tau, seed=2)
    rounding = 0.51 * torch.finfo(dtype).eps * truth.abs() + torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    assert ((grad.double() - truth).abs() <= rounding + 3e-6 * scale_of(g, h, tau)).all()


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("shape", SHAPES)
def test_half_types_are_no_worse_than_torch(backend, shape, dtype):
    # At tau = 1, straight-through's gradient is that of torch.softmax, so torch's own kernels can be asked.
    logits, g, h = problem(shape, dtype)
    _, probs, grad = run("straight_through", logits, g, h, seed=2)
    theirs = logits.detach().requires_grad_()
    their_probs = theirs.softmax(-1)
    their_probs.backward((g.double() + h.double()).to(dtype))
    truth, grad_truth = logits.double().softmax(-1), laws.straight_through(logits, sample(logits), g, h, 1)
    rounding = torch.finfo(dtype).eps / 2
    for ours, torchs, exact in ((probs, their_probs, truth), (grad, theirs.grad, grad_truth)):
        error, allowed = ((x.double() - exact).abs().max() for x in (ours, torchs))
        assert error <= allowed + rounding * exact.abs().max()


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("shape", [*SHAPES, (3, 33), (3, 40), (2, 1025), (2, 1030)])
@pytest.mark.parametrize("dtype", HALF)
def test_half_types_draw_as_their_float32_values(backend, shape, dtype, sign):
    # Of one sign: kernels may order half types by their bits, which turns the negative ones round. The largest of a row
    # may be the last, and far above the rest.
    logits = (sign * (100 + problem(shape)[0].abs())).to(dtype)
    logits[::2, -1] += 90
    logits[:, 1:-1:7] = -torch.inf
    assert sample(logits, seed=5).equal(sample(logits.float(), seed=5))
    assert (sample(logits[::2]) == shape[1] - 1).all()


@pytest.mark.parametrize("bit", [0, 1])
@pytest.mark.parametrize("others", [-3.0, 3.0, -torch.inf])
@pytest.mark.parametrize("categories", [5, 40, 1025])
@pytest.mark.parametrize("dtype", HALF)
def test_nan_of_either_sign_in_half_types(backend, dtype, categories, others, bit):
    logits = torch.full((3, categories), others, dtype=dtype)
    logits[:, 2] = 1
    logits.view(torch.int16)[1, -1] = -1 if bit else 0x7FFF
    with pytest.raises(ValueError, match=f"row 1 of 3 holds NaN at category {categories - 1}"):
        sample(logits)


@pytest.mark.parametrize("tau", [1.0, 0.7])
def test_each_output_alone(backend, name, tau):
    logits, g, h = problem((12, 30), torch.float64)
    options = {"tau": tau, "seed": 4}
    one_hot, _, both = run(name, logits, g, h, **options)
    _, _, from_one_hot = run(name, logits, g, None, **options)
    _, _, from_probs = run(name, logits, None, h, **options)
    index, zero = one_hot.argmax(-1), torch.zeros_like(g)
    truth = laws.gradient(name, logits, index, g, zero, tau, seed=4)
    torch.testing.assert_close(from_one_hot, truth, rtol=0, atol=1e-14)
    torch.testing.assert_close(from_probs, laws.jacobian_product(logits.softmax(-1), h), rtol=0, atol=1e-14)
    torch.testing.assert_close(from_one_hot + from_probs, both, rtol=0, atol=1e-14)


@pytest.mark.parametrize("tau", [0.1, 0.5, 1.0, 1.1, 10.0])
def test_gradient_equals_the_authors_package(backend, monkeypatch, tau):
    logits, g, h = problem((40, 11), torch.float64)
    one_hot, probs, grad = run("reinmax", logits, g, h, tau=tau, seed=6)
    index = one_hot.argmax(-1, keepdim=True)
    monkeypatch.setattr(torch, "multinomial", lambda *args, **kwargs: index)
    theirs = logits.detach().requires_grad_()
    their_one_hot, their_probs = upstream.reinmax(theirs, tau, True)
    torch.autograd.backward([their_one_hot, their_probs], [g, h])
    assert torch.equal(one_hot, their_one_hot)
    torch.testing.assert_close(probs, their_probs, rtol=1e-14, atol=0)
    torch.testing.assert_close(grad, theirs.grad, rtol=0, atol=1e-14)


def test_the_authors_positional_call(backend):
    logits, _, _ = problem((5, 4))
    torch.manual_seed(1)
    expected = reinmax(logits, tau=1.3)
    torch.manual_seed(1)
    for ours, same in zip(reinmax(logits, 1.3, True), expected, strict=True):
        assert torch.equal(ours, same)


@pytest.mark.parametrize("tau", [1.0, 0.5])
def test_a_large_shift_changes_no_gradient(backend, name, tau):
    logits = torch.randint(-64, 64, (8, 40)) / 16  # multiples of 1/16 stay exact beside 1e4
    g, h = torch.randn(8, 40), torch.randn(8, 40)
    plain, shifted = (run(name, logits + shift, g, h, tau=tau, seed=1) for shift in (0.0, 1e4))
    assert torch.equal(plain[0], shifted[0])
    torch.testing.assert_close(plain[1], shifted[1], rtol=1e-6, atol=0)
    torch.testing.assert_close(plain[2], shifted[2], rtol=0, atol=1e-5)


@pytest.mark.parametrize("tau", [1.0, 0.01, 100.0])
@pytest.mark.parametrize("row", [[0.0, -1e4, 1e4, 9e3], [88.0, 89.0, -89.0, 90.0], [0.0, -3e38, 1e38, 3e38]], ids=repr)
def test_logits_far_apart(backend, name, row, tau):
    logits, g, h = torch.tensor([row]), torch.randn(1, 4), torch.randn(1, 4)
    one_hot, probs, grad = run(name, logits, g, h, tau=tau, seed=1)
    torch.testing.assert_close(probs, logits.softmax(-1))
    assert grad.isfinite().all()
    truth = laws.gradient(name, logits, one_hot.argmax(-1), g, h, tau, seed=1)
    assert ((grad.double() - truth).abs() <= 3e-6 * scale_of(g, h, tau)).all()


@pytest.mark.parametrize("tau", [0.5, 0.2, 0.06, 0.02])
@pytest.mark.parametrize(("categories", "logit"), [(20, 2.0**25), (60, 2.0**26), (1000, 2.0**26)])
def test_logits_beside_which_ln_c_is_rounded(backend, name, categories, logit, tau):
    # The floats above are 4 or 8 away: the log-sum-exp, as a float, is as far from the largest logit.
    logits, g, h = torch.full((3, categories), logit), torch.randn(3, categories), torch.randn(3, categories)
    one_hot, _, grad = run(name, logits, g, h, tau=tau, seed=1)
    truth = laws.gradient(name, logits, one_hot.argmax(-1), g, h, tau, seed=1)
    assert ((grad.double() - truth).abs() <= 3e-6 * scale_of(g, h, tau)).all()


@pytest.mark.parametrize("tau", [1e-50, 1e-30, 1e30, 1e300])
def test_every_finite_tau(backend, tau):
    # Beyond float32's range on either side, where the logits are float32: p is the argmax, or uniform.
    logits, g, h = problem((6, 5))
    mask = torch.tensor([True, True, False, True, True])
    one_hot, _, grad = run("reinmax", logits, g, h, mask=mask, tau=tau, seed=1)
    truth = laws.reinmax(logits.masked_fill(~mask, -torch.inf), one_hot.argmax(-1), g, h, tau)
    torch.testing.assert_close(grad.double(), truth, rtol=0, atol=1e-5)


def test_double_backward_is_refused(backend, name):
    logits = torch.randn(3, 4, requires_grad=True)
    one_hot, probs = ESTIMATORS[name](logits)
    (grad,) = torch.autograd.grad((one_hot * probs).sum(), logits, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_nothing_is_recorded_without_gradients(backend, name):
    assert not any(output.requires_grad for output in ESTIMATORS[name](torch.randn(3, 4)))
    logits = torch.randn(3, 4, requires_grad=True)
    with torch.no_grad():
        assert not any(output.requires_grad for output in ESTIMATORS[name](logits))
    assert all(output.requires_grad for output in ESTIMATORS[name](logits))
    assert not sample(logits).requires_grad


def test_the_input_is_left_alone(backend, name):
    logits, g, h = problem((6, 7))
    mask = torch.rand(6, 7) < 0.7
    mask[:, 0] = True
    before = [t.clone() for t in (logits, g, h, mask)]
    run(name, logits, g, h, mask=mask)
    assert all(torch.equal(now, then) for now, then in zip((logits, g, h, mask), before, strict=True))


# The temperature.


@pytest.mark.parametrize(
    "tau",
    [
        0.5,
        np.float32(0.5),
        np.float64(0.5),
        *(torch.tensor(0.5, dtype=dtype) for dtype in DTYPES),
        torch.tensor([0.5]),
        torch.tensor([[0.5]]),
    ],
    ids=repr,
)
def test_every_spelling_of_tau(backend, name, tau):
    logits, g, h = problem((6, 5))
    expected = run(name, logits, g, h, tau=0.5, seed=1)
    for ours, same in zip(run(name, logits, g, h, tau=tau, seed=1), expected, strict=True):
        assert torch.equal(ours, same)


@pytest.mark.parametrize("tau", [2, np.int64(2), torch.tensor(2), torch.tensor([2], dtype=torch.uint8)], ids=repr)
def test_an_integer_tau(backend, name, tau):
    logits, g, h = problem((6, 5))
    assert torch.equal(run(name, logits, g, h, tau=tau, seed=1)[2], run(name, logits, g, h, tau=2.0, seed=1)[2])


@pytest.mark.parametrize("one", [1, 1.0, np.float32(1), torch.tensor(1.0)], ids=repr)
def test_tau_one_on_both_paths(backend, name, one):
    # The number 1 takes the path without a temperature, the tensor the general one.
    logits, g, h = problem((6, 5), torch.float64)
    torch.testing.assert_close(run(name, logits, g, h, tau=one, seed=1)[2], run(name, logits, g, h, seed=1)[2])


def test_tau_keeps_float64_beside_float32_logits(backend, name):
    logits, g, h = problem((6, 5), torch.float64)
    tau = 1 / 3
    one_hot, _, grad = run(name, logits, g, h, tau=torch.tensor(tau, dtype=torch.float64), seed=1)
    truth = laws.gradient(name, logits, one_hot.argmax(-1), g, h, tau, seed=1)
    torch.testing.assert_close(grad, truth, rtol=0, atol=1e-13)


def test_no_gradient_flows_to_tau(backend, name):
    tau, logits = torch.tensor(0.5, requires_grad=True), torch.randn(3, 4, requires_grad=True)
    ESTIMATORS[name](logits, tau)[0].sum().backward()
    assert tau.grad is None
    assert not ESTIMATORS[name](logits.detach(), tau)[0].requires_grad


# Masks.

MASK_SHAPES = [(), (6,), (1,), (5, 6), (5, 1), (1, 6), (4, 1, 6), (4, 5, 1), (1, 5, 6), (4, 1, 1), (4, 5, 6)]


def some_mask(shape):
    """A random mask of this shape that leaves every row of [4, 5, 6] a category."""
    mask = torch.rand(shape) < 0.5
    if shape[-1:] == (6,):
        mask[..., 2] = True
    else:
        mask[...] = True
    return mask


@pytest.mark.parametrize("shape", MASK_SHAPES)
@pytest.mark.parametrize("tau", [1.0, 0.6])
def test_a_mask_is_minus_infinity(backend, name, shape, tau):
    logits, g, h = problem((4, 5, 6))
    mask = some_mask(shape)
    expected = run(name, logits.masked_fill(~mask, -torch.inf), g, h, tau=tau, seed=8)
    for ours, same in zip(run(name, logits, g, h, mask=mask, tau=tau, seed=8), expected, strict=True):
        assert torch.equal(ours, same)
    assert torch.equal(sample(logits, mask=mask, seed=8), expected[0].argmax(-1))
    assert not expected[0][~mask.expand(4, 5, 6)].any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tau", [1.0, 0.6])
def test_what_lies_under_the_mask_does_not_matter(backend, name, dtype, tau):
    logits, g, h = problem((40, 9), dtype)
    mask = torch.rand(40, 9) < 0.6
    mask[:, 3] = True
    clean = run(name, logits, g, h, mask=mask, tau=tau, seed=8)
    for junk in (torch.nan, torch.inf, -torch.inf):
        dirty_logits = logits.masked_fill(~mask, junk)
        for output, same in zip(run(name, dirty_logits, g, h, mask=mask, tau=tau, seed=8), clean, strict=True):
            assert torch.equal(output, same)
        # The gradient that arrives at a masked category doesn't matter either.
        dirty_g, dirty_h = (grad.masked_fill(~mask, junk) for grad in (g, h))
        _, _, grad = run(name, dirty_logits, dirty_g, dirty_h, mask=mask, tau=tau, seed=8)
        assert torch.equal(grad, clean[2])
        assert (grad[~mask] == 0).all()


@pytest.mark.parametrize("tau", [1.0, 0.6])
def test_a_category_at_minus_infinity_needs_no_mask(backend, name, tau):
    logits, g, h = problem((40, 9))
    mask = torch.rand(40, 9) < 0.6
    mask[:, 3] = True
    logits.masked_fill_(~mask, -torch.inf)
    _, probs, grad = run(name, logits, g, h, tau=tau, seed=8)
    assert (probs[~mask] == 0).all()
    for junk in (torch.nan, torch.inf):
        dirty_g, dirty_h = (given.masked_fill(~mask, junk) for given in (g, h))
        assert torch.equal(run(name, logits, dirty_g, dirty_h, tau=tau, seed=8)[2], grad)
    assert (grad[~mask] == 0).all()


def test_one_allowed_category_is_certain(backend, name):
    logits, g, h = problem((5, 7))
    mask = torch.nn.functional.one_hot(torch.tensor([0, 6, 3, 3, 1]), 7).bool()
    one_hot, probs, grad = run(name, logits, g, h, mask=mask)
    assert torch.equal(one_hot, mask.float())
    assert torch.equal(probs, mask.float())
    torch.testing.assert_close(grad, torch.zeros(5, 7), rtol=0, atol=1e-6)


# Shapes and dimensions.


@pytest.mark.parametrize("dim", [0, 1, 2, -1, -2, -3])
def test_dim(backend, name, dim):
    logits, g, h = problem((3, 4, 5))
    mask = torch.ones(3, 4, 5, dtype=torch.bool)
    mask.select(dim, 1)[...] = False
    last = run(name, *(t.movedim(dim, -1) for t in (logits, g, h)), mask=mask.movedim(dim, -1), seed=3, tau=0.7)
    for ours, same in zip(run(name, logits, g, h, dim=dim, mask=mask, seed=3, tau=0.7), last, strict=True):
        assert torch.equal(ours, same.movedim(-1, dim))
    assert torch.equal(sample(logits, dim=dim, mask=mask, seed=3), last[0].argmax(-1))


@pytest.mark.parametrize("shape", [(4,), (1,), (1, 1), (2, 1, 3), (0, 5), (3, 0, 5), (0, 0, 2)])
def test_odd_shapes(backend, name, shape):
    logits, g, h = problem(shape)
    one_hot, probs, grad = run(name, logits, g, h, seed=1)
    assert one_hot.shape == probs.shape == grad.shape == shape
    assert sample(logits, seed=1).shape == shape[:-1]
    assert (one_hot.sum(-1) == 1).all()
    if shape[-1] == 1:
        assert (grad == 0).all()


def test_no_rows_take_any_number_of_seeds(backend):
    assert sample(torch.zeros(0, 3), seed=torch.tensor([1, 2, 3])).shape == (0,)


def test_the_largest_number_of_categories(backend):
    index = sample(torch.zeros(1).expand(2**23), seed=1)
    assert 0 <= index < 2**23


# Seeds and generators.


def test_seeds_of_groups(backend, name):
    logits, _, _ = problem((3, 4, 5))
    seeds = torch.tensor([7, -1, 7])
    one_hot, _ = ESTIMATORS[name](logits, seed=seeds, offset=2, row_offset=9)
    for entry, seed, drawn in zip(logits, seeds, one_hot, strict=True):
        assert torch.equal(drawn, ESTIMATORS[name](entry, seed=seed.item(), offset=2, row_offset=9)[0])
    per_row = sample(logits, seed=torch.arange(12))
    assert torch.equal(per_row.flatten(), torch.stack([sample(x, seed=i) for i, x in enumerate(logits.view(12, 5))]))


def test_manual_seed_replays(backend, name):
    logits = torch.zeros(64, 50)
    torch.manual_seed(3)
    first, second = (ESTIMATORS[name](logits)[0] for _ in range(2))
    torch.manual_seed(3)
    assert torch.equal(ESTIMATORS[name](logits)[0], first)
    assert not torch.equal(first, second)


def test_a_generator_replays_and_leaves_the_global_one_alone(backend):
    logits, state = torch.zeros(64, 50), torch.get_rng_state()
    generator = torch.Generator().manual_seed(4)
    first, second = (sample(logits, generator=generator) for _ in range(2))
    assert torch.equal(sample(logits, generator=torch.Generator().manual_seed(4)), first)
    assert not torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_given_seed_leaves_the_global_generator_alone(backend):
    state = torch.get_rng_state()
    sample(torch.zeros(4, 5), seed=1)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("change", [{"seed": 2}, {"offset": 1}, {"offset": 2**32}, {"row_offset": 64}])
def test_every_part_of_the_key_changes_the_draw(backend, change):
    logits = torch.zeros(64, 50)
    assert not torch.equal(sample(logits, **({"seed": 1} | change)), sample(logits, seed=1))


# Threads and processes.


def test_results_do_not_depend_on_the_thread_count(backend, name):
    problems = [problem(shape) for shape in ((5000, 3), (400, 300), (3, 50_000))]
    before, results = torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append([run(name, *p, seed=1, tau=tau) for p in problems for tau in (1.0, 0.8)])
    torch.set_num_threads(before)
    for one, two in zip(*results, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_calls_from_many_threads(backend, name):
    logits, g, h = problem((200, 64))

    def call(seed):
        with reinmax_kernels.backend(backend):
            return run(name, logits, g, h, seed=seed, tau=0.9)

    expected = [call(seed) for seed in range(16)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for ours, same in zip(pool.map(call, range(16)), expected, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(ours, same, strict=True))


def _draw_in_child(backend, connection):
    torch.set_num_threads(1)  # as a DataLoader's worker does: OpenMP's threads don't survive a fork
    with reinmax_kernels.backend(backend):
        connection.send(sample(torch.zeros(30, 40), seed=5).tolist())


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_process_draws_the_same(backend, method):
    expected = sample(torch.zeros(30, 40), seed=5).tolist()
    context = multiprocessing.get_context(method)
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_draw_in_child, args=(backend, sender))
    child.start()
    try:
        assert receiver.poll(90), f"the {method}ed child did not answer"
        assert receiver.recv() == expected
    finally:
        child.join(10)
        child.kill()


# Errors. Each says what was expected and what was got.

X = torch.zeros(4, 6)
INVALID_ROW = "expected numbers or -inf, at least one of them finite"


def with_entry(value, row=2, column=3, dtype=torch.float32):
    logits = torch.zeros(4, 6, dtype=dtype)
    logits[row, column] = value
    return logits


def rows_of(value, *rows):
    logits = torch.zeros(4, 6)
    logits[list(rows)] = value
    return logits


float8 = torch.float8_e4m3fn
cuda_generator = mock.Mock(spec=torch.Generator, device=torch.device("cuda", 0))
ERRORS = [
    # logits
    ([[1.0, 2.0]], {}, TypeError, "logits: expected a tensor", "got list"),
    (None, {}, TypeError, "logits: expected a tensor", "got NoneType"),
    (X.numpy(), {}, TypeError, "logits: expected a tensor", "got ndarray"),
    *(
        (X.to(dtype), {}, TypeError, "logits: expected float16, bfloat16, float32 or float64", f"got {spelt}$")
        for dtype, spelt in [
            (torch.int64, "int64"),
            (torch.uint8, "uint8"),
            (torch.bool, "bool"),
            (torch.complex64, "complex64"),
            (float8, "float8_e4m3fn"),
        ]
    ),
    (X[:, :0], {}, ValueError, r"logits: expected 1 to 2\*\*23 categories", r"got shape \(4, 0\)"),
    (torch.zeros(1).expand(2**23 + 1), {}, ValueError, r"1 to 2\*\*23 categories", r"got shape \(8388609,\)"),
    (X[:0], {"dim": 0}, ValueError, "categories along dim 0", r"got shape \(0, 6\)"),
    (torch.tensor(1.0), {}, IndexError, "dim: expected", "0-dimensional logits, got -1"),
    (X, {"dim": 2}, IndexError, r"dim: expected a value in \[-2, 1\]", "2-dimensional logits, got 2"),
    (X, {"dim": -3}, IndexError, r"dim: expected a value in \[-2, 1\]", "got -3"),
    # values
    (with_entry(torch.nan), {}, ValueError, INVALID_ROW, "row 2 of 4 holds NaN at category 3"),
    (with_entry(torch.inf), {}, ValueError, INVALID_ROW, r"row 2 of 4 holds \+inf at category 3"),
    (with_entry(torch.nan, dtype=torch.bfloat16), {}, ValueError, INVALID_ROW, "row 2 of 4 holds NaN at category 3"),
    (with_entry(torch.inf, dtype=torch.float16), {}, ValueError, INVALID_ROW, r"row 2 of 4 holds \+inf at category 3"),
    (rows_of(-torch.inf, 1, 3), {}, ValueError, INVALID_ROW, "row 1 of 4 holds only -inf"),
    (rows_of(torch.nan, 3, 1, 2), {}, ValueError, INVALID_ROW, "row 1 of 4 holds NaN at category 0"),
    (with_entry(torch.nan, 5 % 4, 0), {"dim": 0}, ValueError, INVALID_ROW, "row 0 of 6 holds NaN at category 1"),
    (with_entry(1e39, dtype=torch.float64), {}, ValueError, INVALID_ROW, r"row 2 of 4 holds 1e\+39 .*beyond float32"),
    (with_entry(-1e39, dtype=torch.float64), {}, ValueError, INVALID_ROW, r"row 2 of 4 holds -1e\+39 .*beyond float32"),
    (rows_of(0.0, 0).double() - 1e39, {}, ValueError, INVALID_ROW, r"row 0 of 4 holds -1e\+39 .*beyond float32"),
    (X, {"mask": rows_of(1.0, 0, 1, 3) > 0}, ValueError, INVALID_ROW, "row 2 of 4 holds no category that the mask"),
    (X, {"mask": torch.tensor(False)}, ValueError, INVALID_ROW, "row 0 of 4 holds no category that the mask"),
    (
        rows_of(-torch.inf, 2),
        {"mask": torch.tensor([True] * 3 + [False] * 3)},
        ValueError,
        INVALID_ROW,
        "row 2 of 4 holds only -inf",
    ),
    # mask
    (X, {"mask": [True] * 6}, TypeError, "mask: expected a boolean tensor", "got list"),
    (X, {"mask": torch.ones(4, 6)}, TypeError, r"mask: expected a boolean tensor \(True = allowed\)", "got float32"),
    (X, {"mask": torch.ones(6, dtype=torch.uint8)}, TypeError, "mask: expected a boolean tensor", "got uint8"),
    *(
        (X, {"mask": torch.ones(shape, dtype=torch.bool)}, ValueError, r"mask: .* broadcasts to .*\(4, 6\)", got)
        for shape, got in [((5,), r"got \(5,\)"), ((6, 1), r"got \(6, 1\)"), ((1, 4, 6), r"got \(1, 4, 6\)")]
    ),
    (X, {"mask": torch.ones(6, dtype=torch.bool, device="meta")}, ValueError, "mask: expected it on cpu", "got meta"),
    # seed
    (X, {"seed": 1.0}, TypeError, "seed: expected an int", "got float"),
    (X, {"seed": True}, TypeError, "seed: expected an int", "got bool"),
    (X, {"seed": "1"}, TypeError, "seed: expected an int", "got str"),
    (X, {"seed": 2**64}, ValueError, r"seed: expected a value in \[-2\*\*63, 2\*\*64\)", f"got {2**64}"),
    (X, {"seed": -(2**63) - 1}, ValueError, r"seed: expected a value in \[-2\*\*63", f"got {-(2**63) - 1}"),
    (X, {"seed": torch.tensor(1.0)}, TypeError, "seed: expected an int or an int64 tensor", "got float32"),
    (X, {"seed": torch.tensor(1, dtype=torch.int32)}, TypeError, "seed: expected an int or an int64", "got int32"),
    (
        X,
        {"seed": torch.zeros(2, 2, dtype=torch.int64)},
        ValueError,
        "seed: expected G >= 1 seeds",
        r"got shape \(2, 2\)",
    ),
    (X, {"seed": torch.zeros(0, dtype=torch.int64)}, ValueError, "seed: expected G >= 1 seeds", r"got shape \(0,\)"),
    (X, {"seed": torch.tensor([1, 2, 3])}, ValueError, "seed: .* divides the 4 rows", "got 3"),
    (X, {"seed": torch.zeros(1, dtype=torch.int64, device="meta")}, ValueError, "seed: expected it on cpu", "got meta"),
    (X, {"seed": 1, "generator": torch.Generator()}, ValueError, "seed, generator: expected at most one", "got both"),
    (X, {"offset": 2**64}, ValueError, "offset: expected a value in", f"got {2**64}"),
    (X, {"offset": 0.5}, TypeError, "offset: expected an int", "got float"),
    (X, {"row_offset": None}, TypeError, "row_offset: expected an int", "got NoneType"),
    (X, {"row_offset": -(2**63) - 1}, ValueError, "row_offset: expected a value in", "got -9223372036854775809"),
    # generator
    (X, {"generator": 3}, TypeError, "generator: expected a torch.Generator", "got int"),
    (X, {"generator": cuda_generator}, ValueError, "generator: expected one of cpu", "got one of cuda:0"),
]
TAU_ERRORS = [
    *(
        (tau, TypeError, "tau: expected a real number", f"got {type(tau).__name__}")
        for tau in ("1", True, 1j, None, [1])
    ),
    (torch.tensor(True), TypeError, "tau: expected a real number", "got a tensor of bool"),
    (torch.tensor(1j), TypeError, "tau: expected a real number", "got a tensor of complex64"),
    *((tau, ValueError, "tau: expected a finite value > 0", f"got {tau}") for tau in (0, 0.0, -1.0)),
    *((float(tau), ValueError, "tau: expected a finite value > 0", f"got {tau}") for tau in ("inf", "-inf", "nan")),
    *(
        (torch.tensor(tau), ValueError, "tau: expected a finite value > 0", "got")
        for tau in (0.0, torch.inf, torch.nan)
    ),
    (torch.ones(2), ValueError, "tau: expected a number or a tensor of one element", r"got shape \(2,\)"),
    (torch.ones(0), ValueError, "tau: expected a number or a tensor of one element", r"got shape \(0,\)"),
]


def check_message(caught, expected, got):
    caught.match(expected)
    caught.match(got)


@pytest.mark.parametrize(("logits", "options", "error", "expected", "got"), ERRORS)
def test_errors(backend, logits, options, error, expected, got):
    for function in (sample, *ESTIMATORS.values()):
        with pytest.raises(error, match=expected) as caught:
            function(logits, **options)
        check_message(caught, expected, got)


@pytest.mark.parametrize(("tau", "error", "expected", "got"), TAU_ERRORS, ids=repr)
def test_errors_of_tau(backend, name, tau, error, expected, got):
    with pytest.raises(error, match=expected) as caught:
        ESTIMATORS[name](X, tau)
    check_message(caught, expected, got)


@pytest.mark.parametrize("gap", ["1", True, None, 1j, torch.tensor(1.0)], ids=repr)
def test_a_gap_that_is_no_number_is_refused(gap):
    with pytest.raises(TypeError, match=f"gap: expected a real number, got {type(gap).__name__}"):
        gapped_straight_through(X, gap=gap)


@pytest.mark.parametrize("gap", [-1, -1e-9, float("inf"), float("nan")])
def test_a_gap_out_of_range_is_refused(gap):
    with pytest.raises(ValueError, match=f"gap: expected a finite value >= 0, got {gap}"):
        gapped_straight_through(X, gap=gap)


@pytest.mark.parametrize("num_samples", ["1", True, None, 1.0, torch.tensor(1)], ids=repr)
def test_a_number_of_samples_that_is_no_integer_is_refused(num_samples):
    with pytest.raises(TypeError, match=f"num_samples: expected an int, got {type(num_samples).__name__}"):
        gumbel_rao(X, num_samples=num_samples)


@pytest.mark.parametrize("num_samples", [0, -1, 2**32])
def test_a_number_of_samples_out_of_range_is_refused(num_samples):
    with pytest.raises(ValueError, match=rf"num_samples: expected a value in \[1, 2\*\*32\), got {num_samples}"):
        gumbel_rao(X, num_samples=num_samples)


def test_hard_false_is_refused():
    with pytest.raises(ValueError, match=r"hard: expected True .* got False"):
        reinmax(X, 1.0, False)


@pytest.mark.skipif(not torch.accelerator.is_available(), reason="needs a device beside the CPU")
def test_a_generator_of_another_device_is_refused(backend):
    generator = torch.Generator(torch.accelerator.current_accelerator())
    with pytest.raises(ValueError, match="generator: expected one of cpu"):
        sample(X, generator=generator)


def test_the_first_bad_row_is_named_across_threads(backend, threads):
    logits = torch.zeros(20_000, 33 if backend == "cpu" else 2)
    logits[[19_999, 12_345, 6_000]] = torch.nan
    with pytest.raises(ValueError, match="row 6000 of 20000 holds NaN at category 0"):
        sample(logits)
    logits = torch.zeros(3, 50_000)
    logits[1, 49_999], logits[2, 3] = torch.inf, torch.nan
    with pytest.raises(ValueError, match=r"row 1 of 3 holds \+inf at category 49999"):
        reinmax(logits)


def test_after_an_error_all_goes_on(backend, name):
    torch.manual_seed(2)
    _, second = (ESTIMATORS[name](X)[0] for _ in range(2))
    # The seed is drawn before the logits' values are looked at, so a call that fails on them has used up one draw,
    # whatever the backend; an error of shape or type comes before it and uses up none.
    torch.manual_seed(2)
    with pytest.raises(ValueError, match="holds NaN"):
        ESTIMATORS[name](with_entry(torch.nan))
    for bad in ({"mask": torch.ones(5, dtype=torch.bool)}, {"dim": 7}):
        with pytest.raises((ValueError, IndexError)):
            ESTIMATORS[name](X, **bad)
    assert torch.equal(ESTIMATORS[name](X)[0], second)


def test_a_bad_row_fails_before_anything_is_returned_and_harms_no_other_call(backend):
    logits = torch.randn(50, 7)
    expected = sample(logits, seed=1)
    bad = logits.clone()
    bad[20] = torch.nan
    for _ in range(3):
        with pytest.raises(ValueError, match="row 20 of 50"):
            sample(bad, seed=1)
        assert torch.equal(sample(logits, seed=1), expected)

"""What the estimators promise, checked exactly: in float64, over every possible draw with its probability."""

import os

import laws
import pytest
import torch

from reinmax_kernels import backends, sample

TAUS = [0.1, 0.5, 1.0, 1.5, 10.0]
SIZES = [(1, 2), (1, 5), (1, 40), (2, 7), (3, 4), (5, 2)]


INTERPRETED = backends.has_triton and os.environ.get("TRITON_INTERPRET") == "1"
OVERLOADS = ["reference", *(["default"] if backends.native else []), *(["triton"] if INTERPRETED else [])]


@pytest.fixture(params=OVERLOADS)
def overload(request):
    """Triton's kernels, too, which are too slow on their interpreter for every other test."""
    return request.param


@pytest.fixture(params=laws.GRADIENTS)
def name(request):
    return request.param


def double(*shape):
    return torch.randn(shape, dtype=torch.float64)


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-13 * (1 + expected.abs().max().item()))


def linear(n, c):
    weight, constant = double(n, c), double(1)
    return lambda sample: (weight * sample).sum() + constant.sum()


def quadratic(n, c):
    """A random quadratic function of all variables together, so that each one's loss depends on the others' draws."""
    matrix, first = double(n * c, n * c), linear(n, c)
    return lambda sample: sample.flatten() @ matrix @ sample.flatten() + first(sample)


def cubic(n, c):
    weight, second = double(n, c), quadratic(n, c)
    return lambda sample: (weight * sample).sum() ** 3 + second(sample)


# What the estimators are for.


@pytest.mark.parametrize(("n", "c"), SIZES)
def test_reinmax_is_exact_for_quadratic_functions(overload, n, c):
    logits, f = double(n, c), quadratic(n, c)
    close(laws.expected_gradient("reinmax", overload, f, logits), laws.true_gradient(f, logits))


@pytest.mark.parametrize(("n", "c"), SIZES)
@pytest.mark.parametrize("name", ["reinmax", "straight_through"])
def test_both_are_exact_for_linear_functions(overload, name, n, c):
    logits, f = double(n, c), linear(n, c)
    close(laws.expected_gradient(name, overload, f, logits), laws.true_gradient(f, logits))


@pytest.mark.parametrize(
    ("estimator", "family"), [("reinmax", cubic), ("straight_through", quadratic), ("gapped_straight_through", linear)]
)
def test_and_for_nothing_more(overload, estimator, family):
    # The laws above can fail: one degree higher, they do.
    logits, f = double(2, 3), family(2, 3)
    bias = laws.expected_gradient(estimator, overload, f, logits) - laws.true_gradient(f, logits)
    assert bias.abs().max() > 0.01


@pytest.mark.parametrize("tau", [0.5, 2.0])
def test_a_temperature_trades_the_exactness_away(overload, tau):
    logits, index, g = double(1, 4), torch.tensor([2]), double(1, 4)
    with_tau = laws.backward("reinmax", overload, g, None, logits, index, tau=tau)
    assert (with_tau - laws.backward("reinmax", overload, g, None, logits, index)).abs().max() > 1e-3


@pytest.mark.parametrize("n", [1, 3])
def test_the_gradient_of_the_probabilities_is_the_softmax_one(overload, name, n):
    logits, h = double(n, 6), double(n, 6)
    theta = logits.clone().requires_grad_()
    (expected,) = torch.autograd.grad(theta.softmax(-1), theta, h)
    for tau in (None, 0.7):
        for c in range(6):
            close(laws.backward(name, overload, None, h, logits, torch.full((n,), c), tau=tau), expected)


# Every draw, every temperature, against the papers' expressions.


@pytest.mark.parametrize("tau", TAUS)
@pytest.mark.parametrize("c", [1, 2, 3, 17, 100])
def test_the_gradient_given_the_draw(overload, name, tau, c):
    logits, g, h, index = double(c, c), double(c, c), double(c, c), torch.arange(c)  # row i draws category i
    stream = {"seed": 9, "offset": -2, "row_offset": 2**33}
    expected = laws.gradient(name, logits, index, g, h, tau, **stream)
    close(laws.backward(name, overload, g, h, logits, index, tau=tau, **stream), expected)
    if tau == 1:
        close(laws.backward(name, overload, g, h, logits, index, **stream), expected)


@pytest.mark.parametrize("tau", TAUS)
def test_reinmax_is_algorithm_2(overload, tau):
    c = 9
    logits, g, index = double(c, c), double(c, c), torch.arange(c)
    expected = laws.reinmax_algorithm_2(logits, index, g, tau)
    close(laws.backward("reinmax", overload, g, None, logits, index, tau=tau), expected)
    close(laws.reinmax(logits, index, g, torch.zeros_like(g), tau), expected)


def test_reinmax_at_tau_one_needs_no_more_than_the_drawn_gradient(overload):
    # (pi_j / 2)(g_j - g_D) for j != D, and (g_D - <pi, g>) / 2 at D.
    c = 8
    logits, g, index = double(c, c), double(c, c), torch.arange(c)
    pi, drawn = logits.softmax(-1), g.diagonal().unsqueeze(-1)
    expected = pi * (g - drawn) / 2
    expected.diagonal().copy_((drawn.squeeze(-1) - (pi * g).sum(-1)) / 2)
    close(laws.backward("reinmax", overload, g, None, logits, index), expected)


# Laws of every gradient.


@pytest.mark.parametrize("tau", [None, *TAUS])
@pytest.mark.parametrize("c", [2, 11, 1500])
def test_each_row_sums_to_zero(overload, name, tau, c):
    logits, g, h, index = double(6, c), double(6, c), double(6, c), torch.randint(c, (6,))
    grad = laws.backward(name, overload, g, h, logits, index, tau=tau)
    close(grad.sum(-1), torch.zeros(6, dtype=torch.float64))


@pytest.mark.parametrize("tau", [None, *TAUS])
def test_a_constant_added_to_a_row_changes_nothing(overload, name, tau):
    logits, g, h, index = double(6, 9), double(6, 9), double(6, 9), torch.randint(9, (6,))
    expected = laws.backward(name, overload, g, h, logits, index, tau=tau)
    shift = torch.tensor([-1000.0, -1.0, 0.0, 1.0, 30.0, 1000.0], dtype=torch.float64).unsqueeze(-1)
    moved = laws.backward(name, overload, g, h, logits + shift, index, tau=tau)
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-11)
    # Nor does one added to a row of either gradient: the probabilities sum to 1.
    moved = laws.backward(name, overload, g + shift, h - shift, logits, index, tau=tau)
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("tau", [None, *TAUS])
def test_linear_in_the_gradients(overload, name, tau):
    logits, index = double(6, 9), torch.randint(9, (6,))
    g1, g2, h1, h2 = (double(6, 9) for _ in range(4))

    def grad(g, h):
        return laws.backward(name, overload, g, h, logits, index, tau=tau)

    close(grad(2 * g1 - 3 * g2, 2 * h1 - 3 * h2), 2 * grad(g1, h1) - 3 * grad(g2, h2))
    close(grad(g1, h1), grad(g1, None) + grad(None, h1))
    assert (grad(torch.zeros_like(g1), torch.zeros_like(h1)) == 0).all()


@pytest.mark.parametrize("tau", [None, *TAUS])
@pytest.mark.parametrize("masked", [False, True])
def test_a_forbidden_category_is_as_good_as_absent(overload, name, tau, masked):
    c, allowed = 12, torch.tensor([0, 3, 4, 7, 11])
    logits, g, h = double(5, c), double(5, c), double(5, c)
    mask = torch.zeros(c, dtype=torch.bool).index_fill_(0, allowed, True)
    given = logits if masked else logits.masked_fill(~mask, -torch.inf)
    grad = laws.backward(name, overload, g, h, given, allowed, mask=mask if masked else None, tau=tau)
    if name not in laws.NOISY:  # noise goes by a category's number
        fewer = (t[:, allowed] for t in (g, h, logits))
        close(grad[:, allowed], laws.backward(name, overload, *fewer, torch.arange(5), tau=tau))
    close(grad, laws.gradient(name, logits.masked_fill(~mask, -torch.inf), allowed, g, h, 1 if tau is None else tau))
    assert (grad[:, ~mask] == 0).all()


@pytest.mark.parametrize("tau", [None, 0.5])
@pytest.mark.parametrize(("n", "c"), [(5, 5), (40, 40), (4, 5000)])
def test_a_mask_is_minus_infinity_even_at_the_drawn_category(overload, name, tau, n, c):
    # Such a draw comes from an index of one's own alone.
    logits, g, h, index = double(n, c), double(n, c), double(n, c), torch.arange(n)
    mask = ~torch.eye(n, c, dtype=torch.bool)
    expected = laws.backward(name, overload, g, h, logits.masked_fill(~mask, -torch.inf), index, tau=tau)
    close(laws.backward(name, overload, g, h, logits, index, mask=mask, tau=tau), expected)


def test_a_forbidden_category_is_never_drawn(backend):
    logits = torch.randn(3000, 40)
    mask = torch.rand(3000, 40) < 0.2
    mask[:, 17] = True
    for drawn in (sample(logits, mask=mask), sample(logits.masked_fill(~mask, -torch.inf))):
        assert mask.gather(-1, drawn.unsqueeze(-1)).all()
        assert drawn.unique().numel() == 40


@pytest.mark.parametrize("tau", [None, 0.5])
def test_rows_are_independent(overload, name, tau):
    logits, g, h, index = double(6, 9), double(6, 9), double(6, 9), torch.randint(9, (6,))
    together = laws.backward(name, overload, g, h, logits, index, tau=tau)
    for i in range(6):
        close(laws.backward(name, overload, g[i], h[i], logits[i], index[i], tau=tau, row_offset=i), together[i])

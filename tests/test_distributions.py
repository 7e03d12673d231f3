"""The distributions, against PyTorch's and in Pyro."""

import pytest
import torch
from scipy import stats
from torch import distributions as torch_distributions

from reinmax_kernels import reinmax
from reinmax_kernels.distributions import OneHotCategoricalReinMax

SIBLING = torch_distributions.OneHotCategoricalStraightThrough
PARAMETERS = ["probs", "logits"]


@pytest.fixture(params=PARAMETERS)
def given(request):
    return request.param


def parameter(given, *shape, dtype=torch.float64):
    values = torch.randn(shape, dtype=dtype)
    return {given: values if given == "logits" else values.exp()}  # not normalised


def pair(given, *shape, **options):
    """The same distribution, ours and PyTorch's."""
    values = parameter(given, *shape)
    return OneHotCategoricalReinMax(**values, **options), SIBLING(**values)


@pytest.mark.parametrize("shape", [(3,), (4, 3), (2, 4, 5), (3, 1)])
def test_all_but_the_gradient_is_pytorchs(given, shape):
    ours, theirs = pair(given, *shape)
    value = theirs.sample((6,))
    for name in ("batch_shape", "event_shape", "param_shape", "has_rsample", "has_enumerate_support", "support"):
        assert getattr(ours, name) == getattr(theirs, name)
    for name in ("probs", "logits", "mean", "mode", "variance"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name))
    assert torch.equal(ours.log_prob(value), theirs.log_prob(value))
    assert torch.equal(ours.entropy(), theirs.entropy())
    for expand in (True, False):
        assert torch.equal(ours.enumerate_support(expand), theirs.enumerate_support(expand))


def test_kullback_leibler(given):
    (p, p_theirs), (q, q_theirs) = pair(given, 4, 3), pair(given, 4, 3)
    expected = torch_distributions.kl_divergence(p_theirs, q_theirs)
    for first, second in ((p, q), (p, q_theirs), (p_theirs, q)):
        assert torch.equal(torch_distributions.kl_divergence(first, second), expected)
    exact = (p.probs * (p.logits - q.logits)).sum(-1)
    torch.testing.assert_close(expected, exact)


@pytest.mark.parametrize("sample_shape", [(), (7,), (2, 3)])
def test_shapes_and_values_of_samples(given, sample_shape):
    ours, _ = pair(given, 4, 5)
    for sample in (ours.sample(sample_shape), ours.rsample(sample_shape), ours.rsample(torch.Size(sample_shape))):
        assert sample.shape == (*sample_shape, 4, 5)
        assert ((sample == 0) | (sample == 1)).all()
        assert (sample.sum(-1) == 1).all()
    torch.manual_seed(3)
    first, second = ours.sample(sample_shape), ours.rsample(sample_shape)
    torch.manual_seed(3)
    assert torch.equal(ours.rsample(sample_shape), first)
    assert torch.equal(ours.sample(sample_shape), second)


def test_frequencies(given):
    ours, _ = pair(given, 5)
    counts = ours.sample((40_000,)).sum(0)
    assert stats.chisquare(counts.numpy(), 40_000 * ours.probs.numpy()).pvalue > 1e-4


@pytest.mark.parametrize("tau", [1.0, 0.6, torch.tensor(1.7)])
def test_the_gradient_is_reinmaxs(given, tau):
    values = parameter(given, 4, 5)[given]
    leaves = [values.clone().requires_grad_() for _ in range(2)]
    g = torch.randn(3, 4, 5, dtype=torch.float64)
    torch.manual_seed(5)
    (ours,) = torch.autograd.grad(OneHotCategoricalReinMax(**{given: leaves[0]}, tau=tau).rsample((3,)), leaves[0], g)
    torch.manual_seed(5)
    logits = leaves[1] if given == "logits" else (leaves[1] / leaves[1].sum(-1, keepdim=True)).log()
    (expected,) = torch.autograd.grad(reinmax(logits.expand(3, 4, 5), tau)[0], leaves[1], g)
    torch.testing.assert_close(ours, expected)
    assert ours.abs().max() > 1e-3
    assert not OneHotCategoricalReinMax(**{given: leaves[0]}).sample().requires_grad


@pytest.mark.parametrize("expanded", [False, True])
def test_what_has_no_probability_is_never_drawn_and_has_no_gradient(given, expanded):
    # In float16, where PyTorch's logits stand for a probability of 0.001 in the place of 0.
    probs = torch.tensor([0.5, 0.0, 0.5], dtype=torch.float16).expand(30, 3)
    values = (probs if given == "probs" else probs.log()).clone().requires_grad_()
    distribution = OneHotCategoricalReinMax(**{given: values})
    if expanded:
        distribution.log_prob(
            torch.tensor([1.0, 0.0, 0.0], dtype=torch.float16)
        )  # which leaves PyTorch's own logits behind
        distribution = distribution.expand((400, 30))
    sample = distribution.rsample((50,))
    assert (sample[..., 1] == 0).all()
    (grad,) = torch.autograd.grad((sample * torch.tensor([1.0, 5.0, 2.0], dtype=torch.float16)).sum(), values)
    assert grad.isfinite().all()
    assert (grad[:, 0] != 0).all()
    if given == "logits":
        assert (grad[:, 1] == 0).all()


@pytest.mark.parametrize("tau", [1.0, 0.6])
def test_expand(given, tau):
    ours, theirs = pair(given, 4, 1, 5, tau=tau)
    expanded, expected = ours.expand((2, 4, 3)), theirs.expand((2, 4, 3))
    assert type(expanded) is OneHotCategoricalReinMax
    assert (expanded.batch_shape, expanded.event_shape, expanded.tau) == (expected.batch_shape, (5,), tau)
    assert torch.equal(expanded.logits, expected.logits)
    sample = expanded.rsample((7,))
    assert sample.shape == (7, 2, 4, 3, 5)
    assert torch.equal(expanded.log_prob(sample), expected.log_prob(sample))
    assert (sample != sample[..., :1, :]).any()  # each of them by itself
    assert torch_distributions.Independent(ours, 1).expand((6, 4)).rsample().shape == (6, 4, 1, 5)


def test_validation():
    bad = {"probs": torch.tensor([-0.1, 1.1]), "logits": torch.tensor([0.0, torch.nan])}
    for name, values in bad.items():  # of bad logits the probabilities are bad too, and Pyro looks at these first
        with pytest.raises(ValueError, match=r"Expected parameter (probs|logits)"):
            OneHotCategoricalReinMax(**{name: values}, validate_args=True)
    with pytest.raises(ValueError, match=r"probs. or .logits"):
        OneHotCategoricalReinMax()
    with pytest.raises(ValueError, match=r"probs. or .logits"):
        OneHotCategoricalReinMax(torch.ones(2), torch.ones(2))
    for tau, error in ((0, ValueError), (-1.0, ValueError), (float("nan"), ValueError), ("1", TypeError)):
        with pytest.raises(error, match="tau: expected a"):
            OneHotCategoricalReinMax(torch.ones(2), tau=tau)
    no_sample = torch.tensor([0.5, 0.5])
    with pytest.raises(ValueError, match="support"):
        OneHotCategoricalReinMax(torch.ones(2), validate_args=True).log_prob(no_sample)
    for validate_args in (True, False):
        distribution = OneHotCategoricalReinMax(torch.ones(2), validate_args=validate_args)
        assert distribution.expand((3,))._validate_args is validate_args
    OneHotCategoricalReinMax(torch.ones(2), validate_args=False).log_prob(no_sample)


@pytest.mark.parametrize("tau", [1.0, 0.8])
def test_a_guide_in_pyro_learns_the_posterior(tau):
    import pyro
    from pyro import infer, optim

    from reinmax_kernels.integrations.pyro import OneHotCategoricalReinMax as Guide

    means = torch.tensor([-1.0, 0.0, 1.5])
    data = torch.tensor([-0.9, 0.4, 0.7, 1.4, 3.0])
    prior = torch.tensor([0.2, 0.5, 0.3])

    def model(data):
        with pyro.plate("data", len(data)):
            z = pyro.sample("z", pyro.distributions.OneHotCategorical(prior))
            pyro.sample("x", pyro.distributions.Normal((z * means).sum(-1), 1.0), obs=data)

    def guide(data):
        logits = pyro.param("logits", torch.zeros(len(data), 3))
        with pyro.plate("data", len(data)):
            pyro.sample("z", Guide(logits=logits, tau=tau))

    pyro.set_rng_seed(0)
    pyro.clear_param_store()
    elbo = infer.TraceMeanField_ELBO(num_particles=64, vectorize_particles=True, max_plate_nesting=1)
    svi = infer.SVI(model, guide, optim.Adam({"lr": 0.05}), elbo)
    losses = [svi.step(data) for _ in range(300)]
    exact = (prior.log() + torch_distributions.Normal(means, 1.0).log_prob(data.unsqueeze(-1))).softmax(-1)
    learned = pyro.param("logits").detach().softmax(-1)
    evidence = (prior.log() + torch_distributions.Normal(means, 1.0).log_prob(data.unsqueeze(-1))).logsumexp(-1).sum()
    assert losses[0] > losses[-1]
    # The log-likelihood is quadratic in the one-hot, so at tau = 1 the mean gradient is that of the evidence bound.
    assert (learned - exact).abs().max() < (0.04 if tau == 1 else 0.12)
    if tau == 1:
        assert sum(losses[-50:]) / 50 == pytest.approx(-evidence.item(), abs=0.1)
    assert (torch.full_like(exact, 1 / 3) - exact).abs().max() > 0.3

"""Gumbel noise given the draw: the contract's uniforms, the joint law of draw and noise, and what averaging does."""

import laws
import pytest
import torch
from scipy import stats
from test_contract import VECTORS

from reinmax_kernels import gumbel_rao, gumbel_softmax, sample, straight_through
from reinmax_kernels.reference.noise import Stream, splitmix64

NOISE = sorted(name.removesuffix("_u") for name in VECTORS.files if name.startswith("noise") and name.endswith("_u"))


def gradient(estimator, logits, g, **options):
    logits = logits.detach().requires_grad_()
    one_hot, _ = estimator(logits, **options)
    return torch.autograd.grad(one_hot, logits, g)[0]


# The noise.


def test_splitmix64_gives_the_known_answer():
    assert splitmix64(torch.tensor([0])).item() % 2**64 == 0xE220A8397B1DCDAF


@pytest.mark.parametrize("name", NOISE)
def test_uniforms_are_the_contracts(name):
    seed, offset, row_offset, rows, categories, samples = VECTORS[f"{name}_args"].tolist()
    stream = Stream(torch.tensor([seed]), offset, row_offset, rows, categories)
    of_sample = (lambda k: stream.uniform_of_two(k).squeeze(-1)) if categories == 2 else stream.uniforms
    expected = torch.from_numpy(VECTORS[f"{name}_u"])
    assert torch.equal(torch.stack([of_sample(k) for k in range(samples)]), expected.double())
    assert torch.equal(laws.noise(seed, offset, row_offset, rows, categories, samples), expected.double())


@pytest.mark.parametrize("name", NOISE)
def test_the_backward_makes_the_contracts_noise(backend, name):
    # From the vectors' uniforms to a gradient by the definition alone.
    seed, offset, row_offset, rows, categories, samples = VECTORS[f"{name}_args"].tolist()
    u = torch.from_numpy(VECTORS[f"{name}_u"]).double()
    logits, g = torch.randn(rows, categories).double(), torch.randn(rows, categories).double()
    stream = {"seed": seed, "offset": offset, "row_offset": row_offset}
    index = sample(logits, **stream).unsqueeze(-1)
    log_pi = logits.log_softmax(-1)
    ratio = (
        (u / (1 - u)).unsqueeze(-1) if categories == 2 else u.log() / u.log().gather(-1, index.expand(samples, -1, 1))
    )
    behind = torch.log1p(ratio * (-log_pi).exp()).scatter(-1, index.expand(samples, -1, 1), 0.0)
    for tau in (1.0, 0.4):
        s = (-behind / tau).softmax(-1)
        expected = (laws.jacobian_product(s, g.expand_as(s)) / tau).mean(0)
        actual = gradient(gumbel_rao, logits, g, tau=tau, num_samples=samples, **stream)
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("categories", [2, 3, 32, 33, 130])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_backends_agree_where_logarithms_are_steepest(backend, categories, dtype):
    # So many samples that uniforms come near 0 and 1.
    logits, g = torch.randn(40, categories, dtype=dtype), torch.randn(40, categories, dtype=dtype)
    index = sample(logits, seed=1)
    for tau in (1.0, 0.05):
        expected = laws.gumbel_rao(logits, index, g, torch.zeros_like(g), tau, samples=60, seed=1)
        actual = gradient(gumbel_rao, logits, g, tau=tau, num_samples=60, seed=1)
        tolerance = {torch.float32: 1e-6, torch.float64: 1e-14}[dtype]
        torch.testing.assert_close(actual.double(), expected, rtol=0, atol=tolerance * g.abs().max().item() / tau)


# The joint law of draw and noise.


@pytest.mark.parametrize("logits", [[0.0, 1.0], [0.3, -1.0, 0.8, 0.0], [5.0, 0.0, -1.0]], ids=repr)
def test_draw_and_noise_are_jointly_argmax_and_noisy_logits(logits):
    rows = 40_000
    logits = torch.tensor(logits, dtype=torch.float64)
    categories = len(logits)
    index = sample(logits.expand(rows, -1), seed=5)
    noisy = laws.gumbel_given_draw(logits.expand(rows, -1), index, 1, seed=5)[0]
    assert torch.equal(noisy.argmax(-1), index)
    gumbel = logits - torch.rand(rows, categories, dtype=torch.float64).log().neg().log()
    counts, pi = torch.bincount(index, minlength=categories).numpy(), logits.softmax(-1).numpy()
    assert stats.chisquare(counts, rows * pi).pvalue > 1e-4
    # Given each draw, how far each logit lies behind the largest is as it is without drawing first; so is the largest,
    # where two categories' noise does not leave it out.
    for drawn in range(categories):
        ours, theirs = noisy[index == drawn], gumbel[gumbel.argmax(-1) == drawn]
        for j in range(categories):
            if j != drawn:
                gaps = (values[:, drawn] - values[:, j] for values in (ours, theirs))
                assert stats.ks_2samp(*(gap.numpy() for gap in gaps)).pvalue > 1e-4
        if categories > 2:
            assert stats.ks_2samp(ours[:, drawn].numpy(), theirs[:, drawn].numpy()).pvalue > 1e-4


def test_noise_of_neighbours_is_independent():
    rows = 4096
    for categories in (2, 8):
        u = laws.noise(3, 0, 0, rows, categories, 4).reshape(4, rows, -1)
        assert stats.kstest(u.flatten().numpy(), "uniform").pvalue > 1e-4
        pairs = [(u[0], u[1]), (u[:, :-1], u[:, 1:]), (u, laws.noise(3, 1, 0, rows, categories, 4).reshape(u.shape))]
        if categories > 2:
            pairs.append((u[..., :-1], u[..., 1:]))
        for a, b in pairs:
            assert stats.pearsonr(a.flatten().numpy(), b.flatten().numpy()).pvalue > 1e-4


# What averaging over the noise does.


@pytest.mark.parametrize("categories", [2, 5, 40])
@pytest.mark.parametrize("tau", [1.0, 0.5])
def test_one_sample_is_straight_through_gumbel_softmax(backend, categories, tau):
    logits, g = torch.randn(20, categories), torch.randn(20, categories)
    once, softmax = (
        gradient(estimator, logits, g, tau=tau, seed=3, offset=2, row_offset=1, **options)
        for estimator, options in ((gumbel_rao, {"num_samples": 1}), (gumbel_softmax, {}))
    )
    assert torch.equal(once, softmax)


@pytest.mark.parametrize("categories", [2, 5, 40])
@pytest.mark.parametrize("tau", [1.0, 0.3])
def test_the_mean_stays_and_the_variance_falls(categories, tau):
    rows = 20_000
    logits, g = torch.randn(categories, dtype=torch.float64), torch.randn(categories, dtype=torch.float64)
    logits, g = logits.expand(rows, -1), g.expand(rows, -1)
    estimates = {k: gradient(gumbel_rao, logits, g, tau=tau, num_samples=k, seed=k) for k in (1, 4, 16, 64)}
    softmax = torch.nn.functional.gumbel_softmax(leaf := logits.clone().requires_grad_(), tau, hard=True)
    estimates["torch"] = torch.autograd.grad(softmax, leaf, g)[0]
    for name, estimate in estimates.items():
        error = (estimate.var(0) / rows + estimates[1].var(0) / rows).sqrt()
        assert ((estimate.mean(0) - estimates[1].mean(0)).abs() <= 4.5 * error + 1e-12).all(), name
    variance = {k: estimate.var(0).sum().item() for k, estimate in estimates.items()}
    assert abs(variance["torch"] / variance[1] - 1) < 0.15
    assert variance[1] > variance[4] > variance[16] > variance[64]
    # Var = Var of the conditional mean + (mean of the conditional variance) / K.
    conditional = (variance[1] - variance[4]) * 4 / 3
    assert abs(variance[1] - variance[16] - conditional * 15 / 16) < 0.1 * variance[1]


def test_memory_does_not_grow_with_the_samples():
    from bench.memory import peak_bytes

    logits, g = torch.randn(4096, 2, requires_grad=True), torch.randn(4096, 2)

    def peak(estimator, **options):
        return peak_bytes(lambda: torch.autograd.grad(estimator(logits, seed=1, **options)[0], logits, g))

    few, many = (peak(gumbel_rao, num_samples=k) for k in (1, 1000))
    assert many == few
    assert many <= 1.2 * peak(straight_through)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("tau", [1.0, 0.05, 20.0])
@pytest.mark.parametrize("categories", [2, 6, 50])
def test_never_nan(backend, dtype, tau, categories):
    logits = torch.randn(200, categories).mul(3e4).clamp(-1e4, 1e4).to(dtype)
    logits[::7, 1:] = -torch.inf
    mask = torch.rand(200, categories) < 0.7
    mask[:, 0] = True
    grad = gradient(gumbel_rao, logits, torch.randn(200, categories).to(dtype), tau=tau, num_samples=3, mask=mask)
    assert grad.isfinite().all()
    assert (grad[~mask] == 0).all()
    assert (grad[logits == -torch.inf] == 0).all()


def test_a_category_far_below_keeps_its_weight_at_a_high_temperature(backend):
    # e^(-200) is no float, e^(-200 / 100) is.
    logits, g = torch.tensor([[0.0, -200.0, -90.0], [0.0, 3.0, -200.0]]), torch.eye(3)[1:]
    index = sample(logits, seed=1)
    expected = laws.gumbel_rao(logits, index, g, torch.zeros_like(g), 100.0, samples=8, seed=1)
    actual = gradient(gumbel_rao, logits, g, tau=100.0, num_samples=8, seed=1)
    torch.testing.assert_close(actual.double(), expected, rtol=2e-5, atol=0)
    pair = gradient(gumbel_rao, logits[:1, :2], g[:1, :2], tau=100.0, num_samples=8, seed=1)
    expected = laws.gumbel_rao(logits[:1, :2], index[:1], g[:1, :2], torch.zeros(1, 2), 100.0, samples=8, seed=1)
    torch.testing.assert_close(pair.double(), expected, rtol=2e-5, atol=0)


def test_rows_take_their_noise_from_where_they_are_in_the_stream(backend):
    for categories in (2, 7, 40):
        logits, g = torch.randn(150, categories), torch.randn(150, categories)
        whole = gradient(gumbel_rao, logits, g, num_samples=3, seed=4, offset=6, row_offset=2**32 - 50)
        parts = [
            gradient(gumbel_rao, x, y, num_samples=3, seed=4, offset=6, row_offset=2**32 - 50 + start)
            for x, y, start in zip(logits.split(70), g.split(70), (0, 70, 140), strict=True)
        ]
        assert torch.equal(torch.cat(parts), whole)
        seeds = torch.tensor([4, -7, 11])
        grouped = gradient(gumbel_rao, logits, g, num_samples=3, seed=seeds, offset=6)
        parts = [
            gradient(gumbel_rao, x, y, num_samples=3, seed=seed.item(), offset=6)
            for x, y, seed in zip(logits.split(50), g.split(50), seeds, strict=True)
        ]
        assert torch.equal(torch.cat(parts), grouped)


def test_threads_change_nothing(threads):
    logits, g = torch.randn(3000, 10), torch.randn(3000, 10)
    grad = gradient(gumbel_rao, logits, g, num_samples=20, seed=1)
    parts = [
        gradient(gumbel_rao, logits[i : i + 1], g[i : i + 1], num_samples=20, seed=1, row_offset=i) for i in (0, 2999)
    ]
    assert torch.equal(torch.cat(parts), grad[[0, -1]])

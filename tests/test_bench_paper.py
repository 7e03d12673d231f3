"""The paper's experiments: what they train, that a kill costs nothing, and the laws that they show."""

import dataclasses
import itertools
import os
import signal
import subprocess
import sys
import time
from functools import partial
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from bench import __main__ as command
from bench import data
from bench.paper import EXPERIMENTS, curves, gradient_quality, mnist_vae, order, polynomial, reinforce, training
from bench.paper.problems import Estimates, Problems
from bench.paper.training import Batches, CheckpointError
from bench.paper.vae import negative_elbo

# A picture and its negative, fifty times each: one batch, the same at every step but for its order. Every pixel is
# black as often as white, so a decoder alone can't do better than ln 2 a pixel.
PICTURE = (torch.rand(1, 28, 28, generator=torch.Generator().manual_seed(1)) < 0.5).to(torch.uint8) * 255
IMAGES = data.Images("mnist", "two pictures", torch.cat([PICTURE, 255 - PICTURE]).repeat(50, 1, 1), PICTURE)
PAPER_SIZE = tuple(setting for setting in mnist_vae.SETTINGS if setting.latents == "10x30")


@pytest.fixture(autouse=True)
def one_thread():
    """Two threads that wait for each other at every layer make a busy machine very slow."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def train(prepared, steps, folder, fresh=False):
    """What the console says of it."""
    printed = StringIO()
    training.train(prepared, steps, folder, fresh, Console(file=printed, width=400))
    return printed.getvalue()


def vae(seed=0, **changes):
    return mnist_vae.prepare(dataclasses.replace(PAPER_SIZE[0], **changes), IMAGES, seed)


def bernoullis(seeds=(0, 1), power=1.5, estimator="ReinMax"):
    return polynomial.prepare(power, estimator, list(seeds))


PREPARED = {"vae": vae, "polynomial": bernoullis}


class TestVae:
    @pytest.mark.parametrize("setting", PAPER_SIZE, ids=lambda setting: setting.estimator)
    def test_loss_falls_below_what_no_gradient_through_the_draw_can_reach(self, setting, tmp_path):
        faster = dataclasses.replace(setting, learning_rate=5e-3)  # the paper's rate is for 160 epochs
        trained = mnist_vae.prepare(faster, IMAGES, seed=0)
        train(trained, 60, tmp_path)
        assert trained.losses[0] == pytest.approx([784 * np.log(2)], rel=0.01)
        assert np.mean(trained.losses[-10:]) < 100

    @pytest.mark.parametrize("setting", mnist_vae.SETTINGS, ids=lambda s: f"{s.latents}-{s.estimator}")
    def test_every_setting_trains(self, setting):
        prepared = mnist_vae.prepare(setting, IMAGES, seed=0)
        before = [parameter.clone() for parameter in prepared.model.parameters()]
        prepared.step()
        assert not any(map(torch.equal, before, prepared.model.parameters()))

    def test_settings_are_the_papers(self):
        average = {"ReinMax": 103.21, "ST": 116.72, "STGS": 105.20, "GR-MCK": 107.06, "GST-1.0": 104.25}
        for estimator in mnist_vae.ESTIMATORS:
            published = [s.published for s in mnist_vae.SETTINGS if s.estimator == estimator]
            assert len(published) == len(mnist_vae.SIZES) == 6
            assert np.mean(published) == pytest.approx(average[estimator], abs=0.02)  # theirs of unrounded figures

    def test_pictures_have_the_size_of_images(self):
        for pictures in (mnist_vae.reconstruct(PAPER_SIZE[0], vae(), IMAGES.test), mnist_vae.decode_prior(vae())):
            assert pictures.shape[1:] == (28, 28)
            assert 0 <= pictures.min() <= pictures.max() <= 1

    def test_kl_of_the_uniform_posterior_is_zero(self):
        probs = torch.full((2, 3, 4), 0.25)
        white = torch.zeros(2, 784)
        assert negative_elbo(white, torch.full_like(white, -50.0), probs).item() == pytest.approx(0, abs=1e-5)
        certain = torch.eye(4)[torch.zeros(2, 3, dtype=torch.long)]
        loss = negative_elbo(white, torch.zeros_like(white), certain).item()
        assert loss == pytest.approx(784 * np.log(2) + 3 * np.log(4), rel=1e-6)


class TestPolynomial:
    def test_seeds_side_by_side_are_the_seeds_alone(self, tmp_path):
        together, alone = bernoullis((5, 6)), bernoullis((6,))
        train(together, 20, tmp_path)
        train(alone, 20, tmp_path)
        assert [pair[1:] for pair in together.losses] == alone.losses

    @pytest.mark.parametrize("power", polynomial.POWERS)
    def test_reinmax_goes_to_the_optimum_that_st_stays_away_from(self, power, tmp_path, monkeypatch):
        monkeypatch.setattr(polynomial, "LEARNING_RATE", 0.1)
        last = {}
        for estimator in polynomial.ESTIMATORS:
            prepared = bernoullis((0,), power, estimator)
            train(prepared, 150, tmp_path)
            last[estimator] = prepared.means(10)[-1, 0]
        assert last["ReinMax"] == pytest.approx(0.45**power, rel=0.01)
        assert last["ST"] > last["ReinMax"] * 1.05


class TestReinforce:
    def test_expected_gradient_is_the_true_one(self, monkeypatch):
        logits = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
        c, weights = torch.rand(2, 3, dtype=torch.float64)
        estimated, true = 0, 0

        def f(draws):
            return reinforce.objective(c, draws) + (draws * weights).sum(-1).exp()

        for draw in itertools.product((0, 1), repeat=3):
            index = torch.tensor(draw)
            probability = logits.softmax(-1).gather(-1, index.unsqueeze(-1)).prod()
            monkeypatch.setattr(reinforce, "sample", lambda *_, index=index: index)
            value = reinforce.ESTIMATORS["REINFORCE"](f, logits)
            assert value.item() == f(index.double()).item()
            estimated = estimated + probability.detach() * value
            true = true + probability * f(index.double())
        actual, expected = (torch.autograd.grad(mean, logits)[0] for mean in (estimated, true))
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-14)

    @pytest.mark.parametrize("target", reinforce.TARGETS)
    def test_reinmax_wins_with_many_variables(self, target, tmp_path, monkeypatch):
        monkeypatch.setattr(reinforce, "LEARNING_RATE", 0.05)
        last = {}
        for name in reinforce.ESTIMATORS:
            prepared = reinforce.prepare((target, 256, name), [0])
            train(prepared, 60, tmp_path)
            last[name] = prepared.means(10)[-1, 0] - reinforce.optimum(target, 256)
        assert 0 < last["ReinMax"] < 0.8 * last["REINFORCE"]


@pytest.mark.parametrize("prepare", PREPARED.values(), ids=PREPARED)
class TestSeeds:
    def test_seed_decides_everything(self, prepare):
        def losses(number):
            prepared = prepare((number,)) if prepare is bernoullis else prepare(number)
            torch.rand(7)  # the state of the global generator must not matter
            for _ in range(4):
                prepared.step()
            return prepared.losses

        assert losses(3) == losses(3)
        assert losses(3) != losses(4)
        losses(training.SEEDS - 1)


def test_seeds_wrap_around():
    assert training.seeds(3, 2) == [3, 4]
    assert training.seeds(training.SEEDS - 1, 2) == [training.SEEDS - 1, 0]


class TestBatches:
    images = torch.arange(25)

    def test_each_epoch_visits_every_image_once_in_another_order(self):
        batches = Batches(self.images[:20], 10, seed=0)
        epochs = [torch.cat([batches(2 * epoch), batches(2 * epoch + 1)]).tolist() for epoch in range(2)]
        assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(20))
        assert epochs[0] != epochs[1]

    def test_a_batch_is_a_function_of_seed_and_step_alone(self):
        forward, backward = Batches(self.images, 10, 7), Batches(self.images, 10, 7)
        steps = range(6)  # three epochs of two; the five that don't fill a batch are left out
        assert forward.an_epoch == 2
        expected = [forward(step).tolist() for step in steps]
        assert [backward(step).tolist() for step in reversed(steps)] == expected[::-1]
        assert [Batches(self.images, 10, 8)(step).tolist() for step in steps] != expected


def train_until_killed(name, folder):
    """What the killed process does: a checkpoint at every step, so that a kill can hit the writing of one."""
    torch.set_num_threads(1)
    training.CHECKPOINT_SECONDS = 0.0
    train(PREPARED[name](), 10**6, Path(folder))


class TestCheckpoints:
    @pytest.mark.parametrize("name", PREPARED)
    def test_killed_runs_go_on_to_the_same_losses_bit_for_bit(self, name, tmp_path):
        prepared = PREPARED[name]()
        path = tmp_path / f"{prepared.name}.pt"
        delays = np.random.default_rng().uniform(0.05, 0.6, 2)
        for delay in delays:
            before = path.stat().st_mtime_ns if path.exists() else 0
            script = f"import test_bench_paper as t; t.train_until_killed({name!r}, {str(tmp_path)!r})"
            here = Path(__file__).parent
            environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(here), str(here.parent)])}
            process = subprocess.Popen([sys.executable, "-c", script], env=environment)
            while not path.exists() or path.stat().st_mtime_ns == before:
                assert process.poll() is None
                time.sleep(0.005)
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
        reached = len(torch.load(path, weights_only=True)["losses"])
        printed = train(prepared, reached + 5, tmp_path)
        assert f"goes on after step {reached}" in printed
        uninterrupted = PREPARED[name]()
        train(uninterrupted, reached + 5, tmp_path / "other")
        assert prepared.losses == uninterrupted.losses, delays
        for ours, theirs in zip(prepared.model.parameters(), uninterrupted.model.parameters(), strict=True):
            assert torch.equal(ours, theirs)

    def test_finished_run_is_not_run_again_and_says_so(self, tmp_path, monkeypatch):
        first, again = bernoullis(), bernoullis()
        train(first, 5, tmp_path)
        monkeypatch.setattr(training.Training, "step", None)
        assert "was finished before; --fresh trains anew" in train(again, 5, tmp_path)
        assert (again.losses, again.seconds) == (first.losses, first.seconds)

    def test_fresh_trains_anew(self, tmp_path):
        train(bernoullis(), 9, tmp_path)
        (path,) = tmp_path.iterdir()
        path.write_bytes(b"in the way")
        anew = bernoullis()
        assert train(anew, 3, tmp_path, fresh=True) == ""
        assert len(anew.losses) == len(torch.load(path, weights_only=True)["losses"]) == 3

    def test_another_configuration_is_refused_and_the_difference_named(self, tmp_path):
        train(vae(), 1, tmp_path)
        (path,) = tmp_path.iterdir()
        kept = path.read_bytes()
        with pytest.raises(CheckpointError) as raised:
            train(vae(learning_rate=7e-4, tau=1.4), 1, tmp_path)
        message = str(raised.value)
        for part in (
            str(path),
            "learning rate: the checkpoint has 0.0005, asked for 0.0007",
            "tau: the checkpoint has 1.3, asked for 1.4",
            "--output",
            "--fresh",
        ):
            assert part in message
        assert "batch" not in message  # which is the same
        torch.set_num_threads(2)
        with pytest.raises(CheckpointError, match="threads: the checkpoint has 1, asked for 2"):
            train(vae(), 1, tmp_path)
        assert path.read_bytes() == kept

    def test_more_steps_than_asked_for_are_refused(self, tmp_path):
        train(bernoullis(), 5, tmp_path)
        with pytest.raises(CheckpointError, match="steps: the checkpoint has 5, asked for 4"):
            train(bernoullis(), 4, tmp_path)

    @pytest.mark.parametrize(
        "damage",
        [
            lambda content: content[:-100],
            lambda content: content[:1000],
            lambda content: b"",
            lambda content: content.replace(np.float64(0.5).tobytes(), np.float64(0.25).tobytes()),
        ],
        ids=["truncated", "cut short", "empty", "flipped bit"],
    )
    def test_damaged_checkpoint_is_named_and_kept(self, tmp_path, damage):
        prepared = bernoullis()
        train(prepared, 2, tmp_path)
        prepared.seconds[0] = 0.5
        (path,) = tmp_path.iterdir()
        training._save(prepared, path, {})
        damaged = damage(path.read_bytes())
        assert damaged != path.read_bytes()
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="is no whole checkpoint") as raised:
            train(bernoullis(), 2, tmp_path)
        assert str(path) in str(raised.value)
        assert "--fresh" in str(raised.value)
        assert path.read_bytes() == damaged

    def test_file_of_something_else_is_named(self, tmp_path):
        torch.save({"model": {}}, tmp_path / f"{bernoullis().name}.pt")
        with pytest.raises(CheckpointError, match="no configuration, losses, optimizer, seconds"):
            train(bernoullis(), 2, tmp_path)


class TestOrder:
    """The laws: ST is exact for degree 1, ReinMax for 1 and 2, and of the alpha-steps only Heun's for 2."""

    problems = Problems.random(20, order.LATENTS, order.CATEGORIES, seed=1)
    second = ("ReinMax", "Heun, alpha = 1")
    biased = ("GST-1.0", "STGS, GR-MCK")  # for linear f too

    def law(self, name):
        return 0 if name in self.biased else 1 + (name in self.second)

    @pytest.mark.parametrize("degree", order.DEGREES)
    @pytest.mark.parametrize("name", order.ESTIMATORS)
    def test_errors(self, name, degree):
        errors = self.problems.estimates(order.ESTIMATORS[name], order.DEGREES[degree]).relative_bias()
        if degree <= self.law(name):
            assert errors.max() < order.ROUNDING
        else:
            assert errors.median() > 1e-3

    def test_slopes(self):
        slopes = order.slopes(order.measure(self.problems, order.SCALES))
        for name, slope in slopes.items():
            assert slope == pytest.approx(self.law(name), abs=0.1)

    def test_heun_is_reinmax_at_every_draw(self):
        logits, g = torch.randn(2, 50, 4, dtype=torch.float64)
        index = torch.arange(50) % 4
        reinmax, heun = (order.ESTIMATORS[name](logits, index, g) for name in self.second)
        torch.testing.assert_close(heun, reinmax, rtol=0, atol=1e-14)


class TestGradientQuality:
    problems = Problems.random(20, 2, 4, seed=1)

    def estimates(self, name, tau=1.0, f=torch.square):
        return self.problems.estimates(partial(gradient_quality.ESTIMATORS[name], tau=tau), f)

    def test_measures(self):
        """Of two draws of one problem, by hand: (1, 1) and (1, -1) for a true (1, 0)."""
        draws = torch.tensor([[[[1.0, 1.0]], [[1.0, -1.0]]]])
        known = Estimates(torch.tensor([[0.75, 0.25]]), draws, torch.tensor([[[1.0, 0.0]]]))
        assert known.relative_bias().item() == pytest.approx(0.5)
        assert known.relative_deviation().item() == pytest.approx(0.75**0.5)
        assert known.cosine().item() == pytest.approx(0.5**0.5)

    def test_reinmax_is_unbiased_for_quadratic_f(self):
        assert self.estimates("ReinMax").relative_bias().max() < order.ROUNDING
        assert self.estimates("ST").relative_bias().median() > 1e-3

    def test_more_noise_averaged_deviates_less(self):
        stgs, averaged = (self.estimates(name, 0.3).relative_deviation() for name in ("STGS", "GR-MCK, K = 100"))
        assert averaged.median() < 0.8 * stgs.median()

    def test_scaling_by_the_probability_costs_deviation(self):
        straight_through, scaled = (self.estimates(name).relative_deviation() for name in ("ST", "ST / (C π_D)"))
        assert scaled.median() > 1.5 * straight_through.median()

    def test_every_estimator_at_every_temperature(self):
        rows = gradient_quality.measure(self.problems)
        assert [(row["estimator"], row["tau"]) for row in rows] == [
            *itertools.product(gradient_quality.ESTIMATORS, gradient_quality.TEMPERATURES)
        ]
        assert all(np.isfinite([row[name] for name in gradient_quality.MEASURES]).all() for row in rows)


def test_spread():
    assert curves.spread(np.array([1.0, 3.0]), 2) == "2.00 ± 1.41"
    assert curves.spread(np.array([1.0]), 1) == "1.0"


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """No folder that holds data, no mirror that answers; and less to do than --quick."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv(data.ENVIRONMENT, raising=False)
    for key, source in data.SOURCES.items():
        nowhere = ((tmp_path / "nowhere").as_uri() + "/",)
        monkeypatch.setitem(data.SOURCES, key, dataclasses.replace(source, mirrors=nowhere))
    monkeypatch.setattr(mnist_vae, "QUICK_STEPS", 15)
    monkeypatch.setattr(polynomial, "EPOCH", 5)
    monkeypatch.setattr(reinforce, "EPOCH", 5)
    return tmp_path / "results"


class TestCommands:
    @pytest.mark.parametrize(
        ("experiment", "said"),
        {
            "polynomial": ["ReinMax", "ST", "0.30187", "0.20250", "0.09113", "8000 steps with 10 seeds"],
            "reinforce": ["ReinMax", "REINFORCE", "c from 0 to 1", "0.20250", "0.08333", "are not the paper's"],
            "mnist-vae": [
                "10x30",
                "RAdam",
                "on scikit-learn digits 8x8 (MNIST not found)",
                "Published figures are the paper's",
            ],
            "efficiency": ["GR-MCK 100, plain PyTorch", "0.8s 0.3GB", "quadratic", "vae"],
            "order": ["ReinMax", "Ralston, alpha = 2/3", "20 random problems"],
            "gradient-quality": ["ReinMax", "Relative deviation", "Cosine", "10 random problems"],
        }.items(),
    )
    def test_quick(self, offline, capsys, experiment, said):
        arguments = ["paper", experiment, "--quick", "--output", str(offline)]
        assert command.main(arguments) == 0
        printed = " ".join(capsys.readouterr().out.split())
        for part in said:
            assert part in printed
        suffixes = sorted(path.suffix for path in offline.iterdir() if path.is_file())
        assert suffixes == [".csv", ".json", ".png"]
        if experiment not in ("order", "gradient-quality", "efficiency"):
            assert command.main(arguments) == 0
            assert "was finished before" in capsys.readouterr().out
            assert command.main([*arguments, "--fresh"]) == 0
            assert "was finished before" not in capsys.readouterr().out

    def test_every_experiment_is_tried(self):
        (tried,) = (mark for mark in self.test_quick.pytestmark if mark.name == "parametrize")
        assert {experiment for experiment, _ in tried.args[1]} == set(EXPERIMENTS)

    def test_another_run_in_its_place_is_an_error_without_traceback(self, offline, capsys):
        arguments = ["paper", "polynomial", "--quick", "--output", str(offline)]
        assert command.main([*arguments, "--epochs", "2"]) == 0
        assert command.main([*arguments, "--epochs", "1"]) == 1
        assert "steps: the checkpoint has 10, asked for 5" in capsys.readouterr().err

    def test_published_figures_stand_beside_mnist_alone(self, tmp_path):
        trained = vae()
        train(trained, 2, tmp_path)
        assert "98.37" in mnist_vae._cells(PAPER_SIZE[0], [trained], IMAGES, 1)
        other = dataclasses.replace(IMAGES, key="digits")
        assert "98.37" not in mnist_vae._cells(PAPER_SIZE[0], [trained], other, 1)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["mnist-vae", "--epochs", "0"], "--epochs: expected a whole number of at least 1, got '0'"),
            (["polynomial", "--seeds", "1e3"], "--seeds: expected a whole number of at least 1, got '1e3'"),
            (["mnist-vae", "--latents", "3x3"], "--latents: invalid choice: '3x3'"),
            (["mnist-vae", "--data", "no/such/folder"], "--data: expected a folder, and 'no/such/folder' is none"),
            (["order", "--epochs", "1"], "unrecognized arguments: --epochs 1"),
            ([], "experiment"),
        ],
    )
    def test_bad_arguments_are_named(self, arguments, message, capsys):
        with pytest.raises(SystemExit, match="2"):
            command.main(["paper", *arguments])
        assert message in capsys.readouterr().err

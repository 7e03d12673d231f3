"""The benchmarks' own parts: the data loader, the timer, the cases, and the VAE that they train."""

import dataclasses
import gzip
import hashlib
import struct

import numpy as np
import pytest
import torch

from bench import __main__ as command
from bench import data, kernels, timer
from bench.cases import CASES, Case
from bench.paper import mnist_vae

PIXELS = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)


def idx(pixels=PIXELS, magic=b"\0\0\x08\x03"):
    return magic + struct.pack(">3I", *pixels.shape) + pixels.tobytes()


def sha256(content):
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A checkout and a home without data, mirrors that are folders, and a tiny MNIST that has its own checksum."""
    checkout, home, mirror = tmp_path / "checkout", tmp_path / "home", tmp_path / "mirror"
    for folder in (checkout, home, mirror):
        folder.mkdir()
    monkeypatch.chdir(checkout)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv(data.ENVIRONMENT, raising=False)
    monkeypatch.setattr(data, "MIRRORS", ((tmp_path / "nowhere").as_uri() + "/", mirror.as_uri() + "/"))
    files = {split: dataclasses.replace(file, sha256=sha256(idx())) for split, file in data.MNIST.items()}
    monkeypatch.setattr(data, "MNIST", files)
    return tmp_path


def put(folder, content, name="train-images-idx3-ubyte.gz", compress=gzip.compress):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(compress(content))
    return folder / name


def files_under(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


class TestReadImages:
    def test_pixels_come_back(self, tmp_path):
        path = put(tmp_path, idx())
        np.testing.assert_array_equal(data.read_images(path, sha256(idx())), PIXELS)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "begins with 00000803; got nothing"),
            (idx(magic=b"\0\0\x08\x01"), "begins with 00000803; got 00000801"),
            (idx()[:-1], r"expected 24 pixels for its shape \(2, 3, 4\), got 23"),
            (idx() + b"\0", r"expected 24 pixels for its shape \(2, 3, 4\), got 25"),
            (idx()[:10], "header of 16 bytes, got 10"),
            (idx(PIXELS[:, ::-1]), "SHA-256"),
        ],
    )
    def test_unsound_content_is_named(self, tmp_path, content, message):
        path = put(tmp_path, content)
        with pytest.raises(data.DataError, match=message) as raised:
            data.read_images(path, sha256(idx()))
        assert str(path) in str(raised.value)

    @pytest.mark.parametrize("compress", [bytes, lambda content: gzip.compress(content)[:-9]])
    def test_unsound_gzip_is_named(self, tmp_path, compress):
        path = put(tmp_path, idx(), compress=compress)
        with pytest.raises(data.DataError, match="can't be read as a gzip file"):
            data.read_images(path, sha256(idx()))


class TestWhereMnistIsFound:
    @pytest.mark.parametrize("place", ["checkout/data", "shared/data", "home/.cache/reinmax_kernels"])
    def test_standard_folders(self, world, place):
        put(world / place / "mnist", idx())
        np.testing.assert_array_equal(data.mnist_images("train"), PIXELS)

    def test_splits_are_different_files(self, world):
        put(world / "checkout/data/mnist", idx(), "t10k-images-idx3-ubyte.gz")
        np.testing.assert_array_equal(data.mnist_images("test"), PIXELS)
        with pytest.raises(data.DataError, match="train-images"):
            data.mnist_images("train")

    def test_named_folder_is_the_only_one(self, world, monkeypatch):
        put(world / "checkout/data/mnist", idx())
        put(world / "mirror", idx(), "train-images-idx3-ubyte.gz")
        with pytest.raises(data.DataError, match=r"elsewhere/mnist/train-images-idx3-ubyte\.gz does not exist"):
            data.mnist_images("train", world / "elsewhere")
        monkeypatch.setenv(data.ENVIRONMENT, str(world / "elsewhere"))
        with pytest.raises(data.DataError, match="does not exist"):
            data.mnist_images("train")
        put(world / "elsewhere/mnist", idx())
        np.testing.assert_array_equal(data.mnist_images("train"), PIXELS)

    def test_unsound_file_is_not_passed_over(self, world):
        put(world / "checkout/data/mnist", idx()[:-1])
        put(world / "mirror", idx())
        with pytest.raises(data.DataError, match="Replace or delete that file"):
            data.mnist_images("train")


class TestDownload:
    def test_second_mirror_and_then_the_cache(self, world):
        source = put(world / "mirror", idx())
        np.testing.assert_array_equal(data.mnist_images("train"), PIXELS)
        assert files_under(world / "home") == [source.name]
        source.unlink()
        np.testing.assert_array_equal(data.mnist_images("train"), PIXELS)

    @pytest.mark.parametrize(
        ("content", "reason"),
        [(idx(PIXELS[:, ::-1]), "SHA-256"), (idx()[:-1], "24 pixels"), (b"<html>", "begins with")],
    )
    def test_wrong_file_is_refused_and_removed(self, world, content, reason):
        put(world / "mirror", content)
        with pytest.raises(data.DataError, match=reason):
            data.mnist_images("train")
        assert files_under(world / "home") == []

    def test_interruption_leaves_nothing(self, world, monkeypatch):
        put(world / "mirror", idx())
        seen = []

        def interrupted(path, sha256):
            seen.extend(files_under(world / "home"))
            raise KeyboardInterrupt

        monkeypatch.setattr(data, "read_images", interrupted)
        with pytest.raises(KeyboardInterrupt):
            data.mnist_images("train")
        assert len(seen) == 1  # it was stopped with the whole content on disk, under no name that is looked for
        assert seen[0].endswith(".part")
        assert files_under(world / "home") == []

    def test_message_says_what_to_do(self, world):
        with pytest.raises(data.DataError) as raised:
            data.mnist_images("train")
        message = str(raised.value)
        for part in (*data.MIRRORS, "data/mnist", "t10k-images-idx3-ubyte.gz", "--data DIR", data.ENVIRONMENT):
            assert part in message


class FakeWorks:
    """Works that take a known time on a clock of their own, and write down who was called."""

    def __init__(self, **seconds):
        self.now, self.calls = 0.0, []
        self.works = {name: lambda name=name, spent=spent: self._run(name, spent) for name, spent in seconds.items()}

    def _run(self, name, spent):
        self.now += spent
        self.calls.append(name)

    def times(self, seconds):
        return timer.take_turns(self.works, seconds, clock=lambda: self.now)


class TestTimer:
    def test_time_is_that_of_one_call(self):
        times = FakeWorks(fast=1e-4, slow=0.05).times(seconds=10)
        assert {name: len(values) for name, values in times.items()} == dict.fromkeys(
            ("fast", "slow"), timer.MAX_ROUNDS
        )
        assert times["fast"] == pytest.approx([1e-4] * timer.MAX_ROUNDS)
        assert times["slow"] == pytest.approx([0.05] * timer.MAX_ROUNDS)

    def test_twice_the_work_has_ratio_two(self):
        times = FakeWorks(once=0.01, twice=0.02).times(seconds=10)
        assert timer.ratio(times["twice"], times["once"]).median == pytest.approx(2)

    def test_works_take_turns_and_the_first_one_changes(self):
        fake = FakeWorks(a=1.0, b=1.0, c=1.0)
        fake.times(seconds=3)
        assert "".join(fake.calls) == "abc" + "abc" + "bca" + "cab"

    def test_slow_work_leaves_after_its_share(self):
        fake = FakeWorks(fast=0.1, slow=0.6, slowest=3.0)
        times = fake.times(seconds=1)
        assert times["slow"] == pytest.approx([0.6] * 2)
        assert times["slowest"] == pytest.approx([3.0])
        assert fake.calls.count("slowest") == 1
        assert len(times["fast"]) in (10, 11)  # which of them is a matter of rounding

    def test_ratio_is_taken_round_by_round(self):
        # A machine that slows down tenfold shows in both, and not in the ratio.
        spread = timer.ratio([2.0, 20.0, 2.0, 20.0], [1.0, 10.0, 1.0, 10.0, 99.0])
        assert spread == timer.Spread(2.0, 2.0, 2.0)

    def test_spread(self):
        assert timer.Spread.of([5.0, 1.0, 2.0, 4.0, 3.0]) == timer.Spread(3.0, 2.0, 4.0)
        assert timer.Spread.of([7.0]) == timer.Spread(7.0, 7.0, 7.0)


class TestTimeTable:
    def test_cases_have_names_of_their_own(self):
        assert len({case.name for case in CASES}) == len(CASES)

    @pytest.mark.parametrize("name", kernels.ESTIMATORS)
    def test_every_estimator_gives_the_logits_a_gradient(self, name):
        logits = torch.randn(6, 5, requires_grad=True)
        one_hot, *probs = kernels.ESTIMATORS[name](logits, 1.3)
        assert one_hot.detach().sum(-1).tolist() == pytest.approx([1] * 6)
        assert torch.equal(one_hot.detach().amax(-1).round(), torch.ones(6))
        for output in (one_hot, *probs):
            (grad,) = torch.autograd.grad(output, logits, torch.randn(6, 5), retain_graph=True)
            assert grad.abs().sum() > 0

    @pytest.mark.parametrize("name", kernels.SAMPLERS)
    def test_every_sampler_draws_the_certain_category(self, name):
        certain = torch.tensor([3, 0, 4])
        logits = torch.full((3, 5), -200.0).scatter_(1, certain.unsqueeze(1), 0.0)
        assert kernels.SAMPLERS[name](logits).flatten().tolist() == certain.tolist()

    def test_table_names_cases_peers_and_machine(self, monkeypatch, capsys):
        monkeypatch.setattr(kernels, "SECONDS", 0.01)
        kernels.print_times([Case("tiny", 4, 3, "nowhere")], 0, kernels.Console(width=200))
        printed = capsys.readouterr().out
        for part in ("tiny", "4 x 3", *kernels.ESTIMATORS, *kernels.SAMPLERS, torch.__version__, "threads", "float32"):
            assert part in printed


# A picture and its negative, fifty times each: one batch, the same at every step but for its order. Every pixel is
# black as often as white, so a decoder alone can't do better than ln 2 a pixel.
PICTURE = (torch.rand(1, 28, 28, generator=torch.Generator().manual_seed(1)) < 0.5).to(torch.uint8) * 255
IMAGES = torch.cat([PICTURE, 255 - PICTURE]).repeat(50, 1, 1)


@pytest.fixture
def one_thread():
    """Two threads that wait for each other at every layer make a busy machine very slow."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("setting", mnist_vae.SETTINGS, ids=lambda setting: setting.label)
class TestVae:
    def test_loss_falls_below_what_no_gradient_through_the_draw_can_reach(self, setting):
        faster = dataclasses.replace(setting, learning_rate=5e-3)  # the paper's rate is for 160 epochs
        losses = mnist_vae.train(faster, IMAGES, 60, seed=0).losses
        assert losses[0] == pytest.approx(784 * np.log(2), rel=0.01)
        assert np.mean(losses[-10:]) < 100

    def test_seed_decides_everything(self, setting):
        first = mnist_vae.train(setting, IMAGES, 4, seed=3).losses
        torch.rand(7)  # the state of the global generator must not matter
        assert mnist_vae.train(setting, IMAGES, 4, seed=3).losses == first
        assert mnist_vae.train(setting, IMAGES, 4, seed=4).losses != first

    def test_picture_is_drawn(self, setting, tmp_path):
        run = mnist_vae.train(setting, IMAGES, 2, seed=0)
        mnist_vae.draw_reconstructions([run], IMAGES[:3], tmp_path / "new" / "picture.png")
        assert (tmp_path / "new" / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_kl_of_the_uniform_posterior_is_zero():
    probs = torch.full((2, 3, 4), 0.25)
    white = torch.zeros(2, 784)
    assert mnist_vae.negative_elbo(white, torch.full_like(white, -50.0), probs).item() == pytest.approx(0, abs=1e-5)
    certain = torch.eye(4)[torch.zeros(2, 3, dtype=torch.long)]
    loss = mnist_vae.negative_elbo(white, torch.zeros_like(white), certain).item()
    assert loss == pytest.approx(784 * np.log(2) + 3 * np.log(4), rel=1e-6)


def test_batches_visit_every_image_once_an_epoch():
    images = torch.arange(200, dtype=torch.uint8).reshape(200, 1, 1).expand(200, 28, 28)
    visits = mnist_vae.batches(images, seed=0)
    epochs = [(255 * torch.cat([next(visits), next(visits)])[:, 0]).round().int().tolist() for _ in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(200))
    assert epochs[0] != epochs[1]


class TestCommand:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--steps", "0"], "--steps: expected a whole number of at least 1, got '0'"),
            (["--steps", "1e3"], "--steps: expected a whole number of at least 1, got '1e3'"),
            (["--seed", "-1"], "--seed: expected"),
            (["--data", "no/such/folder"], "--data: expected a folder, and 'no/such/folder' is none"),
            (["--output", __file__], "--output: expected a folder"),
        ],
    )
    def test_bad_values_are_named(self, arguments, message, capsys):
        with pytest.raises(SystemExit, match="2"):
            command.main(arguments)
        assert message in capsys.readouterr().err

    def test_without_data_the_times_are_printed_all_the_same(self, world, monkeypatch, capsys):
        monkeypatch.setattr(command, "CASES", [Case("tiny", 4, 3, "nowhere")])
        monkeypatch.setattr(kernels, "SECONDS", 0.01)
        assert command.main([]) == 1
        printed = capsys.readouterr()
        assert "tiny" in printed.out
        assert "could not be downloaded" in printed.err

"""The loader of pictures: what it takes, what it refuses, and what it does without a network."""

import dataclasses
import gzip
import hashlib
import io
import struct
import sys

import numpy as np
import pytest
import torch
from rich.console import Console

from bench import data

PIXELS = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)


def idx(pixels=PIXELS, magic=b"\0\0\x08\x03"):
    return magic + struct.pack(">3I", *pixels.shape) + pixels.tobytes()


def sha256(content):
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A checkout and a home without data, mirrors that are folders, and tiny data sets that have their own checksum."""
    checkout, home, mirror = tmp_path / "checkout", tmp_path / "home", tmp_path / "mirror"
    for folder in (checkout, home, mirror):
        folder.mkdir()
    monkeypatch.chdir(checkout)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv(data.ENVIRONMENT, raising=False)
    mirrors = ((tmp_path / "nowhere").as_uri() + "/", mirror.as_uri() + "/")
    for key, source in data.SOURCES.items():
        train, test = (dataclasses.replace(file, sha256=sha256(idx())) for file in (source.train, source.test))
        monkeypatch.setitem(data.SOURCES, key, dataclasses.replace(source, mirrors=mirrors, train=train, test=test))
    return tmp_path


def find(split="train", folder=None, key="mnist"):
    return data.find(key, getattr(data.SOURCES[key], split), folder)


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


class TestWhereItIsFound:
    @pytest.mark.parametrize("place", ["checkout/data", "shared/data", "home/.cache/reinmax_kernels"])
    def test_standard_folders(self, world, place):
        put(world / place / "mnist", idx())
        np.testing.assert_array_equal(find(), PIXELS)

    def test_splits_are_different_files(self, world):
        put(world / "checkout/data/mnist", idx(), "t10k-images-idx3-ubyte.gz")
        np.testing.assert_array_equal(find("test"), PIXELS)
        with pytest.raises(data.DataError, match="train-images"):
            find()

    def test_named_folder_is_the_only_one(self, world, monkeypatch):
        put(world / "checkout/data/mnist", idx())
        put(world / "mirror", idx(), "train-images-idx3-ubyte.gz")
        with pytest.raises(data.DataError, match=r"elsewhere/mnist/train-images-idx3-ubyte\.gz does not exist"):
            find(folder=world / "elsewhere")
        monkeypatch.setenv(data.ENVIRONMENT, str(world / "elsewhere"))
        with pytest.raises(data.DataError, match="does not exist"):
            find()
        put(world / "elsewhere/mnist", idx())
        np.testing.assert_array_equal(find(), PIXELS)

    def test_data_sets_have_folders_of_their_own(self, world):
        put(world / "checkout/data/fashion-mnist", idx())
        np.testing.assert_array_equal(find(key="fashion-mnist"), PIXELS)
        with pytest.raises(data.DownloadError, match="MNIST: train-images"):
            find(key="mnist")

    @pytest.mark.parametrize("load", [lambda: find(), lambda: data.load("mnist", None, Console())])
    def test_unsound_file_is_neither_passed_over_nor_deleted(self, world, load):
        path = put(world / "checkout/data/mnist", idx()[:-1])
        before = path.read_bytes()
        put(world / "mirror", idx())
        with pytest.raises(data.DataError, match="Replace or delete that file"):
            load()
        assert path.read_bytes() == before


class TestDownload:
    def test_second_mirror_and_then_the_cache(self, world):
        source = put(world / "mirror", idx())
        np.testing.assert_array_equal(find(), PIXELS)
        assert files_under(world / "home") == [source.name]
        source.unlink()
        np.testing.assert_array_equal(find(), PIXELS)

    @pytest.mark.parametrize(
        ("content", "reason"),
        [(idx(PIXELS[:, ::-1]), "SHA-256"), (idx()[:-1], "24 pixels"), (b"<html>", "begins with")],
    )
    def test_wrong_file_is_refused_and_removed(self, world, content, reason):
        put(world / "mirror", content)
        with pytest.raises(data.DataError, match=reason):
            find()
        assert files_under(world / "home") == []

    def test_interruption_leaves_nothing(self, world, monkeypatch):
        put(world / "mirror", idx())
        seen = []

        def interrupted(path, sha256):
            seen.extend(files_under(world / "home"))
            raise KeyboardInterrupt

        monkeypatch.setattr(data, "read_images", interrupted)
        with pytest.raises(KeyboardInterrupt):
            find()
        assert len(seen) == 1  # it was stopped with the whole content on disk, under no name that is looked for
        assert seen[0].endswith(".part")
        assert files_under(world / "home") == []

    def test_message_says_what_to_do(self, world):
        with pytest.raises(data.DataError) as raised:
            find()
        message = str(raised.value)
        for part in (
            *data.SOURCES["mnist"].mirrors,
            "data/mnist",
            "t10k-images-idx3-ubyte.gz",
            "--data DIR",
            data.ENVIRONMENT,
        ):
            assert part in message


class TestLoad:
    """Both files of a data set, or the digits that need no network."""

    def load(self, key="mnist", folder=None):
        printed = io.StringIO()
        return data.load(key, folder, Console(file=printed)), printed.getvalue()

    @pytest.mark.parametrize(("key", "title"), [("mnist", "MNIST"), ("fashion-mnist", "Fashion-MNIST")])
    def test_both_files(self, world, key, title):
        put(world / key, idx())
        put(world / key, idx(), "t10k-images-idx3-ubyte.gz")
        images, printed = self.load(key, world)
        assert (images.key, images.title, printed) == (key, title, "")
        assert torch.equal(images.train, torch.from_numpy(PIXELS))
        assert torch.equal(images.test, torch.from_numpy(PIXELS))

    @pytest.mark.parametrize("half", [False, True])
    def test_without_network_the_digits_say_that_they_are_digits(self, world, half):
        if half:  # a training set of one kind and a test set of another would be no data set
            put(world / "checkout/data/mnist", idx())
        images, printed = self.load()
        assert (images.key, images.title) == ("digits", "scikit-learn digits 8x8 (MNIST not found)")
        assert "could not be downloaded" in printed
        assert f"Until then: {images.title}" in printed
        assert images.train.shape == (1500, 28, 28)
        assert images.test.shape == (297, 28, 28)
        assert images.train.dtype == torch.uint8
        assert (images.train.min(), images.train.max()) == (0, 255)

    def test_a_named_folder_without_the_file_is_an_error(self, world, monkeypatch):
        with pytest.raises(data.DataError, match="does not exist"):
            self.load(folder=world / "home")
        monkeypatch.setenv(data.ENVIRONMENT, str(world / "home"))
        with pytest.raises(data.DataError, match="does not exist"):
            self.load()

    def test_without_scikit_learn_it_is_an_error(self, world, monkeypatch):
        monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
        with pytest.raises(data.DownloadError, match="could not be downloaded"):
            self.load()

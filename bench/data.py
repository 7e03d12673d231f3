"""Data sets of pictures: found in a data folder or downloaded into the cache, and checked.

The checksums are of the uncompressed contents, so that a file compressed anew is still the same data.
"""

import argparse
import gzip
import hashlib
import http.client
import math
import os
import tempfile
import urllib.request
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from torch import Tensor
from torch.nn import functional

ENVIRONMENT = "REINMAX_KERNELS_DATA"
TIMEOUT_SECONDS = 10
_BLOCK = 2**16
_MAGIC = bytes([0, 0, 8, 3])  # IDX: unsigned bytes in three dimensions
_HEADER = 16  # the magic and three sizes of 32 bits
_DIGITS_TRAIN = 1500  # of scikit-learn's 1,797


@dataclass(frozen=True)
class IdxFile:
    name: str
    sha256: str


@dataclass(frozen=True)
class Source:
    """Where a data set is found: its name, its mirrors, its two files."""

    title: str
    mirrors: tuple[str, ...]
    train: IdxFile
    test: IdxFile

    @classmethod
    def of(cls, title: str, train: str, test: str, *mirrors: str) -> "Source":
        """From the checksums of the files, which all have the names that MNIST's have."""
        names = "train-images-idx3-ubyte.gz", "t10k-images-idx3-ubyte.gz"
        return cls(title, mirrors, IdxFile(names[0], train), IdxFile(names[1], test))


# The key is also the subfolder that holds the files.
SOURCES = {
    "mnist": Source.of(
        "MNIST",
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    "fashion-mnist": Source.of(
        "Fashion-MNIST",
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    ),
}


class DataError(Exception):
    """The data can't be had; the message says what to do."""


class DownloadError(DataError):
    """No folder has the data, and no mirror gave it."""


@dataclass(frozen=True)
class Images:
    """A data set of pictures, uint8 tensors [N, 28, 28]. `key` is its name in a file name, `title` in a table."""

    key: str
    title: str
    train: Tensor
    test: Tensor


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data-set", choices=SOURCES, default="mnist", help="pictures to train on (default: mnist)")
    parser.add_argument(
        "--data",
        type=_folder,
        metavar="DIR",
        help=f"folder that holds mnist/ or fashion-mnist/ (default: {ENVIRONMENT}, else the standard folders, "
        "else a download)",
    )


def _folder(text: str) -> Path:
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"expected a folder, and {text!r} is none")
    return Path(text)


def load(key: str, folder: Path | None, console: Console) -> Images:
    """The data set of that key. Where no folder is named, none has it and no mirror gives it: scikit-learn's digits,
    whose title then says so, and the reason is printed.
    """
    source = SOURCES[key]
    try:
        train, test = (torch.tensor(find(key, file, folder)) for file in (source.train, source.test))
        return Images(key, source.title, train, test)
    except DownloadError as error:
        digits = _digits(f"scikit-learn digits 8x8 ({source.title} not found)")
        if digits is None:
            raise
        console.print(f"{error}\nUntil then: {digits.title}.\n", style="yellow", highlight=False, soft_wrap=True)
        return digits


def find(key: str, file: IdxFile, folder: Path | None = None) -> np.ndarray:
    """The images of one file, uint8 [N, 28, 28].

    Looks in `folder`, else in the one that REINMAX_KERNELS_DATA names, and there only. With neither, looks in the
    standard folders, and downloads what none of them holds. Each holds the files in a subfolder named by the key.

    Raises DataError where the file is missing or isn't what it should be, DownloadError where it can't be downloaded.
    """
    if folder is None and os.environ.get(ENVIRONMENT):
        folder = Path(os.environ[ENVIRONMENT])
    places = [place / key for place in ([folder] if folder is not None else _standard_folders())]
    for place in places:
        if (place / file.name).is_file():
            try:
                return read_images(place / file.name, file.sha256)
            except DataError as error:
                raise DataError(f"{error}\nReplace or delete that file.\n{_advice(key)}") from error
    if folder is not None:
        raise DataError(f"{SOURCES[key].title}: {places[0] / file.name} does not exist.\n{_advice(key)}")
    return _download(key, file, places)


def _digits(title: str) -> Images | None:
    """The handwritten digits that scikit-learn brings along, scaled up to 28x28; None where it isn't installed."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        return None
    small = torch.from_numpy(load_digits().images).unsqueeze(1)  # [1797, 1, 8, 8], from 0 to 16
    large = functional.interpolate(small * (255 / 16), size=(28, 28), mode="bilinear").squeeze(1)
    pixels = large.round().to(torch.uint8)
    return Images("digits", title, pixels[:_DIGITS_TRAIN], pixels[_DIGITS_TRAIN:])


def _standard_folders() -> tuple[Path, ...]:
    return Path("data"), Path("../shared/data"), Path.home() / ".cache" / "reinmax_kernels"


def read_images(path: Path, sha256: str) -> np.ndarray:
    """The images in a gzip-compressed IDX file, uint8 [N, height, width], once the file has proved sound."""
    try:
        with gzip.open(path) as stream:
            content = stream.read()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: can't be read as a gzip file ({error})") from error
    if content[:4] != _MAGIC:
        got = content[:4].hex() or "nothing"
        raise DataError(f"{path}: expected an IDX file of images, which begins with {_MAGIC.hex()}; got {got}")
    if len(content) < _HEADER:
        raise DataError(f"{path}: expected a header of {_HEADER} bytes, got {len(content)}")
    shape = tuple(int(size) for size in np.frombuffer(content[4:_HEADER], ">u4"))
    pixels = len(content) - _HEADER
    if pixels != math.prod(shape):
        raise DataError(f"{path}: expected {math.prod(shape)} pixels for its shape {shape}, got {pixels}")
    got = hashlib.sha256(content).hexdigest()
    if got != sha256:
        raise DataError(f"{path}: expected the uncompressed content to have SHA-256 {sha256}, got {got}")
    return np.frombuffer(content, np.uint8, offset=_HEADER).reshape(shape)


def _download(key: str, file: IdxFile, places: list[Path]) -> np.ndarray:
    """Fetch a file into the last of the places from the first mirror that has it."""
    source, cache = SOURCES[key], places[-1]
    failures = []
    for mirror in source.mirrors:
        try:
            cache.mkdir(parents=True, exist_ok=True)
            return _fetch(mirror + file.name, cache / file.name, file.sha256)
        except (OSError, http.client.HTTPException, DataError) as error:
            failures.append(f"  {mirror}{file.name}: {error}")
    searched = ", ".join(str(place) for place in places)
    reasons = [f"{source.title}: {file.name} is in none of {searched}, and could not be downloaded:", *failures]
    raise DownloadError("\n".join([*reasons, _advice(key)]))


def _fetch(url: str, path: Path, sha256: str) -> np.ndarray:
    """Download to a temporary file, check it, and only then give it its name, so that whatever stops
    this, no part of it can be taken for the whole.
    """
    descriptor, name = tempfile.mkstemp(prefix=".", suffix=".part", dir=path.parent)
    part = Path(name)
    try:
        with (
            os.fdopen(descriptor, "wb") as target,
            urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response,
            Progress(
                TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), transient=True
            ) as progress,
        ):
            size = response.headers.get("Content-Length")
            task = progress.add_task(path.name, total=int(size) if size else None)
            while block := response.read(_BLOCK):
                target.write(block)
                progress.advance(task, len(block))
        images = read_images(part, sha256)
        part.chmod(0o644)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return images


def _advice(key: str) -> str:
    source = SOURCES[key]
    return (
        f"Get {source.train.name} and {source.test.name}, for instance from {source.mirrors[0]},\n"
        f"and put them into data/{key}/ here, or into DIR/{key}/ and pass --data DIR or set {ENVIRONMENT}=DIR."
    )

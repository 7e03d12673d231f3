"""MNIST: found in a data folder or downloaded into the cache, and checked.

The checksums are of the uncompressed contents, so that a file compressed anew is still the same data.
"""

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
from typing import Literal

import numpy as np
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

ENVIRONMENT = "REINMAX_KERNELS_DATA"
MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
TIMEOUT_SECONDS = 20
_BLOCK = 2**16
_MAGIC = bytes([0, 0, 8, 3])  # IDX: unsigned bytes in three dimensions
_HEADER = 16  # the magic and three sizes of 32 bits


@dataclass(frozen=True)
class IdxFile:
    name: str
    sha256: str


MNIST = {
    "train": IdxFile("train-images-idx3-ubyte.gz", "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"),
    "test": IdxFile("t10k-images-idx3-ubyte.gz", "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"),
}


class DataError(Exception):
    """The data can't be had; the message says what to do."""


def mnist_images(split: Literal["train", "test"], folder: Path | None = None) -> np.ndarray:
    """The images of a split, uint8 [N, 28, 28].

    Looks in `folder`, else in the one that REINMAX_KERNELS_DATA names, and there only. With neither, looks in the
    standard folders, and downloads what none of them holds. Each holds the files in a subfolder `mnist`.

    Raises DataError where the file is missing and can't be downloaded, or isn't what it should be.
    """
    file = MNIST[split]
    if folder is None and os.environ.get(ENVIRONMENT):
        folder = Path(os.environ[ENVIRONMENT])
    places = [place / "mnist" for place in ([folder] if folder is not None else _standard_folders())]
    for place in places:
        if (place / file.name).is_file():
            try:
                return read_images(place / file.name, file.sha256)
            except DataError as error:
                raise DataError(f"{error}\nReplace or delete that file.\n{_advice()}") from error
    if folder is not None:
        raise DataError(f"MNIST: {places[0] / file.name} does not exist.\n{_advice()}")
    return _download(file, places)


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


def _download(file: IdxFile, places: list[Path]) -> np.ndarray:
    """Fetch a file into the last of the places from the first mirror that has it."""
    cache = places[-1]
    failures = []
    for mirror in MIRRORS:
        try:
            cache.mkdir(parents=True, exist_ok=True)
            return _fetch(mirror + file.name, cache / file.name, file.sha256)
        except (OSError, http.client.HTTPException, DataError) as error:
            failures.append(f"  {mirror}{file.name}: {error}")
    searched = ", ".join(str(place) for place in places)
    raise DataError(
        "\n".join([f"MNIST: {file.name} is in none of {searched}, and could not be downloaded:", *failures, _advice()])
    )


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


def _advice() -> str:
    files = " and ".join(file.name for file in MNIST.values())
    return (
        f"Get {files}, for instance from {MIRRORS[0]},\n"
        f"and put them into data/mnist/ here, or into DIR/mnist/ and pass --data DIR or set {ENVIRONMENT}=DIR."
    )

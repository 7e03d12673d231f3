"""`python -m bench`: the ops against their peers, then the paper's VAE trained on MNIST with two estimators."""

import argparse
import sys
from pathlib import Path

import torch
from rich.console import Console

from .cases import CASES
from .data import DataError, mnist_images
from .kernels import print_times
from .paper import mnist_vae

PICTURES = 10  # reconstructed test images
PLAIN_WIDTH = 120  # columns of a pipe or a log, which has no width of its own


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m bench", description=__doc__.partition(": ")[2])
    parser.add_argument("--seed", type=_seed, default=0, help="decides weights, batches and draws (default: 0)")
    parser.add_argument("--data", type=_folder, metavar="DIR", help="folder that holds mnist/ (default: search for it)")
    parser.add_argument(
        "--steps", type=_steps, default=1500, help="training steps for each estimator (default: %(default)s)"
    )
    parser.add_argument(
        "--output",
        type=_output,
        default=Path(__file__).parent / "results",
        metavar="DIR",
        help="folder for the picture (default: bench/results)",
    )
    return parser


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 to 2**63 - 1, got {text!r}")
    return int(text)


def _steps(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def _folder(text: str) -> Path:
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"expected a folder, and {text!r} is none")
    return Path(text)


def _output(text: str) -> Path:
    if Path(text).exists() and not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"expected a folder, and {text!r} is something else")
    return Path(text)


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    console = Console()
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    print_times(CASES, options.seed, console)
    try:
        train, test = (torch.tensor(mnist_images(split, options.data)) for split in ("train", "test"))
    except DataError as error:
        print(error, file=sys.stderr)
        return 1
    data_set = f"MNIST, {len(train)}"
    runs = mnist_vae.compare(mnist_vae.SETTINGS, train, options.steps, options.seed, data_set, console)
    picture = options.output / "mnist_vae.png"
    mnist_vae.draw_reconstructions(runs, test[:PICTURES], picture)
    console.print(f"Reconstructions of test images: {picture}", soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

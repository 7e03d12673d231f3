"""The named shapes that every benchmark runs over, and the options that choose among them."""

import argparse
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

DTYPES = ("float32", "bfloat16", "float16", "float64")
GRADIENTS = {"one-hot": 1, "both": 2}  # how many arrive
MAX_CATEGORIES = 2**23  # the library's own limit


class OptionsError(RuntimeError):
    """Options that don't go together."""


@dataclass(frozen=True)
class Case:
    name: str
    rows: int
    categories: int
    source: str  # where the shape comes from
    quick: bool = False  # whether a --quick run has it

    @property
    def shape(self) -> str:
        return f"{self.rows}x{self.categories}"


CASES = (
    Case("small", 128, 10, "what a call itself costs"),
    Case("vae", 3000, 10, "ReinMax paper: 100 images, 30 latents", quick=True),
    Case("quadratic", 65536, 2, "ReinMax paper: 128 latents, 512 problems"),
    Case("moe-8", 65536, 8, "router of Mixtral 8x7B"),
    Case("moe-64", 16384, 64, "router of OLMoE", quick=True),
    Case("moe-256", 16384, 256, "router of DeepSeek-V3"),
    Case("vq-1024", 4096, 1024, "VQGAN: 16 images of 16x16 codes", quick=True),
    Case("vq-8192", 4096, 8192, "DALL-E's dVAE: 4 images of 32x32 codes"),
    Case("vocabulary-32k", 1024, 32768, "Mistral 7B v0.3"),
    Case("vocabulary-262k", 64, 262144, "Gemma 3"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of every command that measures the ops."""
    add_device_argument(parser)
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of the logits (default: float32)")
    parser.add_argument("--tau", type=tau, default=1.0, help="the temperature (default: 1)")
    parser.add_argument(
        "--gradients",
        choices=GRADIENTS,
        default="one-hot",
        help="where gradients arrive: at the one-hot alone, as from a loss of the sample (default), or at the "
        "probabilities too, as from a KL term besides",
    )


def add_device_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", type=_device, default="cpu", metavar="{cpu,cuda}", help="default: cpu")


def add_graphs_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--graphs",
        action="store_true",
        help="time the replays of CUDA graphs: the kernels, without what it costs to call them from Python",
    )


def check_graphs(options: argparse.Namespace) -> None:
    if options.graphs and options.device != "cuda":
        raise OptionsError("--graphs: needs --device cuda")


def wait_for(device: str) -> Callable[[], None]:
    """A function that returns when the device has done what was launched."""
    return torch.cuda.synchronize if device == "cuda" else lambda: None


def add_shapes_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--shapes",
        type=_case,
        nargs="+",
        metavar="SHAPE",
        help=f"ROWSxCATEGORIES such as 8192x256, or one of: {', '.join(case.name for case in CASES)} (default: all)",
    )


def chosen(options: argparse.Namespace) -> Sequence[Case]:
    return options.shapes or [case for case in CASES if case.quick or not options.quick]


def configuration(options: argparse.Namespace) -> dict[str, object]:
    """What the results say of how they were had; the shapes stand in their rows."""
    return {key: getattr(options, key) for key in ("device", "dtype", "tau", "gradients", "quick", "seed")}


def _device(text: str) -> str:
    if text not in ("cpu", "cuda"):
        raise argparse.ArgumentTypeError(f"expected cpu or cuda, got {text!r}")
    if text == "cuda" and not torch.cuda.is_available():
        raise argparse.ArgumentTypeError(f"cuda needs a GPU that PyTorch can use; torch {torch.__version__} has none")
    return text


def tau(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a finite number above 0, got {text!r}")
    return value


def _case(text: str) -> Case:
    for case in CASES:
        if case.name == text:
            return case
    literal = re.fullmatch(r"([0-9]+)x([0-9]+)", text)
    rows, categories = map(int, literal.groups()) if literal else (0, 0)
    if rows < 1 or not 1 <= categories <= MAX_CATEGORIES:
        names = ", ".join(case.name for case in CASES)
        raise argparse.ArgumentTypeError(
            f"expected ROWSxCATEGORIES (at least one of each, at most {MAX_CATEGORIES} categories) or one of {names}; "
            f"got {text!r}"
        )
    return Case(text, rows, categories, "asked for")

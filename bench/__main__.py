"""`python -m bench`: the ops against their peers, and the paper's experiments.

Without a command, the main job: a quick table of times, then the paper's VAE trained with ReinMax and with ST.
"""

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console

from . import counters, kernels, layers, memory, paper, readme, routers, scaling, static
from .cases import OptionsError
from .data import DataError
from .paper.training import CheckpointError
from .static.launches import UnavailableError

# Each module has `add_arguments(parser)` and `run(options, console)`; its docstring's first line is the help.
COMMANDS = {
    "kernels": kernels,
    "memory": memory,
    "scaling": scaling,
    "routers": routers,
    "layers": layers,
    "static": static,
    "counters": counters,
    "paper": paper,
    "readme": readme,
}
PLAIN_WIDTH = 120  # columns of a pipe or a log, which has no width of its own


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m bench", description=__doc__.partition(": ")[2])
    _add_common_arguments(parser)
    parser.set_defaults(run=main_job)
    commands = parser.add_subparsers(title="commands")
    for name, module in COMMANDS.items():
        summary = module.__doc__.splitlines()[0]
        command = commands.add_parser(name, description=module.__doc__, help=summary)
        for action in _add_common_arguments(command):
            action.default = argparse.SUPPRESS  # what stands before the command's name holds
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


def _add_common_arguments(parser: argparse.ArgumentParser) -> Iterable[argparse.Action]:
    return (
        parser.add_argument("--quick", action="store_true", help="less of everything, to see that it works"),
        parser.add_argument("--seed", type=_seed, default=0, help="decides weights, batches and draws (default: 0)"),
        parser.add_argument(
            "--output",
            type=_folder_to_write,
            default=Path(__file__).parent / "results",
            metavar="DIR",
            help="folder for tables and plots (default: bench/results)",
        ),
    )


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 to 2**63 - 1, got {text!r}")
    return int(text)


def _folder_to_write(text: str) -> Path:
    if Path(text).exists() and not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"expected a folder, and {text!r} is something else")
    return Path(text)


def main_job(options: argparse.Namespace, console: Console) -> None:
    for command in (["kernels"], ["paper", "mnist-vae", "--fresh"]):  # what an older kernel trained would say nothing
        chosen = _parser().parse_args(
            [*command, "--quick", "--output", str(options.output), "--seed", str(options.seed)]
        )
        chosen.run(chosen, console)


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    console = Console()
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    try:
        options.run(options, console)
    except (CheckpointError, DataError, OptionsError, UnavailableError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

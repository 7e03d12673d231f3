"""The paper's experiments, one file each."""

import argparse

from rich.console import Console

from . import efficiency, gradient_quality, mnist_vae, order, polynomial, reinforce

# Each module has `add_arguments(parser)` and `run(options, console)`; its docstring's first line is the help.
EXPERIMENTS = {
    "polynomial": polynomial,
    "reinforce": reinforce,
    "mnist-vae": mnist_vae,
    "order": order,
    "gradient-quality": gradient_quality,
    "efficiency": efficiency,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    common = argparse.ArgumentParser(add_help=False, parents=[parser])  # the options that the parser has by now
    experiments = parser.add_subparsers(title="experiments", dest="experiment", required=True)
    for name, module in EXPERIMENTS.items():
        summary = module.__doc__.splitlines()[0]
        # Its --help is among the common options.
        experiment = experiments.add_parser(
            name, parents=[common], add_help=False, description=module.__doc__, help=summary
        )
        module.add_arguments(experiment)


def run(options: argparse.Namespace, console: Console) -> None:
    EXPERIMENTS[options.experiment].run(options, console)

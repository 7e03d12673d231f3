"""Polynomial programming: 128 Bernoulli variables minimise E[sum |D - c|^p] / 128, trained with each estimator.

The optimum is D = 0 everywhere, since c = 0.45 is nearer to 0 than to 1. The full size is the paper's protocol and
takes about a quarter of an hour on two cores.
"""

import argparse
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from .. import results
from . import curves, training
from .curves import spread
from .estimators import ESTIMATORS
from .training import Training

LATENTS, BATCH, C = 128, 64, 0.45
POWERS = (1.5, 2.0, 3.0)
LEARNING_RATE = 1e-3
EPOCH = 200  # steps
PAPER = {"epochs": 40, "seeds": 10}
QUICK = {"epochs": 3, "seeds": 2}


class Bernoullis(nn.Module):
    """L Bernoulli variables as categoricals of two, for each of S seeds that train side by side: logits [S, L, 2]."""

    def __init__(self, latents: int, seeds: list[int]) -> None:
        super().__init__()
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        initial = [torch.empty(latents, 2).uniform_(-0.01, 0.01, generator=generator) for generator in generators]
        self.logits = nn.Parameter(torch.stack(initial))
        self.register_buffer("seeds", torch.tensor(seeds), persistent=False)

    def forward(self, estimator: Callable[..., Any], step: int) -> Any:
        """What an estimator makes of BATCH rows of logits a seed, [S, BATCH, L, 2]. Each seed has its own stream: no
        other seed changes what it draws.
        """
        return estimator(self.logits.unsqueeze(1).expand(-1, BATCH, -1, -1), seed=self.seeds, offset=step)


def prepare(power: float, estimator: str, seeds: list[int], suffix: str = "") -> Training:
    model = Bernoullis(LATENTS, seeds)

    def loss(step: int) -> Tensor:
        one_hot, _ = model(ESTIMATORS[estimator], step)
        return (one_hot[..., 1] - C).abs().pow(power).mean(dim=(1, 2))

    return Training(
        name=f"polynomial-p{power:g}-{estimator}-seeds{seeds[0]}-{seeds[-1]}{suffix}",
        configuration={
            **{"experiment": "polynomial", "p": power, "estimator": estimator, "seeds": seeds, "c": C},
            **{"latents": LATENTS, "batch": BATCH, "optimizer": "Adam", "learning rate": LEARNING_RATE, "tau": 1.0},
        },
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), lr=LEARNING_RATE),
        loss=loss,
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    training.add_arguments(parser, **PAPER)


def run(options: argparse.Namespace, console: Console) -> None:
    defaults = QUICK if options.quick else PAPER
    epochs, count = options.epochs or defaults["epochs"], options.seeds or defaults["seeds"]
    seeds = training.seeds(options.seed, count)
    suffix = "-quick" if options.quick else ""
    runs = {(p, name): prepare(p, name, seeds, suffix) for p in POWERS for name in ESTIMATORS}
    for each in runs.values():
        training.train(each, epochs * EPOCH, options.output / "checkpoints", options.fresh, console)
    _print(runs, epochs, count, console)
    rows = [
        {"p": p, "estimator": name, "steps": (epoch + 1) * EPOCH, "seed": seed, "loss": loss, "optimum": C**p}
        for (p, name), each in runs.items()
        for epoch, losses in enumerate(each.means(EPOCH))
        for seed, loss in zip(seeds, losses.tolist(), strict=True)
    ]
    configuration = {"epochs": epochs, "runs": {each.name: each.configuration for each in runs.values()}}
    results.save(options.output, f"polynomial{suffix}", configuration, rows, _draw(runs, count))


def _print(runs: Mapping[tuple[float, str], Training], epochs: int, count: int, console: Console) -> None:
    same = {"epochs": epochs, "seeds": count} == PAPER
    table = Table(
        *("p", "estimator", "steps", "seeds", "loss, last 200 steps", "optimum", "ms/step, all seeds"),
        title=f"Polynomial programming: L = {LATENTS}, c = {C}, batch {BATCH}, Adam {LEARNING_RATE:g}, τ = 1",
        caption="Loss: mean ± standard deviation over the seeds. No data set. "
        + ("Steps and seeds are the paper's." if same else "The paper trains 8000 steps with 10 seeds."),
    )
    for (power, estimator), each in runs.items():
        last = each.means(EPOCH)[-1]
        table.add_row(
            *(f"{power:g}", estimator, str(epochs * EPOCH), str(count)),
            *(spread(last, 5), f"{C**power:.5f}", f"{1e3 * np.median(each.seconds):.1f}"),
        )
    console.print(table)


def _draw(runs: Mapping[tuple[float, str], Training], count: int) -> Figure:
    """The loss against steps, its mean over the seeds and the range of them."""
    figure = Figure(figsize=(4 * len(POWERS), 3.4), layout="constrained")
    for axes, power in zip(figure.subplots(1, len(POWERS)), POWERS, strict=True):
        for estimator in ESTIMATORS:
            curves.draw(axes, [runs[power, estimator]], estimator)
        axes.axhline(C**power, color="black", linestyle="--", linewidth=1, label="optimum")
        axes.set(title=f"p = {power:g}", xlabel="steps")
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("loss")
    figure.axes[0].legend()
    figure.suptitle(f"Polynomial programming: mean and range of {count} seeds")
    return figure

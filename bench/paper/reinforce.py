"""REINFORCE against ReinMax as the number of variables grows, on the polynomial programme with p = 2.

Both are unbiased here; REINFORCE, which has no baseline, learns from f alone, so that every variable's gradient
carries the noise of all the others. c is 0.45 everywhere, or c_i = (i + 1/2) / L. The paper draws the same comparison;
the sizes and the number of steps are chosen here. The default takes about four minutes on two cores.
"""

import argparse
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import Tensor

from reinmax_kernels import reinmax, sample

from .. import results
from . import curves, training
from .curves import spread
from .polynomial import BATCH, EPOCH, LEARNING_RATE, Bernoullis, C
from .training import Training

SIZES = (4, 16, 64, 256)
DEFAULT = {"epochs": 20, "seeds": 3}
QUICK = {"epochs": 1, "seeds": 2}

TARGETS: dict[str, Callable[[int], Tensor]] = {
    f"c = {C}": lambda latents: torch.full((latents,), C),
    "c from 0 to 1": lambda latents: (torch.arange(latents) + 0.5) / latents,
}


def objective(c: Tensor, draws: Tensor) -> Tensor:
    """What is minimised: sum (D_i - c_i)^2 / L, for draws [..., L]."""
    return (draws - c).square().mean(-1)


def _reinmax(f: Callable[[Tensor], Tensor], rows: Tensor, **randomness: object) -> Tensor:
    one_hot, _ = reinmax(rows, **randomness)
    return f(one_hot[..., 1])


def _reinforce(f: Callable[[Tensor], Tensor], rows: Tensor, **randomness: object) -> Tensor:
    """The value of f, with the gradient of f(D) log p(D) at constant f(D)."""
    index = sample(rows, **randomness)
    value = f(index.to(rows.dtype))
    surrogate = value * rows.log_softmax(-1).gather(-1, index.unsqueeze(-1)).sum((-1, -2))
    return value + (surrogate - surrogate.detach())


# An estimator is one line: from f and logits [..., L, 2] to f of a draw, [...], which carries the gradient.
ESTIMATORS: dict[str, Callable[..., Tensor]] = {"ReinMax": _reinmax, "REINFORCE": _reinforce}

Case = tuple[str, int, str]  # of TARGETS, SIZES and ESTIMATORS


def prepare(case: Case, seeds: list[int], suffix: str = "") -> Training:
    target, latents, name = case
    model = Bernoullis(latents, seeds)
    estimator = partial(ESTIMATORS[name], partial(objective, TARGETS[target](latents)))
    kind = list(TARGETS).index(target)
    return Training(
        name=f"reinforce-c{kind}-L{latents}-{name}-seeds{seeds[0]}-{seeds[-1]}{suffix}",
        configuration={
            **{"experiment": "reinforce", "c": target, "latents": latents, "estimator": name, "seeds": seeds, "p": 2},
            **{"batch": BATCH, "optimizer": "Adam", "learning rate": LEARNING_RATE, "tau": 1.0},
        },
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), lr=LEARNING_RATE),
        loss=lambda step: model(estimator, step).mean(1),
    )


def optimum(target: str, latents: int) -> float:
    c = TARGETS[target](latents)
    return objective(c, c.round()).item()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    training.add_arguments(parser, **DEFAULT)


def run(options: argparse.Namespace, console: Console) -> None:
    defaults = QUICK if options.quick else DEFAULT
    epochs, count = options.epochs or defaults["epochs"], options.seeds or defaults["seeds"]
    seeds = training.seeds(options.seed, count)
    suffix = "-quick" if options.quick else ""
    cases = [(target, latents, name) for target in TARGETS for latents in SIZES for name in ESTIMATORS]
    runs = {case: prepare(case, seeds, suffix) for case in cases}
    for each in runs.values():
        training.train(each, epochs * EPOCH, options.output / "checkpoints", options.fresh, console)
    _print(runs, count, console)
    rows = [
        {"c": target, "L": latents, "estimator": name, "steps": (epoch + 1) * EPOCH, "seed": seed, "loss": loss}
        for (target, latents, name), each in runs.items()
        for epoch, losses in enumerate(each.means(EPOCH))
        for seed, loss in zip(seeds, losses.tolist(), strict=True)
    ]
    configuration = {each.name: each.configuration for each in runs.values()}
    results.save(options.output, f"reinforce{suffix}", configuration, rows, _draw(runs, count))


def _print(runs: Mapping[Case, Training], count: int, console: Console) -> None:
    table = Table(
        *("c", "L", "estimator", "steps", "seeds", f"loss, last {EPOCH} steps", "optimum", "ms/step, all seeds"),
        title=f"REINFORCE and ReinMax: p = 2, batch {BATCH}, Adam {LEARNING_RATE:g}, τ = 1",
        caption="Loss: mean ± standard deviation over the seeds. No data set. Sizes and steps are not the paper's.",
    )
    for (target, latents, name), each in runs.items():
        table.add_row(
            *(target, str(latents), name, str(len(each.losses)), str(count), spread(each.means(EPOCH)[-1], 5)),
            *(f"{optimum(target, latents):.5f}", f"{1e3 * np.median(each.seconds):.1f}"),
        )
    console.print(table)


def _draw(runs: Mapping[Case, Training], count: int) -> Figure:
    figure = Figure(figsize=(3.2 * len(SIZES), 2.8 * len(TARGETS)), layout="constrained")
    grid = figure.subplots(len(TARGETS), len(SIZES), sharex=True, sharey="row")
    for row, target in zip(grid, TARGETS, strict=True):
        for axes, latents in zip(row, SIZES, strict=True):
            for name in ESTIMATORS:
                curves.draw(axes, [runs[target, latents, name]], name)
            best = optimum(target, latents)
            axes.axhline(best, color="black", linestyle="--", linewidth=1, label="optimum")
            axes.set_title(f"{target}, L = {latents}", fontsize="medium")
            axes.grid(alpha=0.3)
        row[0].set_ylabel("loss")
    for axes in grid[-1]:
        axes.set_xlabel("steps")
    grid[0, 0].legend(fontsize="small")
    figure.suptitle(f"Minimising the mean of (D - c)²: mean and range of {count} seeds")
    return figure

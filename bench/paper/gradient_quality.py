"""The quality of each estimator's gradient: bias, deviation and cosine against the temperature.

f is cubic in a random linear function of a few categorical variables, so that no estimator is exact. Every draw is
enumerated with its probability; what noise an estimator makes for a draw is sampled.
"""

import argparse
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import Tensor

from .. import results
from .problems import Estimates, Problems, gumbel_rao, library

LATENTS, CATEGORIES, DEGREE = 3, 8, 3
PROBLEMS, QUICK_PROBLEMS = 100, 10
TEMPERATURES = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.3, 1.6, 2.0)
BIAS = "relative bias"
MEASURES: dict[str, Callable[[Estimates], Tensor]] = {
    BIAS: Estimates.relative_bias,
    "relative deviation": Estimates.relative_deviation,
    "cosine": Estimates.cosine,
}


def _scaled_straight_through(logits: Tensor, index: Tensor, g: Tensor, tau: float) -> Tensor:
    """ST over C π_D, which makes up for how often a category is drawn, and is unbounded."""
    probability = logits.softmax(-1).gather(-1, index.unsqueeze(-1))
    return library("straight_through", logits, index, g, tau=tau) / (logits.shape[-1] * probability)


# An estimator is one line: from logits, draws, their gradients and tau to the gradient of the logits.
ESTIMATORS: dict[str, Callable[..., Tensor]] = {
    "ReinMax": lambda *draw, tau: library("reinmax", *draw, tau=tau),
    "ST": lambda *draw, tau: library("straight_through", *draw, tau=tau),
    "STGS": lambda *draw, tau: gumbel_rao(*draw, 1, tau=tau),
    "GR-MCK, K = 100": lambda *draw, tau: gumbel_rao(*draw, 100, tau=tau),
    "GST-1.0": lambda *draw, tau: library("gapped_straight_through", *draw, 1.0, tau=tau),
    "ST / (C π_D)": _scaled_straight_through,
}
# One of the same expectation, for the bias of one whose single noise would be taken for it.
QUIETER = {"STGS": "GR-MCK, K = 100"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """It needs none of its own."""


def run(options: argparse.Namespace, console: Console) -> None:
    count = QUICK_PROBLEMS if options.quick else PROBLEMS
    rows = measure(Problems.random(count, LATENTS, CATEGORIES, options.seed))
    for name in MEASURES:
        console.print(_table(rows, name))
    console.print(
        f"Medians of {count} random problems of {LATENTS} variables with {CATEGORIES} categories, seed {options.seed}, "
        f"f(D) = (⟨a, D⟩ + b)^{DEGREE}. Bias and deviation are relative to the length of the true gradient; the cosine "
        "is of the angle between one estimate and the true gradient. Draws are enumerated; of STGS and GR-MCK the "
        "noise is sampled, once for each draw of each problem, and STGS's bias is that of GR-MCK, which has the same "
        "expectation.",
        highlight=False,
    )
    configuration = {
        **{"problems": count, "seed": options.seed, "latents": LATENTS, "categories": CATEGORIES, "degree": DEGREE}
    }
    results.save(options.output, "gradient-quality", configuration, rows, _figure(rows))


def measure(problems: Problems) -> list[dict[str, Any]]:
    rows = []
    for name in ESTIMATORS:
        for tau in TEMPERATURES:
            estimates = _estimates(problems, name, tau)
            medians = {key: of(estimates).median().item() for key, of in MEASURES.items()}
            if name in QUIETER:
                medians[BIAS] = _estimates(problems, QUIETER[name], tau).relative_bias().median().item()
            rows.append({"estimator": name, "tau": tau, **medians})
    return rows


def _estimates(problems: Problems, name: str, tau: float) -> Estimates:
    return problems.estimates(functools.partial(ESTIMATORS[name], tau=tau), lambda x: x**DEGREE)


def _table(rows: Sequence[Mapping[str, Any]], name: str) -> Table:
    table = Table("estimator", *(f"τ = {tau:g}" for tau in TEMPERATURES), title=name.capitalize())
    for estimator in ESTIMATORS:
        table.add_row(estimator, *(f"{row[name]:.3g}" for row in rows if row["estimator"] == estimator))
    return table


def _figure(rows: Sequence[Mapping[str, Any]]) -> Figure:
    figure = Figure(figsize=(13, 4), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(MEASURES)), MEASURES, strict=True):
        for estimator in ESTIMATORS:
            values = [row[name] for row in rows if row["estimator"] == estimator]
            axes.plot(TEMPERATURES, values, marker=".", label=estimator)
        axes.set(title=name, xlabel="τ", yscale="linear" if name == "cosine" else "log")
        axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return figure

"""The order of each estimator: the error of its expected gradient, exact, against what f it differentiates.

Over every draw of small random problems. First, f is a power of a random linear function: an estimator of order
k is exact up to degree k. Then f = exp(ε(⟨a, D⟩ + b)), which has all degrees: the error of an estimator of order k,
relative to the gradient, falls like ε^k.
"""

import argparse
import math
from collections.abc import Mapping
from functools import partial

import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional

from .. import results
from .problems import Estimator, Function, Problems, gumbel_rao, library

LATENTS, CATEGORIES = 3, 3
PROBLEMS, QUICK_PROBLEMS = 200, 20
ROUNDING = 1e-12  # what rounding alone makes is below
FLOOR = 1e-17  # where an error of zero is drawn
NOISES = 100  # samples of noise for every draw: the only thing here that is not enumerated


def _step(alpha: float, logits: Tensor, index: Tensor, g: Tensor) -> Tensor:
    """J(π) g + w [(π - e)⟨π - e, g⟩ - J(π) g] with w = 1 / (2 alpha): the two-stage Runge-Kutta methods in place of
    Heun's, in plain PyTorch. Only at alpha = 1, where it is Heun's, does it stay exact for quadratic f.
    """
    pi = logits.softmax(-1)
    towards = pi - functional.one_hot(index, logits.shape[-1])
    first = pi * (g - (pi * g).sum(-1, keepdim=True))
    return first + (towards * (towards * g).sum(-1, keepdim=True) - first) / (2 * alpha)


# An estimator is one line, and a marker.
ESTIMATORS: dict[str, Estimator] = {
    "ST": partial(library, "straight_through"),
    "ReinMax": partial(library, "reinmax"),
    "GST-1.0": lambda *args: library("gapped_straight_through", *args, 1.0),
    "STGS, GR-MCK": lambda *args: gumbel_rao(*args, NOISES),  # whose expectations are the same
    "midpoint, alpha = 1/2": partial(_step, 1 / 2),
    "Ralston, alpha = 2/3": partial(_step, 2 / 3),
    "Heun, alpha = 1": partial(_step, 1.0),
}
MARKERS = ("s", "o", "D", "*", "v", "^", "x")

# The functions of x = ⟨a, D⟩ + b, by their degree and by their scale.
DEGREES = {degree: partial(torch.pow, exponent=degree) for degree in range(1, 7)}
SCALES = {2.0**-k: lambda x, scale=2.0**-k: (scale * x).exp() for k in range(7)}

Errors = dict[str, dict[float, Tensor]]  # of an estimator, at a function: one for each problem


def measure(problems: Problems, functions: Mapping[float, Function]) -> Errors:
    return {
        name: {key: problems.estimates(estimator, f).relative_bias() for key, f in functions.items()}
        for name, estimator in ESTIMATORS.items()
    }


def slopes(by_scale: Errors) -> dict[str, float]:
    """Of the median error against ε, both logarithmic, between the two smallest ε."""
    last, first = sorted(SCALES)[:2]
    fall = {name: errors[first].median() / errors[last].median() for name, errors in by_scale.items()}
    return {name: math.log(ratio, first / last) for name, ratio in fall.items()}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """It needs none of its own."""


def run(options: argparse.Namespace, console: Console) -> None:
    count = QUICK_PROBLEMS if options.quick else PROBLEMS
    problems = Problems.random(count, LATENTS, CATEGORIES, options.seed)
    by_degree, by_scale = measure(problems, DEGREES), measure(problems, SCALES)
    _print(by_degree, by_scale, count, options.seed, console)
    rows = [
        {"f": f, "parameter": key, "estimator": name, "median": errors.median().item(), "largest": errors.max().item()}
        for f, table in (("x^parameter", by_degree), ("exp(parameter x)", by_scale))
        for name, columns in table.items()
        for key, errors in columns.items()
    ]
    configuration = {"problems": count, "seed": options.seed, "latents": LATENTS, "categories": CATEGORIES, "tau": 1.0}
    results.save(options.output, "order", configuration, rows, _draw(by_degree, by_scale))


def _print(by_degree: Errors, by_scale: Errors, count: int, seed: int, console: Console) -> None:
    table = Table(
        *("estimator", *(f"degree {degree}" for degree in DEGREES), "order in ε"),
        title="Relative error of the expected gradient; τ = 1",
        caption=f"Median of {count} random problems of {LATENTS} variables with {CATEGORIES} categories, seed {seed}; "
        f"f(D) = (⟨a, D⟩ + b)^degree. {ROUNDING:g} and less is rounding. Order: the slope of the error of "
        "f(D) = exp(ε(⟨a, D⟩ + b)) as ε falls. The alpha-steps are plain PyTorch, the others the library's kernels; "
        f"the noise of STGS and GR-MCK, of one expectation, is averaged over {NOISES} samples a draw.",
    )
    for name, order in slopes(by_scale).items():
        medians = (errors.median().item() for errors in by_degree[name].values())
        table.add_row(name, *(f"{median:.1e}" for median in medians), f"{order:.2f}")
    console.print(table)


def _draw(by_degree: Errors, by_scale: Errors) -> Figure:
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, table in ((left, by_degree), (right, by_scale)):
        for (name, columns), marker in zip(table.items(), MARKERS, strict=True):
            medians = [max(errors.median().item(), FLOOR) for errors in columns.values()]
            hollow = {"markersize": 10, "markerfacecolor": "none"} if marker == "o" else {}
            axes.plot(list(columns), medians, marker=marker, label=name, **hollow)
        axes.set(yscale="log")
        axes.grid(alpha=0.3)
    left.axhspan(FLOOR, ROUNDING, color="black", alpha=0.08, linewidth=0)
    left.text(max(DEGREES), ROUNDING / 2, "rounding: the gradient is exact", ha="right", va="top", fontsize="small")
    left.set(xlabel="degree of f", ylabel="relative error of the expected gradient", ylim=(FLOOR, None))
    left.set_title("f(D) = (⟨a, D⟩ + b)^degree", fontsize="medium")
    right.set_xscale("log", base=2)
    right.set(xlabel="ε")
    right.set_title("f(D) = exp(ε(⟨a, D⟩ + b))", fontsize="medium")
    right.legend(fontsize="small")
    return figure

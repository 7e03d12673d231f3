"""The order of each estimator: the error of its expected gradient, exact, against what f it differentiates.

Random problems of a few categorical variables are small enough to enumerate every draw with its probability, in
float64, so an error is an error and not noise. First, f is a power of a random linear function: an estimator of order
k is exact up to degree k. Then f = exp(ε(⟨a, D⟩ + b)), which has all degrees: the error of an estimator of order k,
relative to the gradient, falls like ε^k.
"""

import argparse
import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional

import reinmax_kernels  # noqa: F401 - declares the ops

from .. import results

LATENTS, CATEGORIES = 3, 3
PROBLEMS, QUICK_PROBLEMS = 200, 20
ROUNDING = 1e-12  # what rounding alone makes is below
FLOOR = 1e-17  # where an error of zero is drawn

Estimator = Callable[[Tensor, Tensor, Tensor], Tensor]  # logits [..., C], draws [...], their gradients g, to ∇logits


def _library(name: str, logits: Tensor, index: Tensor, g: Tensor) -> Tensor:
    """The gradient that the library's kernel gives for a draw of our choosing."""
    backward = getattr(torch.ops.reinmax_kernels, f"{name}_backward")
    return backward(g, None, logits, index, logits.logsumexp(-1), None, None)


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
    "ST": partial(_library, "straight_through"),
    "ReinMax": partial(_library, "reinmax"),
    "midpoint, alpha = 1/2": partial(_step, 1 / 2),
    "Ralston, alpha = 2/3": partial(_step, 2 / 3),
    "Heun, alpha = 1": partial(_step, 1.0),
}
MARKERS = ("s", "o", "v", "^", "x")

# The functions of x = ⟨a, D⟩ + b, by their degree and by their scale.
DEGREES = {degree: partial(torch.pow, exponent=degree) for degree in range(1, 7)}
SCALES = {2.0**-k: lambda x, scale=2.0**-k: (scale * x).exp() for k in range(7)}

Errors = dict[str, dict[float, Tensor]]  # of an estimator, at a function: one for each problem


@dataclass(frozen=True)
class Problems:
    """P random problems: logits and the weights a of x(D) = ⟨a, D⟩ + b, [P, L, C] each, and b [P]."""

    logits: Tensor
    weights: Tensor
    constant: Tensor

    @classmethod
    def random(cls, count: int, seed: int) -> "Problems":
        generator = torch.Generator().manual_seed(seed)
        shape = (2, count, LATENTS, CATEGORIES)
        logits, weights = torch.randn(shape, generator=generator, dtype=torch.float64)
        constant = torch.randn(count, generator=generator, dtype=torch.float64)
        return cls(logits, weights / LATENTS**0.5, constant)

    def errors(self, estimator: Estimator, f: Callable[[Tensor], Tensor]) -> Tensor:
        """|E[estimate] - ∇E[f(x(D))]| / |∇E[f(x(D))]| of every problem, [P]; all sums run over every draw."""
        index = torch.tensor(list(itertools.product(range(CATEGORIES), repeat=LATENTS)))  # [M, L]
        one_hot = functional.one_hot(index, CATEGORIES).double()
        logits = self.logits.unsqueeze(1).expand(-1, *one_hot.shape)  # [P, M, L, C]
        probability = (logits.log_softmax(-1) * one_hot).sum((-1, -2)).exp()  # [P, M]

        x = torch.einsum("plc,mlc->pm", self.weights, one_hot) + self.constant.unsqueeze(1)
        x.requires_grad_()
        values = f(x)
        (slope,) = torch.autograd.grad(values.sum(), x)
        g = slope.detach()[..., None, None] * self.weights.unsqueeze(1)
        score = one_hot - logits.softmax(-1)
        true = torch.einsum("pm,pmlc->plc", probability * values.detach(), score)

        estimates = estimator(logits.contiguous(), index.expand(len(logits), -1, -1).contiguous(), g.contiguous())
        error = torch.einsum("pm,pmlc->plc", probability, estimates) - true
        return error.flatten(1).norm(dim=1) / true.flatten(1).norm(dim=1)


def measure(problems: Problems, functions: Mapping[float, Callable[[Tensor], Tensor]]) -> Errors:
    return {
        name: {key: problems.errors(estimator, f) for key, f in functions.items()}
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
    problems = Problems.random(count, options.seed)
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
        title="Relative error of the expected gradient, exact; τ = 1",
        caption=f"Median of {count} random problems of {LATENTS} variables with {CATEGORIES} categories, seed {seed}; "
        f"f(D) = (⟨a, D⟩ + b)^degree. {ROUNDING:g} and less is rounding. Order: the slope of the error of "
        "f(D) = exp(ε(⟨a, D⟩ + b)) as ε falls. ST and ReinMax are the library's kernels; the others plain PyTorch.",
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

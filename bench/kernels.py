"""How long the ops take, beside what else computes the same."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import reinmax
import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor
from torch.nn import functional

import reinmax_kernels

from .cases import Case
from .timer import Spread, ratio, take_turns

DTYPE = torch.float32
SECONDS = 2.0  # that each work may use up in its turns: two rounds of what takes more than a second

Estimator = Callable[[Tensor, float], tuple[Tensor, ...]]  # logits and tau to what carries a gradient
Sampler = Callable[[Tensor], Tensor]
Works = dict[str, Callable[[], object]]


def _reference(logits: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    with reinmax_kernels.backend("reference"):
        return reinmax_kernels.reinmax(logits, tau)


# A peer is one line; the first is what the others are compared with.
ESTIMATORS: dict[str, Estimator] = {
    "reinmax_kernels": reinmax_kernels.reinmax,
    "its reference": _reference,
    "reinmax (PyPI)": reinmax.reinmax,
    "gumbel_softmax": lambda logits, tau: (functional.gumbel_softmax(logits, tau, hard=True),),
}
SAMPLERS: dict[str, Sampler] = {
    "reinmax_kernels": reinmax_kernels.sample,
    "softmax, multinomial": lambda logits: torch.multinomial(logits.softmax(-1), 1),
}


def _forward_backward(estimator: Estimator, logits: Tensor, grads: Sequence[Tensor], tau: float) -> None:
    outputs = estimator(logits, tau)
    torch.autograd.grad(outputs, logits, grads[: len(outputs)])


def _estimator_works(case: Case, generator: torch.Generator) -> Works:
    shape = (case.rows, case.categories)
    logits, *grads = (torch.randn(shape, generator=generator, dtype=DTYPE) for _ in range(3))
    logits.requires_grad_()
    return {name: partial(_forward_backward, peer, logits, grads, case.tau) for name, peer in ESTIMATORS.items()}


def _sampler_works(case: Case, generator: torch.Generator) -> Works:
    logits = torch.randn(case.rows, case.categories, generator=generator, dtype=DTYPE)
    return {name: partial(peer, logits) for name, peer in SAMPLERS.items()}


def print_times(cases: Sequence[Case], seed: int, console: Console) -> None:
    _print_table(
        "Forward and backward of reinmax and its peers, ms",
        "Gradients arrive at the one-hot and, where an estimator returns them, at the probabilities.",
        {f"{case.name}\n{case.rows} x {case.categories}, τ {case.tau:g}": (case, _estimator_works) for case in cases},
        seed,
        console,
    )
    _print_table(
        "One index for each row, ms",
        "No gradient.",
        {f"{case.name}\n{case.rows} x {case.categories}": (case, _sampler_works) for case in cases},
        seed,
        console,
    )


def _print_table(
    title: str,
    note: str,
    prepared: Mapping[str, tuple[Case, Callable[[Case, torch.Generator], Works]]],
    seed: int,
    console: Console,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)  # the peers draw from the global generator
    results = {}
    with Progress(console=console, transient=True) as progress:
        for label, (case, works) in progress.track(prepared.items(), description=title):
            results[label] = take_turns(works(case, generator), SECONDS)
    first, *others = next(iter(results.values()))
    table = Table("case", first, *others, title=title, caption=f"{_caption()} {note}", show_lines=True)
    for label, times in results.items():
        cells = (f"{_times(times[peer])}\n{_ratio(times[peer], times[first])}" for peer in others)
        table.add_row(label, _times(times[first]), *cells)
    console.print(table)


def _times(seconds: Sequence[float]) -> str:
    return _spread(Spread.of([1e3 * value for value in seconds]))


def _ratio(seconds: Sequence[float], baseline: Sequence[float]) -> str:
    return "x " + _spread(ratio(seconds, baseline))


def _spread(spread: Spread) -> str:
    if spread.low == spread.high:
        return _three_digits(spread.median)
    return f"{_three_digits(spread.median)} ({_three_digits(spread.low)}-{_three_digits(spread.high)})"


def _three_digits(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def _caption() -> str:
    facts = reinmax_kernels.build_info() | {
        "threads": torch.get_num_threads(),
        "dtype": str(DTYPE).removeprefix("torch."),
    }
    spelled = (f"{key} {', '.join(v) if isinstance(v, list) else v}" for key, v in facts.items() if v)
    return (
        "Median (quartiles) over rounds in which all take turns; x: times as long as the first column, round by round. "
        f"{'; '.join(spelled)}."
    )

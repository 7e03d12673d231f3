"""What the estimators keep for the backward, and the most that they hold at once."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from . import cases, results
from .cases import Case
from .peers import ESTIMATORS, PACKAGE, Operands, failure, forward_backward
from .tables import Row, add_sections, table_of_cases, three_digits

HEADINGS = {"saved": "saved", "beyond": "beyond the logits", "peak": "peak"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    cases.add_arguments(parser)
    cases.add_shapes_argument(parser)


def run(options: argparse.Namespace, console: Console) -> None:
    torch.manual_seed(options.seed)  # the peers draw from the global generator
    generator = torch.Generator().manual_seed(options.seed)
    rows = []
    chosen = cases.chosen(options)
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("", total=len(chosen))
        for case in chosen:
            progress.update(task, description=case.name)
            torch.compiler.reset()  # compiled for this shape alone, whatever came before
            rows += _rows(case, Operands.random(case, options, generator))
            progress.advance(task)
    console.print(_table(rows))
    console.print(
        "MiB; x: times what the package needs. Saved: storages kept for the backward. Peak: the most that lives at one "
        f"moment of forward and backward beside logits and gradients.\n{options.dtype}, tau {options.tau:g}; gradients "
        f"arrive at {options.gradients}.",
        highlight=False,
    )
    results.save(options.output, "memory", cases.configuration(options), rows, _figure(rows))


def saved_storages(forward: Callable[[], object]) -> Mapping[int, int]:
    """Bytes of every storage that a forward keeps for its backward, by address: what tensors share counts once."""
    storages = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward()
    return {address: storage.nbytes() for address, storage in storages.items()}


def peak_bytes(work: Callable[[], object], device: str = "cpu") -> int:
    """The most bytes of tensors that live at one moment of the work, beyond those that lived before.

    On the CPU PyTorch's profiler reports what is allocated and freed, inside of its ops too.
    """
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()  # negative where memory is freed
        peak = max(peak, live)
    return peak


def _rows(case: Case, operands: Operands) -> list[Row]:
    rows = []
    for peer, estimator in ESTIMATORS.items():
        row = {"case": case.name, "rows": case.rows, "categories": case.categories, "peer": peer}
        work = partial(forward_backward, estimator, operands)
        if reason := failure(work):
            rows.append(row | {"unavailable": reason})
            continue
        saved = saved_storages(partial(estimator, operands.logits, operands.tau))
        input_address = operands.logits.untyped_storage().data_ptr()
        row["saved"] = sum(saved.values())
        row["beyond"] = sum(size for address, size in saved.items() if address != input_address)
        row["peak"] = peak_bytes(work, operands.logits.device.type)
        rows.append(row)
    package = next(row for row in rows if row["peer"] == PACKAGE)
    for row in rows:
        for figure in HEADINGS:
            if figure in row and figure in package:
                row[f"{figure}_ratio"] = row[figure] / package[figure]
    return rows


def _table(rows: Sequence[Row]) -> Table:
    headings = [cell for heading in HEADINGS.values() for cell in (heading, "x")]
    table = table_of_cases("Memory of forward and backward", headings)
    add_sections(table, rows, _cells)
    return table


def _cells(row: Row) -> Sequence[str]:
    cells = []
    for figure in HEADINGS:
        ratio = row.get(f"{figure}_ratio")
        cells += [three_digits(row[figure] / 2**20), "" if ratio is None else three_digits(ratio)]
    return cells


def _figure(rows: Sequence[Row]) -> Figure:
    places = {case: place for place, case in enumerate(dict.fromkeys(row["case"] for row in rows))}
    width = 0.8 / len(ESTIMATORS)
    figure = Figure(figsize=(14, 5), layout="constrained")
    for axes, (key, heading) in zip(figure.subplots(1, len(HEADINGS)), HEADINGS.items(), strict=True):
        for number, peer in enumerate(ESTIMATORS):
            measured = [row for row in rows if row["peer"] == peer and key in row]
            axes.bar(
                [places[row["case"]] + number * width for row in measured],
                [row[key] / (row["rows"] * row["categories"]) for row in measured],
                width,
                label=peer,
            )
        axes.set(title=heading, ylabel="bytes for each logit")
        axes.set_xticks(list(places.values()), list(places), rotation=60)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=len(ESTIMATORS))
    return figure

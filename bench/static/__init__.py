"""What the compiler makes of the Triton kernels, and the time that this allows for: predicted, not measured.

No GPU is needed. Each kernel is compiled as the library would launch it. Instructions of an element are those that all
threads execute, by the machine code and the trips of its loops, over the elements of all rows.
"""

import argparse
from collections.abc import Iterator, Sequence

import torch
from rich.console import Console
from rich.progress import Progress

from .. import cases, results
from ..tables import Row
from . import report
from .code import figures
from .gpus import GPU, GPUS, PREDICTED
from .launches import AMD, triton_kernels_launch
from .specimens import Specimen, all_specimens, is_on_chip

TARGETS = (80, 90, 100, 120, AMD)
PREDICTED_PATHS = ("sample", "sample_dense", "reinmax_backward", "straight_through_backward")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dtype", choices=cases.DTYPES, default="float32", help="of the logits (default: float32)")
    cases.add_shapes_argument(parser)


def run(options: argparse.Namespace, console: Console) -> None:
    triton_kernels_launch()
    dtype = getattr(torch, options.dtype)
    configuration = {key: getattr(options, key) for key in ("dtype", "quick")}
    if options.quick:
        targets, gpus, specimens = (90, AMD), GPUS[1:2], all_specimens([dtype], categories=[64, 4096])
    else:
        targets, gpus, specimens = TARGETS, GPUS, all_specimens([dtype])
    with Progress(console=console, transient=True) as progress:
        rows = list(progress.track(_compiled(specimens, targets), total=len(targets) * len(specimens)))
        code = [row for several in rows for row in several]
        chosen = cases.chosen(options)
        tracked = progress.track(_predicted(chosen, gpus, dtype), total=len(chosen) * len(PREDICTED_PATHS))
        predictions = list(tracked)
    console.print(report.table_of_code(code))
    results.save(options.output, "static", configuration, code, report.figure_of_code(code))
    console.print(report.table_of_times(predictions, gpus))
    console.print(
        f"{options.dtype}, tau 1. The larger of bytes over bandwidth and instructions over issue slots, by published "
        f"figures of each GPU: {PREDICTED}.",
        highlight=False,
    )
    figure = report.figure_of_times(predictions, gpus)
    results.save(options.output, "static_predicted", configuration, predictions, figure)


def _compiled(specimens: Sequence[Specimen], targets: Sequence[int | str]) -> Iterator[list[Row]]:
    """Of each specimen for each target, a row for each launch."""
    for target in targets:
        for specimen in specimens:
            rows = []
            for launch in specimen.launches():
                found = figures(launch, target)
                per_element = launch.threads(target) / specimen.elements
                row = {
                    "path": specimen.path,
                    "rows": specimen.rows,
                    "categories": specimen.categories,
                    "dtype": specimen.dtype_name,
                    "kernel": launch.name,
                    "target": _target_name(target),
                    "warps": launch.warps,
                    "programs": launch.programs,
                    **vars(found),
                }
                if found.executed is not None:
                    row["instructions_per_element"] = found.executed * per_element
                    row["in_loops_per_element"] = found.looped * per_element
                rows.append(row)
            yield rows


def _target_name(target: int | str) -> str:
    return target if isinstance(target, str) else f"sm_{target}"


def _predicted(chosen: Sequence[cases.Case], gpus: Sequence[GPU], dtype: torch.dtype) -> Iterator[Row]:
    for case in chosen:
        for path in PREDICTED_PATHS:
            row = {"case": case.name, "rows": case.rows, "categories": case.categories, "peer": path}
            for gpu in gpus:
                specimen = Specimen(path, case.rows, case.categories, dtype, gpu.processors)
                launches = specimen.launches()
                executed = sum(figures(each, gpu.target).executed * each.threads(gpu.target) for each in launches)
                moved = specimen.least_bytes(is_on_chip(launches))
                seconds, bound = gpu.seconds(moved, executed)
                row |= {gpu.name: seconds, f"{gpu.name} bound": bound, f"{gpu.name} memory": moved / gpu.bandwidth}
            yield row

"""What compilers make of the Triton and CUDA kernels, what they move, and the time that this allows for: predicted, not
measured.

No GPU is needed. Each kernel is compiled as the library would launch it; those in CUDA C++ where nvcc is found, of the
draws, ReinMax, straight-through, bits and the routers. Instructions of an element are those that all threads execute,
by the machine code and the trips of its loops, over the elements of all rows; CUDA's routers have none, whose loops'
trips the logits decide. What is moved is counted where launches are interpreted.
"""

import argparse
from collections.abc import Iterator, Sequence

import torch
from rich.console import Console
from rich.progress import Progress

import cuda_toolkit

from .. import cases, results
from ..tables import Row
from . import report, traffic
from .code import Figures, figures
from .cuda import code as cuda_code
from .cuda.build import Build, built
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
    without_cuda, without_traffic = _why_without_cuda(), _why_without_traffic()
    if options.quick:
        targets, gpus, specimens = (90, AMD), GPUS[1:2], all_specimens([dtype], categories=[64, 4096])
    else:
        targets, gpus, specimens = TARGETS, GPUS, all_specimens([dtype])
    with Progress(console=console, transient=True) as progress:
        tracked = progress.track(_compiled(specimens, targets, without_cuda is None), len(targets) * len(specimens))
        rows = list(tracked)
        code = [row for several in rows for row in several]
        build = built(traffic.TARGET) if without_cuda is None and without_traffic is None else None
        counted = []
        if without_traffic is None:
            of_specimens = [specimen for specimen in specimens if traffic.is_counted(specimen)]
            tracked = progress.track(_counted(of_specimens, build), total=len(of_specimens))
            counted = [row for several in tracked for row in several]
        chosen = cases.chosen(options)
        tracked = progress.track(_predicted(chosen, gpus, dtype, build), total=len(chosen) * len(PREDICTED_PATHS))
        predictions = [row for several in tracked for row in several]
    console.print(report.table_of_code(code))
    if without_cuda is not None:
        console.print(f"Without the CUDA kernels: {without_cuda}", highlight=False, markup=False)
    by_backend = configuration | {"without_cuda": without_cuda}
    results.save(options.output, "static", by_backend, code, report.figure_of_code(code))
    if without_traffic is None:
        console.print(report.table_of_traffic(counted))
    else:
        console.print(f"Without what kernels move: {without_traffic}", highlight=False, markup=False)
    results.save(options.output, "static_traffic", by_backend, counted, report.figure_of_traffic(counted))
    console.print(report.table_of_times(predictions, gpus))
    console.print(
        f"{options.dtype}, tau 1. The larger of bytes over bandwidth and instructions over issue slots, by published "
        f"figures of each GPU: {PREDICTED}. Instructions: of Triton's machine code, and of CUDA's PTX for sm_90.",
        highlight=False,
    )
    figure = report.figure_of_times(predictions, gpus)
    results.save(options.output, "static_predicted", configuration, predictions, figure)


def _why_without_cuda() -> str | None:
    try:
        cuda_toolkit.nvcc()
    except cuda_toolkit.ToolkitError as error:
        return str(error)
    return None


def _why_without_traffic() -> str | None:
    try:
        traffic.require_interpreter()
    except traffic.UnavailableError as error:
        return str(error)
    return None


def _compiled(specimens: Sequence[Specimen], targets: Sequence[int | str], with_cuda: bool) -> Iterator[list[Row]]:
    """Of each specimen for each target, a row for each launch."""
    for target in targets:
        build = built(target) if with_cuda and isinstance(target, int) else None
        for specimen in specimens:
            rows = list(_of_triton(specimen, target))
            if build is not None and specimen.op in cuda_code.LISTED:
                rows += _of_cuda(specimen, build)
            yield rows


def _of_triton(specimen: Specimen, target: int | str) -> Iterator[Row]:
    for launch in specimen.launches():
        how = {"kernel": launch.name, "warps": launch.warps, "programs": launch.programs}
        yield _row(specimen, "triton", target, how, launch.threads(target), figures(launch, target))


def _of_cuda(specimen: Specimen, build: Build) -> Iterator[Row]:
    launched = specimen.cuda_launches(build)
    for number, launch in enumerate(launched):
        how = {"kernel": launch.name, "warps": launch.block[0] // 32, "programs": launch.blocks}
        found = cuda_code.figures(specimen, launched, number, build.machine_code[launch.kernel])
        yield _row(specimen, "cuda", build.architecture, how, launch.threads, found)


def _row(
    specimen: Specimen, backend: str, target: int | str, how: Row, threads: int, found: Figures
) -> dict[str, object]:
    row = {
        "path": specimen.path,
        "rows": specimen.rows,
        "categories": specimen.categories,
        "dtype": specimen.dtype_name,
        "backend": backend,
        "target": _target_name(target),
        **how,
        **vars(found),
        "is_bound": backend == "cuda",  # of instructions: no more than so many
    }
    if found.executed is not None and found.looped is not None:
        per_element = threads / specimen.elements
        row["instructions_per_element"] = found.executed * per_element
        row["in_loops_per_element"] = found.looped * per_element
    return row


def _target_name(target: int | str) -> str:
    return target if isinstance(target, str) else f"sm_{target}"


def _counted(specimens: Sequence[Specimen], build: Build | None) -> Iterator[list[Row]]:
    """Of each specimen, a row for each backend."""
    for specimen in specimens:
        found = {"triton": traffic.of_triton(specimen)}
        if build is not None and specimen.op in cuda_code.RECKONED:
            found["cuda"] = traffic.of_cuda(specimen, build)
        about = {"path": specimen.path, "rows": specimen.rows, "categories": specimen.categories}
        yield [{**about, "dtype": specimen.dtype_name, "backend": each, **vars(found[each])} for each in found]


def _predicted(
    chosen: Sequence[cases.Case], gpus: Sequence[GPU], dtype: torch.dtype, build: Build | None
) -> Iterator[list[Row]]:
    """Of each case and path, a row for each backend."""
    for case in chosen:
        for path in PREDICTED_PATHS:
            about = {"case": case.name, "rows": case.rows, "categories": case.categories}
            rows = [about | {"peer": path, "backend": "triton"} | _times_of_triton(case, path, gpus, dtype)]
            if build is not None:
                times = _times_of_cuda(case, path, gpus, dtype, build)
                rows.append(about | {"peer": f"{path}, CUDA", "backend": "cuda"} | times)
            yield rows


def _times_of_triton(case: cases.Case, path: str, gpus: Sequence[GPU], dtype: torch.dtype) -> dict[str, object]:
    row: dict[str, object] = {}
    for gpu in gpus:
        specimen = Specimen(path, case.rows, case.categories, dtype, gpu.processors)
        launches = specimen.launches()
        executed = sum(figures(each, gpu.target).executed * each.threads(gpu.target) for each in launches)
        row |= _time(gpu, specimen.least_bytes(is_on_chip(launches)), executed)
    return row


def _times_of_cuda(
    case: cases.Case, path: str, gpus: Sequence[GPU], dtype: torch.dtype, build: Build
) -> dict[str, object]:
    """The machine code of these kernels only tells a bound of their instructions, for one has ways for rows of all
    kinds; so they are counted where it is interpreted.
    """
    specimen = Specimen(path, case.rows, case.categories, dtype)
    executed = traffic.of_cuda(specimen, build).instructions_per_element * specimen.elements
    moved = specimen.least_bytes(is_on_chip(specimen.cuda_launches(build)))
    row: dict[str, object] = {}
    for gpu in gpus:
        row |= _time(gpu, moved, executed)
    return row


def _time(gpu: GPU, moved: float, executed: float) -> dict[str, object]:
    seconds, bound = gpu.seconds(moved, executed)
    return {gpu.name: seconds, f"{gpu.name} bound": bound, f"{gpu.name} memory": moved / gpu.bandwidth}

"""What a GPU's own counters say of each kernel, by Nsight Compute: time, memory, instructions, occupancy.

Its `ncu` runs this module as a program, which calls every op once and writes a mark before each.
"""

import argparse
import csv
import functools
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from rich.console import Console

import reinmax_kernels

from . import cases, results
from .cases import Case
from .peers import Operands
from .tables import Row, add_sections, table_of_cases, three_digits

BACKENDS = {"cuda": "default", "triton": "triton"}  # and the overloads of the ops that they serve
DRAWS = ("sample", "sample_dense")
SAMPLES = 1  # of noise, as straight-through Gumbel-Softmax has it
BACKWARDS = (
    "reinmax_backward",
    "straight_through_backward",
    "gapped_straight_through_backward",
    "gumbel_rao_backward",
)
METRICS = {  # and how they are called here
    "gpu__time_duration.sum": "nanoseconds",
    "dram__throughput.avg.pct_of_peak_sustained_elapsed": "memory",
    "smsp__issue_active.avg.pct_of_peak_sustained_active": "issuing",
    "sm__warps_active.avg.pct_of_peak_sustained_active": "warps",
    "launch__registers_per_thread": "registers",
    "smsp__inst_executed.sum": "instructions",
}
MARK = "FillFunctor"  # part of the name of a kernel that torch has and this library has not
WARP = 32


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dtype", choices=cases.DTYPES, default="float32", help="of the logits (default: float32)")
    cases.add_shapes_argument(parser)


def run(options: argparse.Namespace, console: Console) -> None:
    ncu = shutil.which("ncu")
    if ncu is None or not torch.cuda.is_available():
        raise cases.OptionsError("counters: needs a GPU, and Nsight Compute's ncu on the PATH")
    chosen = cases.chosen(options)
    # Clocks are left as they are: to fix them takes rights, and concerns whoever else is on the GPU.
    command = [ncu, "--clock-control", "none", "--profile-from-start", "off", "--csv", "--print-units", "base"]
    command += ["--metrics", ",".join(METRICS)]
    command += [sys.executable, "-m", "bench.counters", "--dtype", options.dtype]
    command += ["--shapes", *(case.shape for case in chosen)]
    finished = subprocess.run(command, cwd=results.ROOT, capture_output=True, text=True)
    if finished.returncode:
        raise cases.OptionsError(f"counters: {finished.stdout[-2000:]}{finished.stderr[-2000:]}")
    rows = list(table_rows(kernels(finished.stdout.splitlines()), chosen))
    if not rows:
        raise cases.OptionsError(f"counters: ncu counted nothing: {finished.stdout[-2000:]}{finished.stderr[-2000:]}")
    table = table_of_cases("Counters of each kernel", ("us", "memory", "issuing", "warps", "registers", "instr."))
    add_sections(table, rows, _cells)
    console.print(table)
    console.print(
        "Memory, issuing, warps: per cent of what the memory can move, of cycles that issue an instruction, and of "
        f"the warps that a multiprocessor can hold. Instructions are an element's. {options.dtype}.",
        highlight=False,
    )
    configuration = {"device": "cuda", "dtype": options.dtype, "quick": options.quick, "seed": options.seed}
    results.save(options.output, "counters", configuration, rows)


def works(operands: Operands) -> Iterator[tuple[str, Callable[[], object]]]:
    """Each op on each backend of this build, with its name."""
    seed = torch.zeros(1, dtype=torch.int64, device=operands.rows.device)
    draw = (operands.rows, seed, None, 0, 0)
    backward = (operands.grads[0], None, operands.rows, operands.index, operands.log_sum_exp, None, None)
    arguments: dict[str, tuple[Any, ...]] = dict.fromkeys(DRAWS, draw) | dict.fromkeys(BACKWARDS, backward)
    arguments["gapped_straight_through_backward"] += (1.0,)
    arguments["gumbel_rao_backward"] += (seed, 0, 0, SAMPLES)
    backends = [name for name in BACKENDS if name in reinmax_kernels.build_info()["backends"]]
    for name in arguments:
        for backend in backends:
            op = getattr(getattr(torch.ops.reinmax_kernels, name), BACKENDS[backend])
            yield f"{name}, {backend}", functools.partial(op, *arguments[name])


def names() -> Sequence[str]:
    """Those of the works, in their order."""
    tiny = torch.zeros(1, 2)
    nothing = torch.zeros(1, dtype=torch.int64)
    return [name for name, _ in works(Operands(tiny, [tiny], 1.0, nothing, nothing.double()))]


def kernels(lines: Iterable[str]) -> list[dict[str, str]]:
    """Of each kernel in its turn: its name and its metrics, from what ncu prints."""
    found: dict[str, dict[str, str]] = {}
    for line in csv.DictReader(line for line in lines if line.startswith('"')):
        kernel = found.setdefault(line["ID"], {"name": line["Kernel Name"]})
        kernel[METRICS[line["Metric Name"]]] = line["Metric Value"].replace(",", "")
    return list(found.values())


def table_rows(launched: Iterable[dict[str, str]], chosen: Sequence[Case]) -> Iterator[Row]:
    turns = iter([(case, name) for case in chosen for name in names()])
    for kernel in launched:
        if MARK in kernel["name"]:
            case, name = next(turns)
            continue
        yield {
            "case": case.name,
            "rows": case.rows,
            "categories": case.categories,
            "peer": name,
            "kernel": kernel["name"],
            "seconds": float(kernel["nanoseconds"]) / 1e9,
            **{key: float(kernel[key]) / 100 for key in ("memory", "issuing", "warps")},
            "registers": int(kernel["registers"]),
            "instructions_per_element": WARP * float(kernel["instructions"]) / (case.rows * case.categories),
        }


def _cells(row: Row) -> Sequence[str]:
    shares = [f"{row[key]:.0%}" for key in ("memory", "issuing", "warps")]
    times, instructions = three_digits(1e6 * row["seconds"]), three_digits(row["instructions_per_element"])
    return times, *shares, str(row["registers"]), instructions


def _profiled() -> None:
    """What runs under ncu."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    options = parser.parse_args(namespace=argparse.Namespace(device="cuda", tau=1.0, gradients="one-hot"))
    generator, mark = torch.Generator().manual_seed(0), torch.empty(1, device="cuda")
    for case in options.shapes:
        operands = Operands.random(case, options, generator)
        for _, work in works(operands):
            work()  # Triton compiles it
            torch.cuda.synchronize()
            torch.cuda.profiler.start()
            mark.fill_(0)
            work()
            torch.cuda.synchronize()
            torch.cuda.profiler.stop()


if __name__ == "__main__":
    _profiled()

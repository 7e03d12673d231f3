"""What kernels move and execute, counted: their launches are carried out at small shapes on the PTX interpreter of
tests/ptx, which is in the checkout that bench is run from.
"""

import dataclasses
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from .cuda.build import ROOT, Build
from .launches import WARP
from .specimens import NOISY, Specimen, is_on_chip

TARGET = 90  # one is enough: what a kernel moves is in its source
TARGET_OF_PRODUCTS = 80  # whose instructions for products of matrices the interpreter knows
LEAST_ELEMENTS = 4096  # of a shape, for warps and sectors to be full
WHOLE_ROWS = 4  # occupy a device of one multiprocessor
OCCUPYING_ROWS, LONG = 132, 16384  # of a large device: several blocks share each of fewer such rows
SECTOR = 32  # bytes


class UnavailableError(RuntimeError):
    """There is no interpreter."""


@dataclass(frozen=True)
class Traffic:
    """Bytes that threads load and store, and sectors that warps ask for, in bytes: of the least that the path has to
    move. And the instructions of all threads' PTX.
    """

    bytes_of_least: float
    sectors_of_least: float
    instructions_per_element: float


def of_triton(specimen: Specimen) -> Traffic:
    target = TARGET_OF_PRODUCTS if specimen.op.startswith("codebook") else TARGET
    return _of(specimen, lambda processors: _executions("compiled").executed(target, processors=processors))


def of_cuda(specimen: Specimen, build: Build) -> Traffic:
    return _of(specimen, lambda processors: _executions("cuda_kernels").executed(build, processors=processors))


def is_counted(specimen: Specimen) -> bool:
    """The interpreter takes long to make noise, which moves nothing."""
    return specimen.op not in NOISY


def require_interpreter() -> None:
    _executions("compiled")


def _executions(package: str) -> Any:
    tests = str(ROOT / "tests")
    if tests not in sys.path:
        sys.path.append(tests)
    try:
        return __import__(f"{package}.execution", fromlist=["executed"])
    except ImportError as error:
        raise UnavailableError(f"{error}") from error


def _of(specimen: Specimen, executed: Callable[[int | None], AbstractContextManager[Any]]) -> Traffic:
    small = reduced(specimen)
    with executed(small.processors) as execution:
        small.call(execution, zeroed=True)
    traffic = [each for report in execution.reports for each in (report.global_loads, report.global_stores)]
    least = small.least_bytes(is_on_chip(execution.launches)) + small.chosen_chunk_bytes(execution.launches)
    return Traffic(
        bytes_of_least=sum(each.bytes for each in traffic) / least,
        sectors_of_least=SECTOR * sum(each.sectors for each in traffic) / least,
        instructions_per_element=WARP * sum(each.warp_instructions for each in execution.reports) / small.elements,
    )


def reduced(specimen: Specimen) -> Specimen:
    """As many rows as it takes; where several blocks share each, one on its share of the device, for as many blocks to
    share it: all of them read what each has found.
    """
    if specimen.rows < OCCUPYING_ROWS and specimen.categories >= LONG:
        processors = specimen.processors and max(1, round(specimen.processors / specimen.rows))
        return dataclasses.replace(specimen, rows=1, processors=processors)
    rows = max(WHOLE_ROWS, -(-LEAST_ELEMENTS // specimen.categories))
    return dataclasses.replace(specimen, rows=rows, processors=None)

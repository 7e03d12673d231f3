"""Figures of one compiled launch, read from its machine code."""

import functools
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import sass
from ..sass import Kernel, Loop
from .launches import AMD, Launch
from .specimens import CHUNK

WIDE = 128  # bits; the widest access that all targets have

# Kernels with loops that are no loops over a row's elements: their instructions are not reckoned.
OTHERWISE_LOOPED = ("codebook_sums_kernel", "codebook_gradient_kernel", "sum_pieces_kernel", "join_pieces_kernel")


@dataclass(frozen=True)
class Figures:
    """Of one launch on one target. None is what AMD's machine code does not tell, and what is not reckoned."""

    registers: int
    spilled_bytes: int  # stored to local memory and loaded from there by a thread
    shared_bytes: int
    lanes_of_scalars: int = 0  # of AMD's vector registers, which hold scalars that scalar registers can't: no memory
    occupancy: float | None = None
    load_bits: dict[int, int] | None = None  # how many instructions there are of each width
    store_bits: dict[int, int] | None = None
    wide_loaded_bytes: int | None = None  # of a thread, by accesses of 16 bytes, each instruction counted once
    wide_stored_bytes: int | None = None
    instructions: int | None = None
    executed: float | None = None  # by a thread
    looped: float | None = None  # of them, in loops over the row


def figures(launch: Launch, target: str | int) -> Figures:
    compiled = launch.compile(target)
    if target == AMD:
        return _of_amd(compiled)
    kernel = _kernel(compiled.asm["cubin"])
    shared = compiled.metadata.shared  # all of it dynamic
    loads, stores = kernel.widths("LDG"), kernel.widths("STG")
    executed = looped = None
    if launch.name not in OTHERWISE_LOOPED:
        loops = [loop for loop in kernel.loops if loop.innermost and _bytes(loop, "LDG")]
        looped = sum(len(loop.instructions) * _trips(loop, launch) for loop in loops)
        executed = looped + len(kernel.instructions) - sum(len(loop.instructions) for loop in loops)
    return Figures(
        registers=kernel.registers,
        spilled_bytes=kernel.local_loads + kernel.local_stores,
        shared_bytes=shared,
        occupancy=kernel.occupancy(32 * launch.warps, shared).fraction,
        load_bits=dict(sorted(loads.items())),
        store_bits=dict(sorted(stores.items())),
        wide_loaded_bytes=loads[WIDE] * WIDE // 8,
        wide_stored_bytes=stores[WIDE] * WIDE // 8,
        instructions=len(kernel.instructions),
        executed=executed,
        looped=looped,
    )


@functools.lru_cache(maxsize=512)
def _kernel(cubin: bytes) -> Kernel:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(cubin)
        (kernel,) = sass.kernels(path)
    return kernel


def _bytes(loop: Loop, operation: str) -> int:
    return sum(each.width // 8 for each in loop.instructions if each.operation == operation)


def _trips(loop: Loop, launch: Launch) -> float:
    """How often a thread goes through a loop over the row: as often as its loads have to be repeated to have read that
    part of the row that the program reads; once for each chosen expert where those are looped over.
    """
    named = _named(launch)
    if "places_ptr" in named:
        return _trips_of_plan(loop, launch)
    if "k" in named:
        return float(named["k"])
    elements = [tensor.element_size() for tensor in row_tensors(launch)]
    per_element = sum(elements)
    threads = 32 * launch.warps
    return _length(launch) / (_bytes(loop, "LDG") * threads / per_element)


def _trips_of_plan(loop: Loop, launch: Launch) -> float:
    """Of a counting sort: over the parts' counts, over experts by prefix sums of them, or over a part's assignments."""
    named, constants = _named(launch), launch.constants
    if "PARTS" in constants:
        return float(-(-named["parts"] // constants["PARTS"]))
    if "CHUNK" in constants and "SHFL" in loop.mix:
        return float(-(-(named["experts"] + 1) // constants["BLOCK"]))
    return float(-(-_length(launch) // constants.get("CHUNK", constants["BLOCK"])))


def row_tensors(launch: Launch) -> list[Any]:
    """Logits, gradients, bits and mask: what is read position by position."""
    rows = [value for group in launch.arguments if isinstance(group, tuple) for value in (group, *group)]
    return [value.data for value in rows if hasattr(value, "outer_stride") and value.data is not None]


def _named(launch: Launch) -> dict[str, Any]:
    return dict(zip(launch.kernel.arg_names, launch.arguments, strict=False))


def _length(launch: Launch) -> int:
    """Positions of its row that a program reads in a loop."""
    named = _named(launch)
    length = named["length"]
    categories = length.count * length.unit.value
    if "part_size" in named:
        return min(named["part_size"], categories)
    return min(named["chunks_per_part"] * CHUNK, categories)


def _of_amd(compiled: Any) -> Figures:
    text = compiled.asm["amdgcn"]

    def number(key: str) -> int:
        match = re.search(rf"^\s*{re.escape(key)}:?\s+(\d+)", text, re.MULTILINE)
        if match is None:
            raise ValueError(f"the assembly does not tell {key}")
        return int(match[1])

    # Scalars are spilled to lanes of vector registers; those that find none are in the private segment.
    spilled = max(4 * number(".vgpr_spill_count"), number(".private_segment_fixed_size"))
    lanes = number(".sgpr_spill_count")
    return Figures(number(".vgpr_count"), spilled, compiled.metadata.shared, lanes_of_scalars=lanes)

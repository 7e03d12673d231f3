"""Figures of one launch of a CUDA kernel, read from its machine code."""

from collections.abc import Sequence

from ...sass import Kernel, Loop
from ..code import WIDE, Figures
from ..specimens import PATHS, Specimen
from .launches import Launch

# Ops of whose loops `figures` knows how often they are gone through, or that have none.
RECKONED = (
    "sample",
    "sample_dense",
    "reinmax_backward",
    "straight_through_backward",
    "bernoulli",
    "bernoulli_reinmax_backward",
    "bernoulli_straight_through_backward",
    "bernoulli_gumbel_softmax_backward",
)
ROUTERS = ("sparse_mixer", "sparse_mixer_backward", "topk_router", "topk_router_backward")
LISTED = (*RECKONED, *ROUTERS)


def figures(specimen: Specimen, launched: Sequence[Launch], number: int, kernel: Kernel) -> Figures:
    """Of launch `number`. Which of its loops a kernel takes is decided when it runs: of those that go through a row the
    shortest, for rows that are aligned and have no mask. A row is read in one loop and, where it has to be, written in
    another; where there are two launches, in the second. All else counts once, as if it were executed:
    it is a bound. Of ops that are not RECKONED, executed instructions are left out.
    """
    launch = launched[number]
    loops = [loop for loop in kernel.loops if loop.innermost and _wide(loop, "LDG")]
    share = specimen.elements / launch.threads
    looped = 0.0
    for writes in _passes(specimen, launched)[number]:
        costs = [
            len(loop.instructions) / _elements(loop, specimen)
            for loop in loops
            if _wide(loop, "LDG") >= _tensors(specimen) and bool(_wide(loop, "STG")) == writes
        ]
        looped += share * min(costs, default=0)
    loads, stores = kernel.widths("LDG"), kernel.widths("STG")
    once = len(kernel.instructions) - sum(len(loop.instructions) for loop in loops)
    return Figures(
        registers=kernel.registers,
        spilled_bytes=kernel.local_loads + kernel.local_stores,
        shared_bytes=kernel.shared_bytes + launch.shared_bytes,
        occupancy=kernel.occupancy(launch.block[0], launch.shared_bytes).fraction,
        load_bits=dict(sorted(loads.items())),
        store_bits=dict(sorted(stores.items())),
        wide_loaded_bytes=loads[WIDE] * WIDE // 8,
        wide_stored_bytes=stores[WIDE] * WIDE // 8,
        instructions=len(kernel.instructions),
        executed=once + looped if specimen.op in RECKONED else None,
        looped=looped if specimen.op in RECKONED else None,
    )


def _passes(specimen: Specimen, launched: Sequence[Launch]) -> list[list[bool]]:
    """Of each launch, its loops over a row: whether each writes."""
    path = PATHS[specimen.path]
    reads = path.writes == 0 or path.reads_again > 0
    passes = [False] * reads + [True] * (path.writes > 0)
    return [passes] if len(launched) == 1 else [passes[:1], passes[1:]]


def _tensors(specimen: Specimen) -> int:
    """How many are read at each position."""
    return PATHS[specimen.path].reads


def _elements(loop: Loop, specimen: Specimen) -> float:
    """Positions of a row that a thread goes through in one trip."""
    return _wide(loop, "LDG") * WIDE // 8 / (_tensors(specimen) * specimen.dtype.itemsize)


def _wide(loop: Loop, operation: str) -> int:
    return sum(each.operation == operation and each.width == WIDE for each in loop.instructions)

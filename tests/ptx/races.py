"""Finds data races: two threads at one place, one of them writing, and no barrier between.

Orders that count are a block's barriers, among the threads of the block, and `bar.warp.sync`, among those of the warp,
all of them, whatever its mask. Blocks are never ordered, whatever fences and atomics say.

Memory is watched in units of the smallest access that the kernel makes.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from .threads import Active, Threads

NOBODY, SEVERAL = -1, -2


class Clocks:
    """How many barriers each block and each warp has passed. Equal times are not ordered."""

    def __init__(self, threads: Threads):
        self.threads = threads
        self.of_block = np.zeros(threads.blocks, np.int32)
        self.of_warp = np.zeros(threads.warps, np.int32)

    def pass_block_barrier(self, block: int) -> None:
        self.of_block[block] += 1
        self.of_warp.reshape(self.threads.blocks, -1)[block] += 1

    def pass_warp_barrier(self, active: Active) -> None:
        self.of_warp[np.unique(active.warps)] += 1

    def stamp(self, active: Active) -> "Stamp":
        block = self.threads.block_of[active.index]
        columns = (active.numbers, active.warps, block, self.of_block[block], self.of_warp[active.warps])
        return Stamp(*(column.astype(np.int32)[:, None] for column in columns))


@dataclass
class Stamp:
    """Who accesses, and when."""

    thread: np.ndarray
    warp: np.ndarray
    block: np.ndarray
    block_time: np.ndarray
    warp_time: np.ndarray


class Accesses:
    """Who last accessed each unit, and when: a thread, or several of one warp, or of one block, or of several."""

    def __init__(self, units: int):
        self.units = units
        self.empty = True  # nothing is allocated until the first access: many state spaces are only read

    def _allocate(self) -> None:
        self.empty = False
        self.thread, self.warp, self.block = (np.full(self.units, NOBODY, np.int32) for _ in range(3))
        self.block_time, self.warp_time = (np.zeros(self.units, np.int32) for _ in range(2))

    def unordered(self, units: np.ndarray, by: Stamp) -> np.ndarray:
        """Where another thread's access and this one may happen in either order."""
        block, warp = self.block[units], self.warp[units]
        other_block = (block != NOBODY) & (block != by.block)
        other_warp = (block == by.block) & (warp != by.warp) & (self.block_time[units] == by.block_time)
        same_warp = (warp == by.warp) & (self.thread[units] != by.thread) & (self.warp_time[units] == by.warp_time)
        return other_block | other_warp | same_warp

    def add(self, units: np.ndarray, by: Stamp) -> None:
        """Notes an access. Earlier ones are forgotten where a barrier has ordered them before it."""
        if self.empty:
            self._allocate()
        block, warp = self.block[units], self.warp[units]
        forgotten = (
            (block == NOBODY)
            | ((block == by.block) & (self.block_time[units] != by.block_time))
            | ((warp == by.warp) & (self.warp_time[units] != by.warp_time))
        )
        for column, mine in ((self.thread, by.thread), (self.warp, by.warp), (self.block, by.block)):
            others = ~forgotten & (column[units] != mine)
            column[units] = mine
            others |= column[units] != mine  # of several threads in this instruction the last one is noted
            column[units[others]] = SEVERAL
        self.block_time[units] = by.block_time
        self.warp_time[units] = by.warp_time


@dataclass
class RaceDetector:
    """Watches one state space. `report` takes what was found: a description and the number of the thread."""

    units: int
    clocks: Clocks
    report: Callable[[str, int], None]
    past: dict[str, Accesses] = field(default_factory=dict)

    def __post_init__(self):
        self.past = {kind: Accesses(self.units) for kind in ("read", "write", "atomic")}

    def read(self, units: np.ndarray, active: Active) -> None:
        by = self.clocks.stamp(active)
        for earlier in ("write", "atomic"):
            self._compare("read", earlier, units, by)
        self.past["read"].add(units, by)

    def write(self, units: np.ndarray, active: Active, changes: Callable[[], np.ndarray]) -> None:
        """A write. Two threads that write the same value do no harm: `changes` says where it changes memory."""
        by = self.clocks.stamp(active)
        for earlier in ("read", "atomic"):
            self._compare("write", earlier, units, by)
        self._compare("write", "write", units, by, changes)
        self.past["write"].add(units, by)

    def atomic(self, units: np.ndarray, active: Active) -> None:
        by = self.clocks.stamp(active)
        for earlier in ("read", "write"):
            self._compare("atomic", earlier, units, by)
        self.past["atomic"].add(units, by)

    def _compare(self, now: str, before: str, units: np.ndarray, by: Stamp, matters=None) -> None:
        past = self.past[before]
        if past.empty:
            return
        unordered = past.unordered(units, by)
        if matters is not None and unordered.any():
            unordered &= matters()[:, None]
        if unordered.any():
            lane, unit = np.argwhere(unordered)[0]
            place = units[lane, unit]
            self.report(f"{now} after {before} by {_relation(past, place, by, lane)}", int(by.thread[lane, 0]))


def _relation(past: Accesses, place: int, by: Stamp, lane: int) -> str:
    if past.warp[place] == by.warp[lane, 0]:
        return "another thread of the warp, without __syncwarp between"
    if past.block[place] == by.block[lane, 0]:
        return "another thread of the block, without __syncthreads between"
    return "a thread of another block"

"""The state spaces: every access is checked for its address, its alignment, and memory that nobody has written."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .errors import Fault
from .races import Clocks, RaceDetector
from .report import Kind
from .threads import Active, Threads
from .traffic import TrafficCounter

ALIGNMENT = 256  # of an allocation in global memory, as of cudaMalloc
GUARD = 4096  # bytes behind it that belong to nobody

# Where generic addresses of a state space begin. Everything below is global memory, whose addresses are generic ones.
WINDOWS = {"shared": 0x7000_0000_0000, "local": 0x7100_0000_0000, "const": 0x7200_0000_0000, "param": 0x7300_0000_0000}
WINDOW_BYTES = 1 << 40
FIRST_GLOBAL_ADDRESS = 1 << 20  # of those buffers whose address is left to the launch

ReportIssue = Callable[[Kind, str], None]


@dataclass(frozen=True)
class Allocation:
    """A run of bytes that belongs to a state space."""

    name: str
    start: int
    size: int


class Space:
    """One state space: one run of bytes, or one for each block (shared) or each thread (local).

    Bytes are watched in units of the smallest access that the kernel makes, which no access splits.
    """

    def __init__(self, name: str, allocations: Sequence[Allocation], threads: Threads, unit: int, report: ReportIssue):
        self.name, self.threads, self.unit, self.report = name, threads, unit, report
        self.allocations = sorted(allocations, key=lambda each: each.start)
        self.starts = np.array([each.start for each in self.allocations], np.int64)
        self.ends = np.array([each.start + each.size for each in self.allocations], np.int64)
        self.places, size = self._lay_out()
        self.stride = -(-size // 32) * 32
        self.segment = {"shared": threads.block_of, "local": threads.everyone.numbers}.get(name)
        segments = {"shared": threads.blocks, "local": threads.count}.get(name, 1)
        self.data = np.zeros(segments * self.stride, np.uint8)
        self.written = np.zeros(len(self.data) // unit, bool)
        self.read_only = name in ("const", "param")
        self.races: RaceDetector | None = None

    def _lay_out(self) -> tuple[np.ndarray, int]:
        """Where in `data` each allocation begins, aligned as its address is, and where the last ends."""
        places, end = [], 0
        for each in self.allocations:
            places.append(-(-end // ALIGNMENT) * ALIGNMENT + each.start % ALIGNMENT)
            end = places[-1] + each.size
        return np.array(places, np.int64), end

    def watch_races(self, clocks: Clocks) -> None:
        self.races = RaceDetector(len(self.written), clocks, self._report_race)

    def _report_race(self, what: str, thread: int) -> None:
        self.report(Kind.DATA_RACE, f"{self.name} memory: {what}; {self.threads.describe(thread)}")

    def fill(self, address: int, data: np.ndarray, which: bool | np.ndarray = True) -> None:
        """Sets bytes from outside of the kernel, and which of them hold something."""
        start = self._place(address)
        self.data[start : start + len(data)] = data
        first, behind = start // self.unit, -(-(start + len(data)) // self.unit)
        held = np.zeros((behind - first) * self.unit, bool)
        held[start - first * self.unit :][: len(data)] = which
        self.written[first:behind] = held.reshape(-1, self.unit).any(axis=1)

    def bytes_at(self, address: int, size: int) -> np.ndarray:
        start = self._place(address)
        return self.data[start : start + size]

    def written_at(self, address: int, size: int) -> np.ndarray:
        """Which of these bytes hold something."""
        start = self._place(address)
        first, behind = start // self.unit, -(-(start + size) // self.unit)
        return np.repeat(self.written[first:behind], self.unit)[start - first * self.unit :][:size]

    def _place(self, address: int) -> int:
        number = int(np.searchsorted(self.starts, address, "right")) - 1
        return address - int(self.starts[number]) + int(self.places[number])

    def place(self, addresses: np.ndarray, size: int, active: Active) -> np.ndarray:
        """Where in `data` each thread's access begins, once it is known to be allowed."""
        if (misaligned := addresses & np.uint64(size - 1)).any():
            lane = np.flatnonzero(misaligned)[0]
            raise Fault(Kind.MISALIGNED, self._describe(addresses[lane], size, active.numbers[lane]))
        places = addresses.astype(np.int64)
        allocation = np.searchsorted(self.starts, places, "right") - 1
        inside = (allocation >= 0) & (places + size <= self.ends[allocation] if len(self.ends) else False)
        if not inside.all():
            lane = np.flatnonzero(~inside)[0]
            raise Fault(Kind.OUT_OF_BOUNDS, self._describe(addresses[lane], size, active.numbers[lane]))
        places += (self.places - self.starts)[allocation]
        if self.segment is not None:
            places += self.segment[active.index] * self.stride
        return places

    def _describe(self, address: np.uint64, size: int, thread: int) -> str:
        number = int(np.searchsorted(self.starts, int(address), "right")) - 1
        where = f"{size} bytes at {int(address):#x} of {self.name} memory"
        if number >= 0:
            nearest = self.allocations[number]
            where += f", {int(address) - nearest.start} bytes into {nearest.name} of {nearest.size} bytes"
        return f"{where}; {self.threads.describe(thread)}"

    def units_of(self, places: np.ndarray, size: int) -> np.ndarray:
        """The units that each access covers, a row an access."""
        return places[:, None] // self.unit + np.arange(size // self.unit)

    def load(self, addresses, dtype: np.dtype, count: int, active: Active, *, strong: bool) -> list[np.ndarray]:
        size = count * dtype.itemsize
        places = self.place(addresses, size, active)
        units = self.units_of(places, size)
        self._check_written(units, active)
        # A strong access of global memory is how threads synchronise: it is not held to be a race.
        if self.races and not (strong and self.name == "global"):
            self.races.read(units, active)
        cells, first = self.data.view(dtype), places // dtype.itemsize
        return [cells[first + number] for number in range(count)]

    def store(self, addresses: np.ndarray, values: list[np.ndarray], active: Active, *, strong: bool) -> None:
        dtype = values[0].dtype
        size = len(values) * dtype.itemsize
        places = self.place(addresses, size, active)
        self._check_writable(active)
        units = self.units_of(places, size)
        cells, first = self.data.view(dtype), places // dtype.itemsize

        def changes() -> np.ndarray:
            return np.any([cells[first + number] != value for number, value in enumerate(values)], axis=0)

        if self.races and not (strong and self.name == "global"):
            self.races.write(units, active, changes)
        for number, value in enumerate(values):
            cells[first + number] = value
        if self.races and (overwritten := changes()).any():
            thread = active.numbers[np.flatnonzero(overwritten)[0]]
            self._report_race("threads write different values in one instruction", thread)
        self.written[units] = True

    def announce_store(self, addresses: np.ndarray, size: int, active: Active) -> None:
        """Checks a store that will happen at any time from now on."""
        units = self.units_of(self.place(addresses, size, active), size)
        if self.races:
            self.races.write(units, active, changes=lambda: np.ones(len(active), bool))

    def update(self, addresses: np.ndarray, dtype: np.dtype, active: Active, new_value) -> np.ndarray:
        """An atomic operation: `new_value(old, lanes)` of every thread, one thread after another at each place.

        Returns what was there before.
        """
        places = self.place(addresses, dtype.itemsize, active)
        self._check_writable(active)
        units = self.units_of(places, dtype.itemsize)
        self._check_written(units, active)
        if self.races:
            self.races.atomic(units, active)
        cells, place = self.data.view(dtype), places // dtype.itemsize
        before = np.empty(len(active), dtype)
        for lanes in _one_lane_a_place(place):
            before[lanes] = cells[place[lanes]]
            cells[place[lanes]] = new_value(before[lanes], lanes)
        return before

    def _check_written(self, units: np.ndarray, active: Active) -> None:
        if not (written := self.written[units]).all():
            thread = active.numbers[np.argwhere(~written)[0][0]]
            self.report(Kind.UNINITIALIZED, f"{self.name} memory; {self.threads.describe(thread)}")

    def _check_writable(self, active: Active) -> None:
        if self.read_only:
            raise Fault(Kind.READ_ONLY, f"{self.name} memory; {self.threads.describe(active.numbers[0])}")


def _one_lane_a_place(places: np.ndarray) -> Iterator[np.ndarray]:
    """Splits lanes into rounds in which no two meet; those that meet keep their order."""
    order = np.argsort(places, kind="stable")
    fresh = np.diff(places[order], prepend=-1) != 0
    starts = np.flatnonzero(fresh)
    turn = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
    for number in range(turn.max(initial=-1) + 1):
        yield order[turn == number]


class Memory:
    """All state spaces, and generic addresses, which may point into any."""

    def __init__(self, spaces: dict[str, Space], traffic: TrafficCounter):
        self.spaces, self.traffic = spaces, traffic

    def load(self, space, addresses, dtype: np.dtype, count: int, active: Active, *, strong=False) -> list[np.ndarray]:
        loaded = [np.empty(len(active), dtype) for _ in range(count)]
        for target, lanes, within, threads in self._resolve(space, addresses, active):
            self.traffic.count(target.name, "load", within, count * dtype.itemsize, threads)
            parts = target.load(within, dtype, count, threads, strong=strong)
            for whole, part in zip(loaded, parts, strict=True):
                whole[lanes] = part
        return loaded

    def store(self, space, addresses, values: list[np.ndarray], active: Active, *, strong=False) -> None:
        for target, lanes, within, threads in self._resolve(space, addresses, active):
            self.traffic.count(target.name, "store", within, len(values) * values[0].itemsize, threads)
            target.store(within, [value[lanes] for value in values], threads, strong=strong)

    def update(self, space, addresses, dtype: np.dtype, active: Active, new_value) -> np.ndarray:
        before = np.empty(len(active), dtype)
        positions = np.arange(len(active))
        for target, lanes, within, threads in self._resolve(space, addresses, active):
            self.traffic.count(target.name, "atomic", within, dtype.itemsize, threads)
            chosen = positions[lanes]
            before[lanes] = target.update(
                within, dtype, threads, lambda old, these, chosen=chosen: new_value(old, chosen[these])
            )
        return before

    def _resolve(self, space: str, addresses: np.ndarray, active: Active):
        """Each space that is accessed: itself, by which of the threads, at which of its addresses."""
        if space != "generic":
            yield self.spaces[space], slice(None), addresses, active
            return
        windows = addresses // np.uint64(WINDOW_BYTES)
        rest = np.ones(len(addresses), bool)
        for name, start in WINDOWS.items():
            chosen = windows == np.uint64(start // WINDOW_BYTES)
            if chosen.any():
                rest &= ~chosen
                yield self.spaces[name], chosen, addresses[chosen] - np.uint64(start), active.where(chosen)
        if rest.any():
            yield self.spaces["global"], rest, addresses[rest], active.where(rest)

"""The one timer: works that are compared take turns in one run, so that a slow moment of the machine hits them all."""

import math
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

ROUND_SECONDS = 0.02  # a shorter work is repeated within its turn, so that the clock and a brief stall don't show
MAX_ROUNDS = 11


@dataclass(frozen=True)
class Spread:
    """The median of some values and their quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)


def take_turns(
    works: Mapping[str, Callable[[], object]],
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
    synchronise: Callable[[], object] = lambda: None,
) -> dict[str, list[float]]:
    """Seconds per call of each work, one value a round.

    Each work is warmed up, then has one turn in every round until it has used up `seconds` or there were MAX_ROUNDS.
    A turn begins with a call that isn't timed: it pays for what the work before it left behind, in caches and in memory
    that was given back to the system. A slow work leaves after fewer rounds, and one that takes longer than `seconds`
    has its only turn as it is warmed up: what that pays for, pages and thread pools, is lost in it. Who begins changes
    from round to round.

    `synchronise` waits for the device, at both ends of a turn: a GPU's kernels run on after their launch returns.
    """

    def duration(work: Callable[[], object], calls: int) -> float:
        synchronise()
        start = clock()
        for _ in range(calls):
            work()
        synchronise()
        return clock() - start

    calls = {}
    times: dict[str, list[float]] = {name: [] for name in works}
    used = dict.fromkeys(works, 0.0)
    for name, work in works.items():
        first = duration(work, 1)
        if first >= seconds:
            times[name].append(first)
            used[name] = first
        estimate = first if first > ROUND_SECONDS else duration(work, 1)
        calls[name] = max(1, math.ceil(ROUND_SECONDS / max(estimate, 1e-9)))

    names = list(works)
    for _ in range(MAX_ROUNDS):
        for name in names:
            if used[name] < seconds:
                before = duration(works[name], 1)
                spent = duration(works[name], calls[name])
                used[name] += before + spent
                times[name].append(spent / calls[name])
        names.append(names.pop(0))
    return times


def ratio(times: Sequence[float], baseline: Sequence[float]) -> Spread:
    """How many times as long as the baseline, from the rounds that both took part in. A work with a single turn may
    have had it as it was warmed up, beside no round: it is compared with the other's median, which no stall moves.
    """
    if min(len(times), len(baseline)) == 1:
        times, baseline = [statistics.median(times)], [statistics.median(baseline)]
    return Spread.of([time / base for time, base in zip(times, baseline, strict=False)])


def page_faults(work: Callable[[], object]) -> int:
    """Pages of memory that the system has to hand out anew for one call: a large result pays for each when it is
    first written, a small one gets memory that was used before.
    """
    work()  # whatever ran before left the allocator in a state that isn't this work's own
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    work()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

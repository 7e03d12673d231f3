"""`cp.async`: copies from global to shared memory that land as the thread waits for them, and not before."""

from dataclasses import dataclass

import numpy as np

from ..decoder import Decoder, Reader, spread
from ..machine import Machine
from ..steps import Execute, Step
from ..threads import Active
from ..types import TYPES, UNSIGNED
from .registry import instruction

U32 = TYPES["u32"]


@dataclass
class Copy:
    """A copy under way: one instruction's, of all threads that executed it."""

    active: Active
    group: np.ndarray  # the number of the thread's group that it belongs to
    targets: np.ndarray
    words: list[np.ndarray]


@instruction("cp")
def copy(decoder: Decoder) -> Step:
    if decoder.take("async") and decoder.flag("commit_group"):
        return _commit(decoder.machine)
    if decoder.flag("wait_all"):
        return _wait(decoder.machine, groups_left=0, uncommitted_too=True)
    if decoder.flag("wait_group"):
        return _wait(decoder.machine, groups_left=decoder.immediate(0), uncommitted_too=False)
    return _start(decoder)


def _start(decoder: Decoder) -> Execute:
    has_policy = decoder.flag("L2::cache_hint")
    decoder.ignore_caching()
    decoder.take("shared", "shared::cta")
    decoder.take("global")
    target, source, size = decoder.address(0), decoder.address(1), decoder.immediate(2)
    if has_policy:
        decoder.text(decoder.operand_count - 1)
    read_size = decoder.source(3, U32) if decoder.operand_count - has_policy > 3 else None
    machine = decoder.machine

    def execute(active: Active) -> None:
        words = _read(decoder, source(active), size, _bytes_read(read_size, size, active), active)
        targets, copies = target(active), machine.copies
        machine.memory.spaces["shared"].announce_store(targets, size, active)
        copies.pending.append(Copy(active, copies.groups[active.numbers], targets, words))

    return execute


def _bytes_read(read_size: Reader | None, size: int, active: Active) -> np.ndarray:
    return np.full(len(active), size) if read_size is None else spread(read_size(active), active)


def _read(
    decoder: Decoder, addresses: np.ndarray, size: int, bytes_read: np.ndarray, active: Active
) -> list[np.ndarray]:
    """What is copied, as words; zeros where nothing is read."""
    if ((bytes_read != 0) & (bytes_read < size)).any():
        raise decoder.unsupported("a copy that reads a part and fills the rest with zeros")
    words = [np.zeros(len(active), UNSIGNED[4]) for _ in range(size // 4)]
    reading = bytes_read > 0
    if reading.any():
        threads = active.where(reading)
        loaded = decoder.machine.memory.load("global", addresses[reading], UNSIGNED[4], len(words), threads)
        for word, values in zip(words, loaded, strict=True):
            word[reading] = values
    return words


def _commit(machine: Machine) -> Execute:
    def execute(active: Active) -> None:
        machine.copies.groups[active.index] += 1

    return execute


def _wait(machine: Machine, *, groups_left: int, uncommitted_too: bool) -> Execute:
    """Lets the thread's own copies land, those of its latest groups aside."""

    def execute(active: Active) -> None:
        copies = machine.copies
        landing = copies.groups - groups_left + uncommitted_too
        waits = machine.threads.mask(active)
        still_pending = []
        for copy in copies.pending:
            lands = waits[copy.active.numbers] & (copy.group < landing[copy.active.numbers])
            if lands.any():
                values = [word[lands] for word in copy.words]
                machine.memory.store("shared", copy.targets[lands], values, copy.active.where(lands))
            if not lands.all():
                rest = ~lands
                words = [word[rest] for word in copy.words]
                still_pending.append(Copy(copy.active.where(rest), copy.group[rest], copy.targets[rest], words))
        copies.pending = still_pending

    return execute

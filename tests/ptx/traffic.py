"""Counts what the memory system is asked for: bytes, sectors, bank conflicts."""

import numpy as np

from .report import Report
from .threads import WARP, Active

SECTOR = 32
BANKS, BANK_BYTES = 32, 4


class TrafficCounter:
    """Adds each access to the report."""

    def __init__(self, report: Report):
        self.report = report
        self.by_purpose = {
            "load": report.global_loads,
            "store": report.global_stores,
            "atomic": report.global_atomics,
        }

    def count(self, space: str, purpose: str, addresses: np.ndarray, size: int, active: Active) -> None:
        if space == "global":
            self._count_global(purpose, addresses, size, active)
        elif space == "shared":
            self._count_shared(addresses, size, active)
        elif space == "local":
            self.report.local_bytes += size * len(active)

    def _count_global(self, purpose: str, addresses: np.ndarray, size: int, active: Active) -> None:
        traffic = self.by_purpose[purpose]
        traffic.requests += active.warp_count
        traffic.bytes += size * len(active)
        # An access is aligned to its size, which is a sector at most: it never touches two.
        sectors = (active.warps << 40) + addresses.astype(np.int64) // SECTOR  # what two warps read counts twice
        traffic.sectors += np.unique(sectors).size

    def _count_shared(self, addresses: np.ndarray, size: int, active: Active) -> None:
        """A wavefront serves one word of every bank. Wide accesses are served 128 bytes at a time: 8 bytes by half
        warps, 16 bytes by quarter warps.
        """
        words = max(1, size // BANK_BYTES)
        phase = active.warps * words + active.lanes * words // WARP
        word = addresses.astype(np.int64)[:, None] // BANK_BYTES + np.arange(words)
        distinct = np.unique((phase[:, None] << 32) + word)
        phase, bank = distinct >> 32, distinct % BANKS
        phase = np.cumsum(np.diff(phase, prepend=phase[0]) != 0)  # counted from 0 without gaps
        wavefronts = np.bincount(phase * BANKS + bank, minlength=(phase[-1] + 1) * BANKS).reshape(-1, BANKS).max(axis=1)
        shared = self.report.shared
        shared.requests += active.warp_count
        shared.bytes += size * len(active)
        shared.wavefronts += int(wavefronts.sum())
        shared.bank_conflicts += int((wavefronts - 1).sum())

"""What a launch found and what it counted."""

import enum
from collections import Counter
from dataclasses import dataclass, field


class Kind(str, enum.Enum):
    """The kinds of issue. The launch ends at a fault, and goes on after any other."""

    OUT_OF_BOUNDS = "out-of-bounds access"  # a fault
    MISALIGNED = "misaligned access"  # a fault
    READ_ONLY = "store to a read-only state space"  # a fault
    DEADLOCK = "deadlock"  # a fault
    NO_PROGRESS = "too many steps"  # a fault
    TRAP = "trap"  # a fault
    UNINITIALIZED = "read of uninitialised memory"
    DATA_RACE = "data race"
    DIVERGENT_BARRIER = "divergent barrier"
    INACTIVE_LANE = "shuffle from an inactive lane"
    MEMBER_MASK = "wrong member mask"
    DIVISION_BY_ZERO = "integer division by zero"

    def __str__(self) -> str:
        return self.value


@dataclass
class Issue:
    """One thing wrong at one instruction. `detail` is that of the first of `count` times."""

    kind: Kind
    instruction: str
    line: int
    detail: str
    count: int = 1

    def __str__(self) -> str:
        times = f" ({self.count} times)" if self.count > 1 else ""
        return f"{self.kind} at line {self.line}, `{self.instruction}`: {self.detail}{times}"


@dataclass
class Traffic:
    """Accesses to global memory. A request is one instruction of one warp."""

    requests: int = 0
    bytes: int = 0
    sectors: int = 0  # of 32 bytes, each counted once a request


@dataclass
class SharedTraffic:
    """Accesses to shared memory."""

    requests: int = 0
    bytes: int = 0
    wavefronts: int = 0
    bank_conflicts: int = 0  # the wavefronts beyond those that the bytes need


@dataclass
class Report:
    """The outcome of one launch."""

    kernel: str
    issues: list[Issue] = field(default_factory=list)
    completed: bool = False  # false after a fault
    thread_instructions: int = 0  # those switched off by their predicate aside
    warp_instructions: int = 0
    warp_instructions_by_opcode: Counter = field(default_factory=Counter)
    divergent_branches: int = 0
    global_loads: Traffic = field(default_factory=Traffic)
    global_stores: Traffic = field(default_factory=Traffic)
    global_atomics: Traffic = field(default_factory=Traffic)
    shared: SharedTraffic = field(default_factory=SharedTraffic)
    local_bytes: int = 0

    @property
    def kinds(self) -> set[Kind]:
        return {issue.kind for issue in self.issues}

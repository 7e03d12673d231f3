"""What the machine code of a CUDA kernel is made of, without a GPU to run it on: read from a cubin.

NVIDIA's cuobjdump does the disassembly. It comes with Triton's wheel and with the CUDA toolkit.
"""

import functools
import importlib.util
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .occupancy import RESERVED_SHARED_BYTES, Occupancy, occupancy

ARCHITECTURE = re.compile(r"^\s*code for sm_(\d+)(\d)[af]?$", re.MULTILINE)
FUNCTION = re.compile(r"^\s*Function : (\S+)$", re.MULTILINE)
INSTRUCTION = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(?:@(!?U?P\w+)\s+)?([A-Z]\w*(?:\.\w+)*)([^;]*);")
USAGE = re.compile(r"Function (\S+):\s*REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")
WIDTH = re.compile(r"[US]?(8|16|32|64|128|256)")
BRANCH_TARGET = re.compile(r"0x([0-9a-f]+)\s*$")

# From compute capability 9.0 on, the static shared memory that cuobjdump tells includes what the system reserves.
RESERVED_IS_TOLD = (9, 0)


@dataclass(frozen=True)
class Instruction:
    """One instruction. `opcode` has its modifiers: LDG.E.128."""

    address: int
    opcode: str
    operands: str
    predicate: str = ""

    @property
    def operation(self) -> str:
        return self.opcode.partition(".")[0]

    @property
    def width(self) -> int:
        """The bits that a thread loads or stores; 32 where the modifiers tell no other number."""
        widths = (WIDTH.fullmatch(modifier) for modifier in self.opcode.split(".")[1:])
        return next((int(match[1]) for match in widths if match), 32)


@dataclass(frozen=True)
class Loop:
    """The instructions from the target of a branch backwards to the branch."""

    instructions: Sequence[Instruction]
    innermost: bool

    @property
    def mix(self) -> Counter[str]:
        return Counter(instruction.operation for instruction in self.instructions)


@dataclass(frozen=True)
class Kernel:
    """The machine code of one kernel and what a launch of it takes."""

    name: str
    capability: tuple[int, int]
    registers: int  # of a thread
    stack_bytes: int  # local memory of a thread: arrays that registers cannot hold, and spilled registers
    shared_bytes: int  # static
    instructions: Sequence[Instruction]

    @property
    def mix(self) -> Counter[str]:
        """How many instructions there are of each operation."""
        return Counter(instruction.operation for instruction in self.instructions)

    def widths(self, operation: str) -> Counter[int]:
        """How many instructions of an operation such as LDG or STG there are of each width in bits."""
        return Counter(each.width for each in self.instructions if each.operation == operation)

    @property
    def local_loads(self) -> int:
        """Bytes that a thread loads from local memory by all such instructions together, each executed once."""
        return sum(bits // 8 * count for bits, count in self.widths("LDL").items())

    @property
    def local_stores(self) -> int:
        return sum(bits // 8 * count for bits, count in self.widths("STL").items())

    @functools.cached_property
    def loops(self) -> Sequence[Loop]:
        """The loops in the order of their beginnings."""
        spans = sorted(set(self._backward_branches()))
        return [
            Loop(
                [each for each in self.instructions if start <= each.address <= end],
                innermost=not any(start <= other[0] and other[1] <= end and other != (start, end) for other in spans),
            )
            for start, end in spans
        ]

    def _backward_branches(self) -> Iterator[tuple[int, int]]:
        for instruction in self.instructions:
            target = BRANCH_TARGET.search(instruction.operands) if instruction.operation == "BRA" else None
            # The branch to itself behind the end is padding.
            if target and int(target[1], 16) < instruction.address:
                yield int(target[1], 16), instruction.address

    def occupancy(self, threads: int, dynamic_shared_bytes: int = 0) -> Occupancy:
        """Of blocks of so many threads on the multiprocessor that the code is for."""
        shared_bytes = self.shared_bytes + dynamic_shared_bytes
        return occupancy(self.capability, threads=threads, registers=self.registers, shared_bytes=shared_bytes)


def kernels(cubin: Path) -> list[Kernel]:
    """The kernels of a cubin."""
    return parse(_dump("-sass", cubin), _dump("-res-usage", cubin))


def parse(sass: str, usage: str) -> list[Kernel]:
    """The kernels of what `cuobjdump -sass` and `cuobjdump -res-usage` print."""
    architecture = ARCHITECTURE.search(sass)
    if architecture is None:
        raise ValueError("this is not the disassembly of a cubin")
    capability = int(architecture[1]), int(architecture[2])
    resources = {name: tuple(map(int, numbers)) for name, *numbers in USAGE.findall(usage)}
    _, *parts = FUNCTION.split(sass)
    found = []
    for name, code in zip(parts[::2], parts[1::2], strict=True):
        registers, stack_bytes, shared_bytes, _ = resources[name]
        if capability >= RESERVED_IS_TOLD:
            shared_bytes = max(0, shared_bytes - RESERVED_SHARED_BYTES)  # 0 where a kernel has none
        found.append(Kernel(name, capability, registers, stack_bytes, shared_bytes, _instructions(code)))
    return found


def _instructions(code: str) -> list[Instruction]:
    instructions = [
        Instruction(int(address, 16), opcode, operands.strip(), predicate)
        for address, predicate, opcode, operands in INSTRUCTION.findall(code)
    ]
    return [instruction for instruction in instructions if instruction.operation != "NOP"]


def _dump(what: str, cubin: Path) -> str:
    run = subprocess.run([cuobjdump(), what, cubin], check=True, capture_output=True, text=True)
    return run.stdout + run.stderr


@functools.cache
def cuobjdump() -> Path:
    """The disassembler, from Triton's wheel or else from the CUDA toolkit."""
    candidates = [Path("/usr/local/cuda/bin/cuobjdump")]
    if triton := importlib.util.find_spec("triton"):
        candidates.insert(0, Path(triton.origin).parent / "backends/nvidia/bin/cuobjdump")
    if on_path := shutil.which("cuobjdump"):
        candidates.append(Path(on_path))
    for candidate in candidates:
        if candidate.exists():
            return candidate
    raise FileNotFoundError("no cuobjdump: it comes with Triton's wheel and with the CUDA toolkit")

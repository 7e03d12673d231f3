"""A parsed PTX module: its kernels, their variables and instructions."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from .types import Type


@dataclass(frozen=True)
class Variable:
    """A variable of a state space. `data` holds the initial bytes of a module's .global or .const variable."""

    name: str
    space: str
    size: int
    alignment: int
    data: bytes = b""


@dataclass(frozen=True)
class Parameter:
    """A kernel's parameter, at its place in the block of parameters."""

    name: str
    type: Type
    offset: int
    size: int


@dataclass(frozen=True)
class Instruction:
    """One instruction. Operands are text, with every register's name made unique within the function."""

    opcode: str
    modifiers: tuple[str, ...]
    operands: tuple[str, ...]
    predicate: str | None
    negated: bool
    text: str
    line: int


@dataclass
class Function:
    """A kernel: what `launch` runs."""

    name: str
    parameters: list[Parameter] = field(default_factory=list)
    registers: dict[str, Type] = field(default_factory=dict)
    instructions: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    branch_tables: dict[str, list[str]] = field(default_factory=dict)
    offsets: dict[str, int] = field(default_factory=dict)  # where shared and local variables lie in their space
    shared_bytes: int = 0
    local_bytes: int = 0
    module_variables: dict[str, Variable] = field(default_factory=dict)
    required_block: tuple[int, ...] | None = None  # .reqntid
    most_threads: int | None = None  # .maxntid


class Module(Mapping):
    """The kernels of one PTX text by name; a part of a mangled name will do where it names one kernel alone."""

    def __init__(self, functions: Mapping[str, Function]):
        self.functions = dict(functions)

    def __getitem__(self, name: str) -> Function:
        if name in self.functions:
            return self.functions[name]
        found = [function for full, function in self.functions.items() if name in full]
        if len(found) != 1:
            raise KeyError(f"{name!r} names {len(found)} kernels of {', '.join(self.functions)}")
        return found[0]

    def __iter__(self):
        return iter(self.functions)

    def __len__(self) -> int:
        return len(self.functions)

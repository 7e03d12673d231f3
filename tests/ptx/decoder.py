"""What a translator of instructions works with: the modifiers and operands of one instruction.

Whatever a translator does not ask for is not modelled, and refused: see `Decoder.finish`.
"""

import re
from collections.abc import Callable, Iterable

import numpy as np

from .errors import UnsupportedInstruction
from .literals import constant, integer
from .machine import Machine
from .program import Instruction
from .threads import Active
from .types import TYPES, Type

Reader = Callable[[Active], np.ndarray]  # one value a thread, or one for all of them
Writer = Callable[[Active, np.ndarray], None]

ADDRESS = re.compile(r"\[\s*([^\s+\]]+)\s*(?:\+\s*(-?\w+))?\s*\]")
SYMBOL = re.compile(r"([^\s+]+)(?:\+(\d+))?")

# They say where data may be cached, which changes no result.
CACHING = re.compile(r"ca|cg|cs|cv|lu|wb|wt|nc|L1::\w+|L2::(?!cache_hint)\w+")
SCOPES = ("cta", "cluster", "gpu", "sys", "gl")


class Decoder:
    """Reads one instruction for one machine."""

    def __init__(self, instruction: Instruction, machine: Machine):
        self.instruction, self.machine = instruction, machine
        self.opcode = instruction.opcode
        self.modifiers = list(instruction.modifiers)
        self.unread = set(range(len(instruction.operands)))

    def unsupported(self, reason: str) -> UnsupportedInstruction:
        return UnsupportedInstruction(reason, self.instruction.text, self.instruction.line, self.machine.function.name)

    def finish(self) -> None:
        """Refuses the instruction if anything of it was left unread."""
        if self.modifiers:
            raise self.unsupported(f"modifier .{self.modifiers[0]} is not modelled")
        if self.unread:
            raise self.unsupported(f"operand {self.instruction.operands[min(self.unread)]} is not modelled")

    # Modifiers

    def take(self, *choices: str, default: str | None = None) -> str:
        """The first modifier that is one of the choices; the default where there is none."""
        for modifier in self.modifiers:
            if modifier in choices:
                self.modifiers.remove(modifier)
                return modifier
        if default is None:
            raise self.unsupported(f"none of .{', .'.join(choices)}")
        return default

    def flag(self, name: str) -> bool:
        return self.take(name, default="") == name

    def type(self, kinds: str = "busfp", *, packed: bool = False) -> Type:
        """The next modifier that is a type, which has to be of one of the kinds."""
        type_ = self.next_type()
        if type_.kind not in kinds or (type_.lanes > 1 and not packed):
            raise self.unsupported(f"type .{type_.name}")
        self.modifiers.remove(type_.name)
        return type_

    def next_type(self) -> Type:
        for modifier in self.modifiers:
            if modifier in TYPES:
                return TYPES[modifier]
        raise self.unsupported("a type is missing, or is not modelled")

    def ignore(self, names: Iterable[str]) -> None:
        self.modifiers = [modifier for modifier in self.modifiers if modifier not in names]

    def ignore_caching(self) -> None:
        self.modifiers = [modifier for modifier in self.modifiers if not CACHING.fullmatch(modifier)]

    def state_space(self) -> str:
        """The state space that a memory instruction names; a generic address where it names none."""
        spaces = ("global", "shared", "shared::cta", "local", "param", "param::entry", "const")
        return self.take(*spaces, default="generic").split("::")[0]

    # Operands

    def ignore_operands(self) -> None:
        self.unread.clear()

    @property
    def operand_count(self) -> int:
        return len(self.instruction.operands)

    def text(self, position: int) -> str:
        if position >= self.operand_count:
            raise self.unsupported("an operand is missing")
        self.unread.discard(position)
        return self.instruction.operands[position]

    def elements(self, position: int) -> list[str]:
        """The operands in a vector {a, b}; of anything else itself alone."""
        return [each.strip() for each in self.text(position).strip("{}").split(",")]

    def pair(self, position: int) -> tuple[str, str]:
        """Both destinations of d|p; the second is the sink where there is one alone."""
        first, _, second = self.text(position).partition("|")
        return first.strip(), second.strip() or "_"

    def immediate(self, position: int) -> int:
        if (value := integer(self.text(position))) is None:
            raise self.unsupported(f"operand {self.text(position)} is no integer constant")
        return value

    def source(self, position: int, type_: Type) -> Reader:
        return self.read(self.text(position), type_)

    def label(self, position: int) -> int:
        """The number of the instruction behind a label."""
        return self._target(self.text(position))

    def branch_table(self, position: int) -> list[int]:
        tables = self.machine.function.branch_tables
        if (name := self.text(position)) not in tables:
            raise self.unsupported(f"there is no table {name}")
        return [self._target(label) for label in tables[name]]

    def _target(self, label: str) -> int:
        if label not in self.machine.function.labels:
            raise self.unsupported(f"there is no label {label}")
        return self.machine.function.labels[label]

    def destination(self, position: int) -> Writer:
        return self.write(self.text(position))

    def predicate(self, position: int) -> Reader:
        """A predicate, negated where a ! stands before it."""
        text = self.text(position)
        read = self.read(text.lstrip("! "), TYPES["pred"])
        return (lambda active: ~read(active)) if text.startswith("!") else read

    def read(self, text: str, type_: Type) -> Reader:
        """How to read a register, a constant or the address of a variable as the type."""
        if text in self.machine.registers:
            return self._read_register(self.machine.registers[text], type_)
        if text in self.machine.special_registers:
            return self._read_register(self.machine.special_registers[text], type_)
        value = constant(text, type_)
        if value is None:
            value = self._symbol(text, type_)
        return lambda active: value

    def _read_register(self, register: np.ndarray, type_: Type) -> Reader:
        dtype, size = type_.dtype, register.itemsize
        if (register.dtype == bool) != (type_.kind == "p") or size < type_.size:
            raise self.unsupported(f"a register of {size} bytes read as .{type_.name}")
        if size == type_.size:
            return lambda active: register[active.index].view(dtype)
        low_bits = type_.unsigned
        return lambda active: register[active.index].astype(low_bits).view(dtype)

    def _symbol(self, text: str, type_: Type) -> np.ndarray:
        """The address of a variable."""
        name, offset = SYMBOL.fullmatch(text).groups() if SYMBOL.fullmatch(text) else (text, None)
        if name not in self.machine.addresses or type_.size < 4:
            raise self.unsupported(f"operand {text} is not modelled")
        address = self.machine.addresses[name] + int(offset or 0)
        return np.array([address], np.uint64).astype(type_.unsigned).view(type_.dtype)

    def write(self, text: str) -> Writer:
        """How to write a register. Values narrower than it are extended, signed ones with their sign, as NumPy does."""
        if text == "_":
            return lambda active, values: None
        if text not in self.machine.registers:
            raise self.unsupported(f"{text} is no register")
        register = self.machine.registers[text]
        dtype, size = register.dtype, register.itemsize

        def write(active: Active, values: np.ndarray) -> None:
            register[active.index] = values.view(dtype) if values.itemsize == size else values.astype(dtype)

        return write

    def address(self, position: int) -> Reader:
        """How to compute the address [base+offset] of every thread."""
        match = ADDRESS.fullmatch(self.text(position))
        if match is None:
            raise self.unsupported(f"address {self.text(position)} is not understood")
        base, offset = match[1], integer(match[2] or "0")
        if offset is None:
            raise self.unsupported(f"offset {match[2]} is not understood")
        narrow = base in self.machine.registers and self.machine.registers[base].itemsize == 4
        read = self.read(base, TYPES["u32" if narrow else "u64"])
        mask = np.uint64(0xFFFF_FFFF if narrow else 0xFFFF_FFFF_FFFF_FFFF)
        displacement = np.uint64(offset & 0xFFFF_FFFF_FFFF_FFFF)
        return lambda active: spread(read(active).astype(np.uint64) + displacement & mask, active)

    def elementwise(self, function: Callable[..., np.ndarray], *types: Type) -> Callable[[Active], None]:
        """Executes d = function(a, b, ...) with the sources of these types."""
        write = self.destination(0)
        sources = [self.source(1 + number, type_) for number, type_ in enumerate(types)]
        return lambda active: write(active, function(*[read(active) for read in sources]))


def spread(values: np.ndarray, active: Active) -> np.ndarray:
    """One value a thread, where it may have been one for all."""
    return values if len(values) == len(active) else np.repeat(values, len(active))

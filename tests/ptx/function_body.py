"""The statements of a kernel, as one flat list of instructions.

Blocks in braces, which inline assembly brings, may declare registers and labels that hide those outside; every name is
made unique here. Calls of device functions are replaced by their bodies.
"""

import copy
import re
from dataclasses import dataclass, field, replace

from .declarations import PARAMETER, place_variable, type_named, variable
from .errors import ParseError
from .program import Function, Instruction, Variable
from .source import Source, split_operands
from .types import Type

REGISTERS = re.compile(r"\.reg\s*\.(\w+)\s*(.*)")
LABEL = re.compile(r"([\w$%]+)\s*:(?!:)")
BRANCH_TABLE = re.compile(r"\s*\.branchtargets\b([^;]*);")
INSTRUCTION = re.compile(
    r"(?:@(?P<negated>!?)\s*(?P<predicate>[\w$%]+)\s+)?(?P<opcode>[a-z]\w*)(?P<modifiers>[\w.:]*)(?P<operands>.*)"
)
ADDRESS = re.compile(r"\[\s*([^\s+\]]+)[^\]]*\]")
NAME = re.compile(r"(?<![\w$%.])[%$A-Za-z_][\w$%]*")


@dataclass(frozen=True)
class DeviceFunction:
    """A function that kernels call: its parameters, those of the result first, and its body in the text."""

    name: str
    parameters: tuple[str, ...]
    source: Source


@dataclass
class Scope:
    """The names that a block in braces declares."""

    prefix: str
    outer: "Scope | None"
    registers: dict[str, Type] = field(default_factory=dict)
    numbered: dict[str, tuple[int, Type]] = field(default_factory=dict)  # %r<8> declares %r0 to %r7
    others: dict[str, str] = field(default_factory=dict)  # labels and parameters of calls, by their unique names

    def register(self, name: str) -> Type | None:
        """The type of a register, if this block declares it."""
        stem = name.rstrip("0123456789")
        count, type_ = self.numbered.get(stem, (0, None))
        if name != stem and int(name[len(stem) :]) < count:
            return type_
        return self.registers.get(name)


class FunctionBody:
    """Reads the statements up to the closing brace and appends them to a kernel. Branches go forward too, so that names
    are resolved when all are known.
    """

    def __init__(self, source: Source, kernel: Function, device_functions: dict[str, DeviceFunction]):
        self.source, self.kernel, self.device_functions = source, kernel, device_functions
        self.scope: Scope | None = Scope("", None)
        self.scopes = 1
        self.statements: list[tuple[str, int, Scope]] = []
        self.labels: dict[str, int] = {}  # the number of the statement behind each
        self.call_parameters: set[str] = set()  # unique names
        self.callers: tuple[str, ...] = ()
        self.return_label: str | None = None

    def parse(self) -> None:
        while self.scope is not None:
            character = self.source.next_character()
            if character == "{":
                self.source.position += 1
                self.scopes += 1
                self.scope = Scope(f"{self.scope.prefix}{self.scopes}:", self.scope)
            elif character == "}":
                self.source.position += 1
                self.scope = self.scope.outer
            elif label := self.source.match(LABEL):
                self._label(label[1])
            else:
                line = self.source.line
                self._declare_or_keep(self.source.statement(), line)
        self._append_statements()

    def _label(self, name: str) -> None:
        unique = self.scope.others[name] = self.scope.prefix + name
        if table := self.source.match(BRANCH_TABLE):
            targets = [self.scope.prefix + target.strip() for target in table[1].split(",")]
            self.kernel.branch_tables[unique] = targets
        else:
            self.labels[unique] = len(self.statements)

    def _declare_or_keep(self, statement: str, line: int) -> None:
        if match := REGISTERS.fullmatch(statement):
            self._declare_registers(match[2], type_named(match[1], self.source))
        elif match := PARAMETER.fullmatch(statement):
            self._declare_call_parameter(match)
        elif declared := variable(statement, self.source):
            place_variable(self.kernel, declared)
        elif not statement.startswith(".pragma"):
            self.statements.append((statement, line, self.scope))

    def _declare_registers(self, names: str, type_: Type) -> None:
        for name in split_operands(names):
            if numbered := re.fullmatch(r"(.*)<(\d+)>", name):
                self.scope.numbered[numbered[1]] = int(numbered[2]), type_
            else:
                self.scope.registers[name] = type_

    def _declare_call_parameter(self, match: re.Match) -> None:
        """What is passed to a function, or back, lies in the local memory of the thread."""
        type_ = type_named(match["type"], self.source)
        unique = self.scope.others[match["name"]] = self.scope.prefix + match["name"]
        size, alignment = type_.size * int(match["length"] or 1), int(match["alignment"] or type_.size)
        place_variable(self.kernel, Variable(unique, "local", size, alignment))
        self.call_parameters.add(unique)

    def _append_statements(self) -> None:
        instructions, first = self.kernel.instructions, []
        for text, line, scope in self.statements:
            first.append(len(instructions))
            instruction = self._instruction(text, line, scope)
            if not self._inline(instruction):
                instructions.append(instruction)
        first.append(len(instructions))
        self.kernel.labels |= {name: first[number] for name, number in self.labels.items()}

    def _instruction(self, text: str, line: int, scope: Scope) -> Instruction:
        match = INSTRUCTION.fullmatch(text)
        if match is None:
            raise ParseError(f"`{text}` is no instruction", line)
        listed = split_operands(match["operands"])
        operands = [NAME.sub(lambda name: self._unique(name[0], scope), operand) for operand in listed]
        opcode, modifiers = match["opcode"], match["modifiers"].split(".")[1:]
        if opcode == "ret" and self.return_label:
            opcode, operands = "bra", [self.return_label]
        if "param" in modifiers and any(self._is_call_parameter(operand) for operand in operands):
            modifiers[modifiers.index("param")] = "local"
        return Instruction(
            opcode=opcode,
            modifiers=tuple(modifiers),
            operands=tuple(operands),
            predicate=match["predicate"] and self._unique(match["predicate"], scope),
            negated=match["negated"] == "!",
            text=text,
            line=line,
        )

    def _unique(self, name: str, scope: Scope | None) -> str:
        """The name that stands for this one in the innermost block that declares it."""
        while scope is not None:
            if (type_ := scope.register(name)) is not None:
                self.kernel.registers[scope.prefix + name] = type_
                return scope.prefix + name
            if name in scope.others:
                return scope.others[name]
            scope = scope.outer
        return name

    def _is_call_parameter(self, operand: str) -> bool:
        address = ADDRESS.fullmatch(operand)
        return address is not None and address[1] in self.call_parameters

    def _inline(self, call: Instruction) -> bool:
        """Puts the function's body in the place of its call, if it is known and does not call itself."""
        name = next((operand for operand in call.operands if operand in self.device_functions), None)
        if call.opcode != "call" or name is None or name in self.callers:
            return False
        callee = self.device_functions[name]
        passed = [
            each for group in call.operands if group.startswith("(") for each in split_operands(group.strip("()"))
        ]
        if len(passed) != len(callee.parameters):
            return False
        prefix = f"{name}@{len(self.kernel.instructions)}:"
        end = f"{prefix}end"
        if call.predicate:
            skip = replace(call, opcode="bra", modifiers=(), operands=(end,), negated=not call.negated)
            self.kernel.instructions.append(skip)
        body = FunctionBody(copy.copy(callee.source), self.kernel, self.device_functions)
        body.scope = Scope(prefix, None, others=dict(zip(callee.parameters, passed, strict=True)))
        body.call_parameters, body.callers, body.return_label = self.call_parameters, (*self.callers, name), end
        body.parse()
        self.kernel.labels[end] = len(self.kernel.instructions)
        return True

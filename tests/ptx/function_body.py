"""The statements of a function.

Blocks in braces, which inline assembly brings, may declare registers and labels that hide those outside. Every name is
made unique here, so that the rest of the package sees one flat list of instructions.
"""

import re
from dataclasses import dataclass, field

from .declarations import place_variable, type_named, variable
from .errors import ParseError
from .program import Function, Instruction
from .source import Source, split_operands
from .types import Type

REGISTERS = re.compile(r"\.reg\s*\.(\w+)\s*(.*)")
LABEL = re.compile(r"([\w$%]+)\s*:(?!:)")
BRANCH_TABLE = re.compile(r"\s*\.branchtargets\b([^;]*);")
INSTRUCTION = re.compile(
    r"(?:@(?P<negated>!?)\s*(?P<predicate>[\w$%]+)\s+)?(?P<opcode>[a-z]\w*)(?P<modifiers>[\w.:]*)(?P<operands>.*)"
)
NAME = re.compile(r"(?<![\w$%.])[%$A-Za-z_][\w$%]*")


@dataclass
class Scope:
    """The names that a block in braces declares."""

    prefix: str
    outer: "Scope | None"
    registers: dict[str, Type] = field(default_factory=dict)
    numbered: dict[str, tuple[int, Type]] = field(default_factory=dict)  # %r<8> declares %r0 to %r7
    labels: set[str] = field(default_factory=set)

    def register(self, name: str) -> Type | None:
        """The type of a register, if this block declares it."""
        stem = name.rstrip("0123456789")
        count, type_ = self.numbered.get(stem, (0, None))
        if name != stem and int(name[len(stem) :]) < count:
            return type_
        return self.registers.get(name)


class FunctionBody:
    """Reads the statements up to the function's closing brace. Branches go forward too, so names are resolved last."""

    def __init__(self, source: Source, function: Function):
        self.source, self.function = source, function
        self.scope: Scope | None = Scope("", None)
        self.scopes = 1
        self.statements: list[tuple[str, int, Scope]] = []

    def parse(self) -> None:
        while self.scope is not None:
            character = self.source.next_character()
            if not character:
                raise self.source.error("the text ends within a function")
            if character == "{":
                self.source.position += 1
                self.scopes += 1
                self.scope = Scope(f"{self.scopes}:", self.scope)
            elif character == "}":
                self.source.position += 1
                self.scope = self.scope.outer
            elif label := self.source.match(LABEL):
                self._label(label[1])
            else:
                line = self.source.line
                self._declare_or_keep(self.source.statement(), line)
        self.function.instructions = [self._instruction(*statement) for statement in self.statements]

    def _label(self, name: str) -> None:
        self.scope.labels.add(name)
        unique = self.scope.prefix + name
        if table := self.source.match(BRANCH_TABLE):
            self.function.branch_tables[unique] = [target.strip() for target in table[1].split(",")]
        else:
            self.function.labels[unique] = len(self.statements)

    def _declare_or_keep(self, statement: str, line: int) -> None:
        if match := REGISTERS.fullmatch(statement):
            self._declare_registers(match[2], type_named(match[1], self.source))
        elif declared := variable(statement, self.source):
            place_variable(self.function, declared)
        elif not statement.startswith((".pragma", ".param")):  # .param is for calls, which are refused
            self.statements.append((statement, line, self.scope))

    def _declare_registers(self, names: str, type_: Type) -> None:
        for name in split_operands(names):
            if numbered := re.fullmatch(r"(.*)<(\d+)>", name):
                self.scope.numbered[numbered[1]] = int(numbered[2]), type_
            else:
                self.scope.registers[name] = type_

    def _instruction(self, text: str, line: int, scope: Scope) -> Instruction:
        match = INSTRUCTION.fullmatch(text)
        if match is None:
            raise ParseError(f"`{text}` is no instruction", line)
        operands = [
            NAME.sub(lambda name: self._unique(name[0], scope), each) for each in split_operands(match["operands"])
        ]
        return Instruction(
            opcode=match["opcode"],
            modifiers=tuple(match["modifiers"].split(".")[1:]),
            operands=tuple(operands),
            predicate=match["predicate"] and self._unique(match["predicate"], scope),
            negated=match["negated"] == "!",
            text=text,
            line=line,
        )

    def _unique(self, name: str, scope: Scope | None) -> str:
        """The name with the prefix of the innermost block that declares it."""
        while scope is not None:
            if (type_ := scope.register(name)) is not None:
                self.function.registers[scope.prefix + name] = type_
                return scope.prefix + name
            if name in scope.labels:
                return scope.prefix + name
            scope = scope.outer
        return name

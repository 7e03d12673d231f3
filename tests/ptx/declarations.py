"""Declarations of variables and parameters."""

import re

from .literals import constant
from .program import Function, Parameter, Variable
from .source import Source, split_operands
from .types import TYPES, Type

LINKAGE = r"(?:\.(?:visible|weak|extern|common)\s+)*"
VARIABLE = re.compile(
    LINKAGE
    + r"\.(?P<space>shared|local|global|const)\s+(?:\.align\s+(?P<alignment>\d+)\s+)?(?:\.v(?P<vector>[248])\s*)?"
    r"\.(?P<type>\w+)\s+(?P<name>[\w$%]+)\s*(?P<dimensions>(?:\[\s*\d*\s*\])*)\s*(?:=\s*(?P<initial>.*))?"
)
PARAMETER = re.compile(
    r"\.param\s+(?:\.align\s+(?P<alignment>\d+)\s+)?\.(?P<type>\w+)\s+"
    r"(?:\.ptr\s+(?:\.(?:global|const|shared|local)\s+)?(?:\.align\s+\d+\s+)?)?"
    r"(?P<name>[\w$%]+)\s*(?:\[(?P<length>\d+)\])?"
)


def type_named(name: str, source: Source) -> Type:
    if name not in TYPES:
        raise source.error(f"type .{name} is not modelled")
    return TYPES[name]


def variable(statement: str, source: Source) -> Variable | None:
    """The variable that the statement declares, if it declares one."""
    if not (match := VARIABLE.fullmatch(statement)):
        return None
    type_ = type_named(match["type"], source)
    count = int(match["vector"] or 1)
    for length in re.findall(r"\[\s*(\d*)\s*\]", match["dimensions"]):
        count *= int(length or 0)  # without a length it is dynamic shared memory, which the launch adds
    alignment = int(match["alignment"] or type_.size)
    data = _initial_bytes(match["initial"] or "", type_, source)
    return Variable(match["name"], match["space"], count * type_.size, alignment, data)


def _initial_bytes(text: str, type_: Type, source: Source) -> bytes:
    values = [constant(each, type_) for each in re.sub(r"[{},]", " ", text).split()]
    if any(value is None for value in values):
        raise source.error(f"initial value `{text}` is not understood")
    return b"".join(value.tobytes() for value in values)


def add_parameters(function: Function, text: str, source: Source) -> None:
    """Lays out the parameters, one behind the other as their alignment allows."""
    offset = 0
    for declaration in split_operands(text):
        match = PARAMETER.fullmatch(declaration)
        if match is None:
            raise source.error(f"parameter `{declaration}` is not understood")
        type_ = type_named(match["type"], source)
        size = type_.size * int(match["length"] or 1)
        offset = round_up(offset, int(match["alignment"] or type_.size))
        function.parameters.append(Parameter(match["name"], type_, offset, size))
        offset += size


def place_variable(function: Function, declared: Variable) -> None:
    """Gives a shared or local variable its place, unless it has one: a function may be called more than once."""
    if declared.name in function.offsets:
        return
    used = f"{declared.space}_bytes"
    offset = round_up(getattr(function, used), declared.alignment)
    function.offsets[declared.name] = offset
    setattr(function, used, offset + declared.size)


def use_module_variables(function: Function, variables: dict[str, Variable]) -> None:
    """Gives a kernel the variables that are declared outside of it."""
    function.module_variables = {name: each for name, each in variables.items() if each.space in ("global", "const")}
    shared = [each for each in variables.values() if each.space == "shared"]
    for declared in shared:
        if declared.size:
            place_variable(function, declared)
    dynamic = [each for each in shared if not each.size]
    if dynamic:  # all of them are names of one place, behind what is static
        function.shared_bytes = round_up(function.shared_bytes, max(each.alignment for each in dynamic))
        function.offsets |= {each.name: function.shared_bytes for each in dynamic}


def round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple

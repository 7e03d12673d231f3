"""From PTX text to a `Module`."""

import math
import re

from .declarations import LINKAGE, add_parameters, use_module_variables, variable
from .function_body import FunctionBody
from .program import Function, Module
from .source import Source

FUNCTION = re.compile(LINKAGE + r"\.(entry|func)\b")


def parse(text: str) -> Module:
    """Reads the PTX of one module."""
    source = Source(text)
    functions, variables = {}, {}
    while source.next_character():
        if header := source.match(FUNCTION):
            if (function := _function(header[1], source)) is not None:
                functions[function.name] = function
        elif declared := variable(statement := source.statement(), source):
            variables[declared.name] = declared
        elif not statement.startswith(".pragma"):
            raise source.error(f"`{statement}` is not understood")
    for function in functions.values():
        use_module_variables(function, variables)
    return Module(functions)


def _function(kind: str, source: Source) -> Function | None:
    """The kernel that begins here. Device functions are passed over: the call of one is what is not modelled."""
    heading, delimiter = source.up_to("{;")
    if delimiter == ";":
        return None  # declared, and defined elsewhere
    if kind == "func":
        source.skip_block()
        return None
    function = _heading(heading, source)
    FunctionBody(source, function).parse()
    return function


def _heading(text: str, source: Source) -> Function:
    """A kernel's name, its parameters, and the block that it demands."""
    name, parameters, directives = re.fullmatch(r"\s*([\w$]+)\s*(?:\((.*?)\))?(.*)", text, re.DOTALL).groups()
    function = Function(name)
    add_parameters(function, parameters or "", source)
    extents = {
        directive: tuple(int(extent) for extent in values.split(","))
        for directive, values in re.findall(r"\.(\w+)\s+(\d+(?:\s*,\s*\d+)*)", directives)
    }
    function.required_block = extents.get("reqntid")
    if "maxntid" in extents:
        function.most_threads = math.prod(extents["maxntid"])
    if math.prod(extents.get("reqnctapercluster", (1,))) > 1:
        raise source.error("clusters of blocks are not modelled")
    return function

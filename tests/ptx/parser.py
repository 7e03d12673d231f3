"""From PTX text to a `Module`."""

import copy
import math
import re

from .declarations import LINKAGE, PARAMETER, add_parameters, use_module_variables, variable
from .function_body import DeviceFunction, FunctionBody
from .program import Function, Module
from .source import Source, split_operands

FUNCTION = re.compile(LINKAGE + r"\.(entry|func)\b")
DEVICE_FUNCTION = re.compile(r"\s*(?:\(([^)]*)\))?\s*([\w$]+)\s*(?:\(([^)]*)\))?")


def parse(text: str) -> Module:
    """Reads the PTX of one module."""
    source = Source(text)
    kernels, device_functions, variables = [], {}, {}
    while source.next_character():
        if header := source.match(FUNCTION):
            heading, delimiter = source.up_to("{;")
            if delimiter == ";":
                continue  # declared here and defined elsewhere
            if header[1] == "entry":
                kernels.append((_kernel(heading, source), copy.copy(source)))
            elif (function := _device_function(heading, source)) is not None:
                device_functions[function.name] = function
            source.skip_block()
        elif declared := variable(statement := source.statement(), source):
            variables[declared.name] = declared
        elif not statement.startswith(".pragma"):
            raise source.error(f"`{statement}` is not understood")
    for kernel, body in kernels:
        FunctionBody(body, kernel, device_functions).parse()
        use_module_variables(kernel, variables)
    return Module({kernel.name: kernel for kernel, _ in kernels})


def _device_function(heading: str, source: Source) -> DeviceFunction | None:
    """The function, if its parameters are passed in memory as of today; otherwise its calls are not modelled."""
    match = DEVICE_FUNCTION.match(heading)
    parameters = [PARAMETER.fullmatch(each) for group in match.group(1, 3) for each in split_operands(group or "")]
    if not all(parameters):
        return None
    return DeviceFunction(match[2], tuple(parameter["name"] for parameter in parameters), copy.copy(source))


def _kernel(text: str, source: Source) -> Function:
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

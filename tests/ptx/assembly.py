"""Small kernels for the tests of this package."""

import numpy as np

from . import launch, parse
from .launch import Argument
from .report import Report

HEADER = ".version 9.0\n.target sm_90\n.address_size 64\n"
SUFFIXES = {1: "8", 2: "16", 4: "32", 8: "64"}


def kernel(body: str, parameters: int = 1, declarations: str = "") -> str:
    """A kernel of pointers. The body finds them in %rd0, %rd1, ..., the thread in %r0 and the block in %r1."""
    listed = ", ".join(f".param .u64 p{number}" for number in range(parameters))
    loads = "\n".join(f"ld.param.u64 %rd{number}, [p{number}];" for number in range(parameters))
    return f"""{HEADER}
        {declarations}
        .visible .entry kernel({listed})
        {{
            .reg .pred %p<40>;
            .reg .b16 %rs<40>;
            .reg .b32 %r<40>;
            .reg .b64 %rd<40>;
            {loads}
            mov.u32 %r0, %tid.x;
            mov.u32 %r1, %ctaid.x;
            {body}
            ret;
        }}"""


def run(body: str, *arguments: Argument, grid: int = 1, block: int = 32, declarations: str = "", **options) -> Report:
    """Runs a kernel of pointers, one an argument."""
    text = kernel(body, len(arguments), declarations)
    return launch(parse(text)["kernel"], (grid,), (block,), arguments, **options)


def evaluate(instructions: str, result: type | str, *operands: np.ndarray) -> np.ndarray:
    """What instructions make of the operands, element by element.

    The instructions name their operands {a}, {b}, ... and their result {d}; predicates are bool.
    """
    operands = [np.ascontiguousarray(operand) for operand in np.broadcast_arrays(*operands)]
    out = np.zeros(operands[0].size, result)
    names = dict(
        zip("abcefg", (f"%{_register(operand.dtype)}{20 + n}" for n, operand in enumerate(operands)), strict=False)
    )
    names["d"] = f"%{_register(out.dtype)}30"
    body = [
        "mov.u32 %r2, %ntid.x;",
        "mad.lo.u32 %r2, %r1, %r2, %r0;",
        f"setp.ge.u32 %p0, %r2, {out.size};",
        "@%p0 ret;",
        *(
            _load(number, name, operand.dtype)
            for number, (name, operand) in enumerate(zip(names.values(), operands, strict=False))
        ),
        instructions.format(**names),
        _store(len(operands), names["d"], out.dtype),
    ]
    run("\n".join(body), *(operand.ravel() for operand in operands), out, grid=-(-out.size // 128), block=128)
    return out.reshape(operands[0].shape)


def _register(dtype: np.dtype) -> str:
    """Which registers hold it."""
    return "p" if dtype.kind == "b" else {1: "rs", 2: "rs", 4: "r", 8: "rd"}[dtype.itemsize]


def _place(number: int, dtype: np.dtype) -> str:
    return f"mad.wide.u32 %rd31, %r2, {dtype.itemsize}, %rd{number};"


def _load(number: int, register: str, dtype: np.dtype) -> str:
    if dtype.kind == "b":
        return f"{_place(number, dtype)} ld.global.u8 %rs31, [%rd31]; setp.ne.u16 {register}, %rs31, 0;"
    return f"{_place(number, dtype)} ld.global.b{SUFFIXES[dtype.itemsize]} {register}, [%rd31];"


def _store(number: int, register: str, dtype: np.dtype) -> str:
    if dtype.kind == "b":
        return f"{_place(number, dtype)} selp.u16 %rs32, 1, 0, {register}; st.global.u8 [%rd31], %rs32;"
    return f"{_place(number, dtype)} st.global.b{SUFFIXES[dtype.itemsize]} [%rd31], {register};"

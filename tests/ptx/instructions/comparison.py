"""Comparisons, and choices that depend on them."""

from collections.abc import Callable

import numpy as np

from ..decoder import Decoder
from ..floats import flush_subnormals, widen
from ..steps import Execute, Step
from ..threads import Active
from ..types import TYPES, Type, unpack
from .registry import instruction

COMPARISONS = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "lo": np.less,
    "ls": np.less_equal,
    "hi": np.greater,
    "hs": np.greater_equal,
}
UNORDERED = {"equ": "eq", "neu": "ne", "ltu": "lt", "leu": "le", "gtu": "gt", "geu": "ge"}
COMBINATIONS = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}


def _comparison(name: str, type_: Type, *, flushes: bool):
    """The comparison as a function. Of floats the plain ones are false where there is a NaN, the others true."""
    if type_.kind != "f":
        return COMPARISONS[name]

    def compare(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        a, b = widen(a, type_), widen(b, type_)
        if flushes:
            a, b = flush_subnormals(a), flush_subnormals(b)
        nan = np.isnan(a) | np.isnan(b)
        if name in ("num", "nan"):
            return nan if name == "nan" else ~nan
        if name in UNORDERED:
            return COMPARISONS[UNORDERED[name]](a, b) | nan
        return COMPARISONS[name](a, b) & ~nan

    return compare


def _decode(decoder: Decoder) -> Callable[[Active], tuple[np.ndarray, np.ndarray]]:
    """The parts that `setp` and `set` share: the outcome, and the opposite one or that of the upper lane of a pair."""
    name = decoder.take(*COMPARISONS, *UNORDERED, "num", "nan")
    combination = COMBINATIONS.get(decoder.take(*COMBINATIONS, default=""))
    flushes, type_ = decoder.flag("ftz"), decoder.type("busf", packed=True)
    if type_.kind != "f" and name not in COMPARISONS:
        raise decoder.unsupported(f"comparison .{name} of .{type_.name}")
    compare = _comparison(name, type_.element, flushes=flushes)
    a, b = decoder.source(1, type_), decoder.source(2, type_)
    other = decoder.predicate(3) if combination else None

    def outcomes(active: Active) -> tuple[np.ndarray, np.ndarray]:
        if type_.lanes == 2:
            pair = [compare(*lanes) for lanes in zip(unpack(a(active), type_), unpack(b(active), type_), strict=True)]
        else:
            result = compare(a(active), b(active))
            pair = [result, ~result]
        if combination is None:
            return tuple(pair)
        condition = other(active)
        return tuple(combination(each, condition) for each in pair)

    return outcomes


@instruction("setp")
def set_predicate(decoder: Decoder) -> Step:
    first, second = decoder.pair(0)
    writes = [decoder.write(first), decoder.write(second)]
    outcomes = _decode(decoder)

    def execute(active: Active) -> None:
        for write, outcome in zip(writes, outcomes(active), strict=True):
            write(active, outcome)

    return execute


@instruction("set")
def set_number(decoder: Decoder) -> Step:
    """`set`: 1.0 or 0.0, or as an integer all ones or zeros."""
    types = [modifier for modifier in decoder.modifiers if modifier in TYPES]
    result_type = TYPES[types[0]]
    if result_type.name not in ("f32", "u32", "s32"):
        raise decoder.unsupported(f"set.{result_type.name}")
    decoder.modifiers.remove(result_type.name)
    if TYPES[types[1]].lanes > 1:
        raise decoder.unsupported("a comparison of packed numbers")
    write, outcomes = decoder.destination(0), _decode(decoder)
    true = np.array([1 if result_type.kind == "f" else -1]).astype(result_type.dtype)

    def execute(active: Active) -> None:
        write(active, np.where(outcomes(active)[0], true, result_type.dtype.type(0)))

    return execute


@instruction("selp")
def select(decoder: Decoder) -> Execute:
    """The first operand where the predicate is set, else the second."""
    type_ = decoder.type()
    write, a, b = decoder.destination(0), decoder.source(1, type_), decoder.source(2, type_)
    condition = decoder.predicate(3)
    return lambda active: write(active, np.where(condition(active), a(active), b(active)))


@instruction("slct")
def select_by_sign(decoder: Decoder) -> Execute:
    """The first operand where the third is not negative, else the second."""
    flushes, type_, sign_type = decoder.flag("ftz"), decoder.type(), decoder.type()
    write, a, b = decoder.destination(0), decoder.source(1, type_), decoder.source(2, type_)
    sign = decoder.source(3, sign_type)

    def execute(active: Active) -> None:
        values = flush_subnormals(sign(active)) if flushes else sign(active)
        write(active, np.where(values >= 0, a(active), b(active)))

    return execute

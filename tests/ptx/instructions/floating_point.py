"""Floating-point arithmetic.

Instructions marked .approx return the correctly rounded result here, which is nearer than the GPU's.
"""

from collections.abc import Callable

import numpy as np

from ..decoder import Decoder
from ..floats import (
    add_to_odd,
    canonical,
    flush_subnormals,
    fma64,
    fma_to_odd,
    narrow,
    saturate,
    widen,
)
from ..steps import Step
from ..types import Type, lanewise
from .registry import instruction

Function = Callable[..., np.ndarray]

ROUNDINGS = ("rn", "rz", "rm", "rp")


def add(decoder: Decoder) -> Step:
    return _arithmetic(decoder, 2, np.add, add_to_odd)


def subtract(decoder: Decoder) -> Step:
    return _arithmetic(decoder, 2, np.subtract, lambda a, b, mode: add_to_odd(a, -b, mode))


def multiply(decoder: Decoder) -> Step:
    return _arithmetic(decoder, 2, np.multiply, lambda a, b, mode: a * b)  # exact in float64


@instruction("fma")
def multiply_add(decoder: Decoder) -> Step:
    """`fma`, and `mad` of floats, which is the same."""
    return _arithmetic(decoder, 3, fma64, fma_to_odd)


def _arithmetic(decoder: Decoder, operands: int, native: Function, to_odd: Function) -> Step:
    """A function of floats rounded once: by NumPy where it has it in this format and mode, else by way of float64."""
    type_, mode = decoder.type("f", packed=True), decoder.take(*ROUNDINGS, default="rn")
    element = type_.element
    if element.name == "f64" and mode != "rn":
        raise decoder.unsupported(f"rounding .{mode} of float64")
    if element.name == "f64" or (element.name == "f32" and mode == "rn" and operands == 2):
        function = native
    else:

        def function(*values: np.ndarray) -> np.ndarray:
            wide = np.broadcast_arrays(*(widen(value, element).astype(np.float64) for value in values))
            return narrow(to_odd(*map(np.ascontiguousarray, wide), mode), element, mode)

    return decoder.elementwise(_finished(decoder, function, type_), *[type_] * operands)


def _finished(decoder: Decoder, function: Function, type_: Type) -> Function:
    """The function with what modifiers do to its operands and its result, over all lanes of a packed type."""
    element = type_.element
    flushes, saturates, rectifies = decoder.flag("ftz"), decoder.flag("sat"), decoder.flag("relu")
    if (flushes and element.name != "f32") or (rectifies and element.name not in ("f16", "bf16")):
        raise decoder.unsupported(f".ftz or .relu of {type_.name}")

    def apply(*values: np.ndarray) -> np.ndarray:
        result = function(*map(flush_subnormals, values)) if flushes else function(*values)
        if element.name == "f32":
            result = canonical(result, np.isnan(result))
        if flushes:
            result = flush_subnormals(result)
        if saturates:
            result = narrow(saturate(widen(result, element)).astype(np.float64), element)
        if rectifies:
            wide = widen(result, element)
            result = narrow(np.where(wide <= 0, 0, wide).astype(np.float64), element)
        return result

    return lanewise(apply, type_)


@instruction("rcp", "sqrt", "rsqrt", "ex2", "lg2", "sin", "cos", "tanh")
def unary(decoder: Decoder) -> Step:
    functions = {
        "rcp": np.reciprocal,
        "sqrt": np.sqrt,
        "rsqrt": lambda a: 1 / np.sqrt(a),
        "ex2": np.exp2,
        "lg2": np.log2,
        "sin": np.sin,
        "cos": np.cos,
        "tanh": np.tanh,
    }
    function = functions[decoder.opcode]
    accuracy, type_ = decoder.take("approx", "rn"), decoder.type("f", packed=True)
    element = type_.element
    if element.name == "f64":
        if accuracy == "approx":
            decoder.take("ftz")
            return decoder.elementwise(_from_upper_half(function), type_)
        return decoder.elementwise(function, type_)

    def rounded(a: np.ndarray) -> np.ndarray:
        if accuracy == "rn" and element.name == "f32":
            return function(a)
        return narrow(function(widen(a, element).astype(np.float64)), element)

    if element.name == "bf16":
        decoder.ignore(["ftz"])  # mandatory there
    return decoder.elementwise(_finished(decoder, rounded, type_), type_)


def _from_upper_half(function: Function) -> Function:
    """The approximations of float64, which look at its upper 32 bits and return as many."""
    upper = np.uint64(0xFFFF_FFFF_0000_0000)

    def approximate(a: np.ndarray) -> np.ndarray:
        coarse = (a.view(np.uint64) & upper).view(np.float64)
        smallest = np.finfo(np.float64).smallest_normal
        coarse = np.where(np.abs(coarse) < smallest, np.copysign(0.0, coarse), coarse)
        return (function(coarse).view(np.uint64) & upper).view(np.float64)

    return approximate


def divide(decoder: Decoder) -> Step:
    decoder.take("approx", "full", "rn")
    type_ = decoder.type("f")
    return decoder.elementwise(_finished(decoder, np.divide, type_), type_, type_)


def minimum_or_maximum(decoder: Decoder) -> Step:
    """The other operand where one is NaN, or NaN with .NaN; -0 is less than +0."""
    type_, propagates = decoder.type("f", packed=True), decoder.flag("NaN")
    element, lowest = type_.element, decoder.opcode == "min"
    choose = {"min": (np.fmin, np.minimum), "max": (np.fmax, np.maximum)}[decoder.opcode][propagates]
    sign = np.bitwise_or if lowest else np.bitwise_and

    def chosen(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        wide_a, wide_b = widen(a, element), widen(b, element)
        result = choose(wide_a, wide_b)
        zeros = (wide_a == 0) & (wide_b == 0)
        if zeros.any():
            bits = f"u{result.itemsize}"
            result = np.where(zeros, sign(wide_a.view(bits), wide_b.view(bits)).view(result.dtype), result)
        return narrow(result.astype(np.float64), element) if element.size == 2 else result

    def of_all(first: np.ndarray, *rest: np.ndarray) -> np.ndarray:
        for other in rest:
            first = chosen(first, other)
        return first

    sources = decoder.operand_count - 1
    return decoder.elementwise(_finished(decoder, of_all, type_), *[type_] * sources)


def negate_or_absolute(decoder: Decoder) -> Step:
    """Changes the sign bit alone, of a NaN too."""
    type_, flushes = decoder.type("f", packed=True), decoder.flag("ftz")
    element = type_.element
    sign = element.unsigned.type(1 << element.bits - 1)
    operation = {"neg": lambda bits: bits ^ sign, "abs": lambda bits: bits & ~sign}[decoder.opcode]

    def changed(a: np.ndarray) -> np.ndarray:
        result = operation(a.view(element.unsigned)).view(element.dtype)
        return flush_subnormals(result) if flushes else result

    return decoder.elementwise(lanewise(changed, type_), type_)


@instruction("copysign")
def copy_sign(decoder: Decoder) -> Step:
    """The magnitude of the second operand with the sign of the first."""
    type_ = decoder.type("f")
    return decoder.elementwise(lambda sign, magnitude: np.copysign(magnitude, sign), type_, type_)


@instruction("testp")
def test_property(decoder: Decoder) -> Step:
    smallest = {4: np.finfo(np.float32).smallest_normal, 8: np.finfo(np.float64).smallest_normal}
    tests = {
        "finite": np.isfinite,
        "infinite": np.isinf,
        "number": lambda a: ~np.isnan(a),
        "notanumber": np.isnan,
        "normal": lambda a: np.isfinite(a) & (np.abs(a) >= smallest[a.itemsize]),
        "subnormal": lambda a: (a != 0) & (np.abs(a) < smallest[a.itemsize]),
    }
    test = tests[decoder.take(*tests)]
    return decoder.elementwise(test, decoder.type("f"))

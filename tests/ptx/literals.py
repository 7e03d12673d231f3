"""PTX's constants."""

import re

import numpy as np

from .types import Type

FLOAT_BITS = re.compile(r"0[fF]([0-9a-fA-F]{8})|0[dD]([0-9a-fA-F]{16})")
INTEGER = re.compile(r"(-?)(0[xX][0-9a-fA-F]+|0[bB][01]+|0[0-7]*|[1-9]\d*)U?")
DECIMAL = re.compile(r"-?\d+\.\d*(?:[eE][+-]?\d+)?")


def integer(text: str) -> int | None:
    """The value of an integer constant; None for any other text."""
    if text == "WARP_SZ":
        return 32
    if not (match := INTEGER.fullmatch(text)):
        return None
    sign, digits = match.groups()
    octal = digits[0] == "0" and digits.isdigit()
    value = int(digits, 8 if octal else 0)
    return -value if sign else value


def constant(text: str, type_: Type) -> np.ndarray | None:
    """A constant as an array of one element of the type; None where the text is no constant of it."""
    if match := FLOAT_BITS.fullmatch(text):
        single, double = match.groups()
        value = np.array([int(single or double, 16)], np.uint32 if single else np.uint64)
        if value.itemsize == type_.size:
            return value.view(type_.dtype)
        return value.view(np.float32 if single else np.float64).astype(type_.dtype) if _is_number(type_) else None
    if DECIMAL.fullmatch(text):
        return np.array([float(text)], type_.dtype) if _is_number(type_) else None
    if (value := integer(text)) is None:
        return None
    if type_.kind == "p":
        return np.array([value != 0])
    if _is_number(type_):
        return np.array([value], type_.dtype)
    # Of 16-bit floats, which have no notation of their own, this is the bits.
    return np.array([value & ((1 << type_.bits) - 1)], type_.unsigned).view(type_.dtype)


def _is_number(type_: Type) -> bool:
    return type_.name in ("f32", "f64")

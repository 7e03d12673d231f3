"""`cvt`: from one type to another."""

import numpy as np

from ..decoder import Decoder
from ..floats import add_to_odd, flush_subnormals, narrow, saturate, widen
from ..steps import Step
from ..types import Type, pack
from .floating_point import ROUNDINGS
from .registry import instruction

TO_INTEGRAL = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}


@instruction("cvt")
def convert(decoder: Decoder) -> Step:
    rounding = decoder.take(*ROUNDINGS, "rna", *TO_INTEGRAL, default="")
    target, source = decoder.type("usf", packed=True), decoder.type("usf")
    flushes, saturates, rectifies = decoder.flag("ftz"), decoder.flag("sat"), decoder.flag("relu")
    if rectifies and target.element.name not in ("f16", "bf16"):
        raise decoder.unsupported(f".relu to .{target.name}")
    if target.lanes == 2 and source.name == "f32" and rounding in ("rn", "rz") and not (flushes or saturates):
        return _to_pair(decoder, target, source, rounding, rectifies)
    if target.lanes > 1 or source.lanes > 1 or source.name == "tf32":
        raise decoder.unsupported(f"conversion from .{source.name} to .{target.name}")
    if target.kind != "f":
        if source.kind != "f":
            return decoder.elementwise(_integer_to_integer(target, saturates=saturates), source)
        if rounding not in TO_INTEGRAL:
            raise decoder.unsupported("a conversion to an integer without its rounding")
        return decoder.elementwise(_float_to_integer(target, source, rounding, flushes=flushes), source)
    if (rounding == "rna") != (target.name == "tf32" and rounding != "rn"):
        raise decoder.unsupported(f"rounding .{rounding} to .{target.name}")
    if source.kind != "f":
        if target.name == "f64" and source.size == 8 and rounding != "rn":
            raise decoder.unsupported(f"rounding .{rounding} of 64-bit integers to float64")
        to_float64 = _integer_to_float64(target, source)
    else:
        to_float64 = _float_to_float64(source, target, rounding, flushes=flushes)

    def to_float(values: np.ndarray) -> np.ndarray:
        wide = to_float64(values)
        if saturates:
            wide = saturate(wide)
        if rectifies:
            wide = np.where(wide <= 0, 0, wide)
        result = narrow(wide, target, "rn" if rounding in ("", *TO_INTEGRAL) else rounding)
        return flush_subnormals(result) if flushes and target.name == "f32" else result

    return decoder.elementwise(to_float, source)


def _to_pair(decoder: Decoder, target: Type, source: Type, rounding: str, rectifies: bool) -> Step:
    """Two float32 to a packed pair, of which the first operand becomes the upper half."""

    def one(values: np.ndarray) -> np.ndarray:
        wide = values.astype(np.float64)
        return narrow(np.where(wide <= 0, 0, wide) if rectifies else wide, target.element, rounding)

    return decoder.elementwise(lambda high, low: pack([one(low), one(high)], target.dtype), source, source)


def _integer_to_integer(target: Type, *, saturates: bool):
    def convert(values: np.ndarray) -> np.ndarray:
        if saturates:
            of_target, of_source = np.iinfo(target.dtype), np.iinfo(values.dtype)
            values = np.clip(values, max(of_target.min, of_source.min), min(of_target.max, of_source.max))
        return values.astype(target.dtype)

    return convert


def _float_to_integer(target: Type, source: Type, rounding: str, *, flushes: bool):
    """To the nearest integer that the target has; NaN to 0, or to the highest bit alone where 64 bits are involved."""
    limits = np.iinfo(target.dtype)
    of_nan = 1 << target.bits - 1 if 8 in (target.size, source.size) else 0
    of_nan = np.array([of_nan], target.unsigned).view(target.dtype)

    def convert(values: np.ndarray) -> np.ndarray:
        wide = widen(values, source)
        wide = flush_subnormals(wide) if flushes and source.name == "f32" else wide
        integral = TO_INTEGRAL[rounding](wide.astype(np.float64))
        # The largest 64-bit integers are no float64: what is not below them has to be caught before the cast.
        above, below, nan = integral >= float(limits.max), integral <= float(limits.min), np.isnan(integral)
        result = np.where(above | below | nan, 0, integral).astype(target.dtype)
        result = np.where(above, target.dtype.type(limits.max), np.where(below, target.dtype.type(limits.min), result))
        return np.where(nan, of_nan, result)

    return convert


def _integer_to_float64(target: Type, source: Type):
    def convert(values: np.ndarray) -> np.ndarray:
        if source.size < 8 or target.name == "f64":
            return values.astype(np.float64)
        # The sum of both halves, each of which is exact: rounded to odd, for a narrower format to round again.
        low = values & source.dtype.type(0xFFFF_FFFF)
        return add_to_odd((values - low).astype(np.float64), low.astype(np.float64))

    return convert


def _float_to_float64(source: Type, target: Type, rounding: str, *, flushes: bool):
    def convert(values: np.ndarray) -> np.ndarray:
        wide = widen(values, source)
        wide = flush_subnormals(wide) if flushes and source.name == "f32" else wide
        wide = wide.astype(np.float64)
        return TO_INTEGRAL[rounding](wide) if rounding in TO_INTEGRAL else wide

    return convert

"""PTX's fundamental types and the NumPy types that hold them."""

from dataclasses import dataclass

import numpy as np

UNSIGNED = {1: np.dtype(np.uint8), 2: np.dtype(np.uint16), 4: np.dtype(np.uint32), 8: np.dtype(np.uint64)}
SIGNED = {1: np.dtype(np.int8), 2: np.dtype(np.int16), 4: np.dtype(np.int32), 8: np.dtype(np.int64)}


@dataclass(frozen=True)
class Type:
    """One type: `dtype` is how an operand of it looks in NumPy, bits only where NumPy has no such number."""

    name: str
    kind: str  # "b" bits, "u" unsigned, "s" signed, "f" float, "p" predicate
    dtype: np.dtype
    lanes: int = 1

    @property
    def size(self) -> int:
        return self.dtype.itemsize

    @property
    def bits(self) -> int:
        return 8 * self.size

    @property
    def unsigned(self) -> np.dtype:
        """The plain bits of this type, which is how registers and memory keep them."""
        return self.dtype if self.kind == "p" else UNSIGNED[self.size]

    @property
    def element(self) -> "Type":
        """The type of one lane of a packed type; any other type is its own element."""
        return TYPES[self.name.removesuffix("x2")]

    @property
    def wide(self) -> "Type":
        """The integer type of twice the width."""
        return TYPES[f"{self.kind}{2 * self.bits}"]


def _types() -> dict[str, Type]:
    types = [Type("pred", "p", np.dtype(bool))]
    for size in UNSIGNED:
        types += [Type(f"{kind}{8 * size}", kind, UNSIGNED[size]) for kind in "bu"]
        types += [Type(f"s{8 * size}", "s", SIGNED[size])]
    types += [Type(f"f{bits}", "f", np.dtype(f"f{bits // 8}")) for bits in (16, 32, 64)]
    types += [Type("bf16", "f", UNSIGNED[2]), Type("tf32", "f", UNSIGNED[4])]
    types += [Type(f"{name}x2", "f", UNSIGNED[4], lanes=2) for name in ("f16", "bf16")]
    types += [Type("f32x2", "f", UNSIGNED[8], lanes=2)]
    types += [Type(f"{kind}16x2", kind, UNSIGNED[4], lanes=2) for kind in "us"]
    return {type_.name: type_ for type_ in types}


TYPES = _types()


def unpack(packed: np.ndarray, type_: Type) -> list[np.ndarray]:
    """The lanes of a packed value, lowest bits first, as their element type."""
    element = type_.element
    return [
        (packed >> type_.dtype.type(lane * element.bits)).astype(element.unsigned).view(element.dtype)
        for lane in range(type_.lanes)
    ]


def pack(lanes: list[np.ndarray], dtype: np.dtype) -> np.ndarray:
    """The lanes side by side in one unsigned integer, lowest bits first."""
    packed = dtype.type(0)
    for number, lane in enumerate(lanes):
        bits = UNSIGNED[lane.dtype.itemsize]
        shift = dtype.type(number * 8 * bits.itemsize)
        packed = packed | (np.ascontiguousarray(lane).view(bits).astype(dtype) << shift)
    return packed


def lanewise(function, type_: Type):
    """`function` of the element type, over every lane of a packed type."""
    if type_.lanes == 1:
        return function

    def over_lanes(*operands):
        return pack(
            [function(*lane) for lane in zip(*(unpack(each, type_) for each in operands), strict=True)], type_.dtype
        )

    return over_lanes

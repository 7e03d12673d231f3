"""Moves between registers, and between registers and memory."""

import numpy as np

from ..decoder import Decoder, Reader, Writer, spread
from ..memory import WINDOW_BYTES, WINDOWS
from ..steps import Execute, Step
from ..threads import Active
from ..types import TYPES, Type, pack
from .registry import instruction

STRENGTHS = ("weak", "volatile", "relaxed", "acquire", "release")


@instruction("mov")
def move(decoder: Decoder) -> Step:
    """`mov`, which also packs a vector of registers into one and unpacks it."""
    type_ = decoder.type()
    targets, sources = decoder.elements(0), decoder.elements(1)
    if len(targets) == len(sources) == 1:
        return decoder.elementwise(lambda value: value, type_)
    part = TYPES.get(f"b{type_.bits // max(len(targets), len(sources))}")
    if part is None or min(len(targets), len(sources)) > 1:
        raise decoder.unsupported(f"{len(sources)} registers moved to {len(targets)}")
    if len(sources) > 1:
        reads, write = [decoder.read(each, part) for each in sources], decoder.write(targets[0])
        return lambda active: write(active, pack([read(active) for read in reads], type_.unsigned))
    return _unpack(decoder.read(sources[0], TYPES[f"b{type_.bits}"]), [decoder.write(each) for each in targets], part)


def _unpack(read: Reader, writes: list[Writer], part: Type) -> Execute:
    def execute(active: Active) -> None:
        packed = read(active).copy()  # one of the targets may be the source
        for number, write in enumerate(writes):
            write(active, (packed >> packed.dtype.type(number * part.bits)).astype(part.dtype))

    return execute


@instruction("ld", "ldu")
def load(decoder: Decoder) -> Step:
    space, strong, count = _access(decoder)
    type_, memory = decoder.type(), decoder.machine.memory
    writes = [decoder.write(each) for each in decoder.elements(0)]
    address = decoder.address(1)
    _read_cache_policy(decoder, 2)
    if len(writes) != count:
        raise decoder.unsupported(f"{len(writes)} registers for {count} elements")

    def execute(active: Active) -> None:
        values = memory.load(space, address(active), type_.unsigned, count, active, strong=strong)
        for write, value in zip(writes, values, strict=True):
            write(active, value.view(type_.dtype))

    return execute


@instruction("st")
def store(decoder: Decoder) -> Step:
    space, strong, count = _access(decoder)
    type_, memory = decoder.type(), decoder.machine.memory
    address = decoder.address(0)
    reads = [decoder.read(each, type_) for each in decoder.elements(1)]
    _read_cache_policy(decoder, 2)
    if len(reads) != count:
        raise decoder.unsupported(f"{len(reads)} registers for {count} elements")

    def execute(active: Active) -> None:
        values = [spread(read(active), active).view(type_.unsigned) for read in reads]
        memory.store(space, address(active), values, active, strong=strong)

    return execute


def _access(decoder: Decoder) -> tuple[str, bool, int]:
    """The state space, whether the access synchronises, and the number of elements."""
    strong = decoder.take(*STRENGTHS, default="weak") != "weak"
    decoder.ignore_caching()
    decoder.take("cta", "cluster", "gpu", "sys", default="gpu")
    count = int(decoder.take("v2", "v4", "v8", default="v1")[1:])
    return decoder.state_space(), strong, count


def _read_cache_policy(decoder: Decoder, position: int) -> None:
    """A policy says how long to cache, which changes no result."""
    if decoder.flag("L2::cache_hint"):
        decoder.text(position)


@instruction("cvta")
def convert_address(decoder: Decoder) -> Step:
    """Between addresses of a state space and generic ones."""
    to_space = decoder.flag("to")
    start = WINDOWS.get(decoder.state_space(), 0)
    type_ = decoder.type()
    if type_.size != 8:
        raise decoder.unsupported("addresses of 32 bits")
    offset = np.uint64(start)
    return decoder.elementwise(lambda address: address - offset if to_space else address + offset, type_)


@instruction("isspacep")
def is_space(decoder: Decoder) -> Step:
    """Whether a generic address lies in a state space."""
    space = decoder.state_space()
    windows = {name: start // WINDOW_BYTES for name, start in WINDOWS.items()}

    def inside(address: np.ndarray) -> np.ndarray:
        window = address // np.uint64(WINDOW_BYTES)
        return window == windows[space] if space in windows else ~np.isin(window, list(windows.values()))

    return decoder.elementwise(inside, TYPES["u64"])


@instruction("createpolicy")
def create_cache_policy(decoder: Decoder) -> Execute:
    """Any value will do: no instruction looks at it."""
    decoder.modifiers.clear()
    decoder.ignore_operands()
    write = decoder.destination(0)
    return lambda active: write(active, np.zeros(1, np.uint64))


@instruction("prefetch", "prefetchu", "applypriority")
def advise_cache(decoder: Decoder) -> Execute:
    decoder.modifiers.clear()
    decoder.ignore_operands()
    return lambda active: None

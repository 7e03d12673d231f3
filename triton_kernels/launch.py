"""How kernels are launched: which tile, how many warps and registers, and how many programs share a row. One table, no
tuning at run time. What a device or sizes decide is worked out once: Python takes longer to prepare a small launch than
the GPU to carry it out.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from triton.compiler import CompiledKernel
from triton.language import constexpr
from triton.runtime.jit import JITFunction

from .row import Multiple

_WARP = 32
MOST_WARPS = 16 if torch.version.hip else 32  # of a program: 1024 threads
_OCCUPYING_WARPS = 32  # of a processor: half of what the largest hold, enough to hide the memory's latency
_REGISTERS = 65536  # of one of NVIDIA's processors
_MOST_REGISTERS = 248  # of a thread
# Of a processor's threads: hide the latency of memory; of what computes more than it loads; of what holds tiles of a
# product, of which a thread loads many elements at a time.
HALF, FEW, TILES = 1 / 2, 3 / 16, 1 / 4

# Elements of a row that a thread holds, in float32 and in float64: as many as half of a processor's threads can hold
# without a spill. Short rows have few of them to a thread, for a warp shares one row after the other.
_SHORT = 256
_ELEMENTS = {
    ("draw", "short"): (8, 4),
    ("draw", "long"): (16, 8),
    ("backward", "short"): (8, 2),
    ("backward", "long"): (8, 2),
    ("noise", "short"): (4, 4),
    ("noise", "long"): (4, 4),
    ("route", "short"): (4, 2),
    ("route", "long"): (4, 2),
}


class Tile(NamedTuple):
    """What a program holds: `block` elements of each of `rows` rows, in the registers of `warps` warps."""

    rows: int
    block: int
    warps: int


def elements_per_thread(work: str, categories: int, dtype: torch.dtype) -> int:
    """Of a row of so many categories, for a "draw", a "backward", one that makes "noise", or a "route"."""
    return _ELEMENTS[work, "short" if categories <= _SHORT else "long"][dtype == torch.float64]


@functools.lru_cache(maxsize=1024)
def tile(categories: int, elements_per_thread: int, most_warps: int = MOST_WARPS) -> Tile | None:
    """The tile for rows of so many categories; None where a row does not fit in the registers of so many warps."""
    block = next_power_of_2(categories)
    warps = max(1, block // (_WARP * elements_per_thread))
    return Tile(max(1, warps * _WARP * elements_per_thread // block), block, warps) if warps <= most_warps else None


def tile_of_experts(logits: Tensor) -> Tile:
    """The tile for rows [..., E] of a router, which has no more experts than a program can hold."""
    experts = logits.shape[-1]
    found = tile(experts, elements_per_thread("route", experts, logits.dtype))
    assert found is not None
    return found


def blocks_per_part(rows: int, blocks: int, warps: int, device: torch.device) -> int:
    """Of the `blocks` that a long row is read in, how many a program of so many warps takes: all of them, unless rows
    are too few to occupy the device.
    """
    programs = cdiv(_OCCUPYING_WARPS * processors(device), warps)
    return cdiv(blocks, min(blocks, cdiv(programs, rows)))


def cdiv(a: int, b: int) -> int:
    """a / b rounded up. Triton's own is also for kernels, and slow outside of them; so is its `next_power_of_2`."""
    return -(-a // b)


def next_power_of_2(n: int) -> int:
    """The least that is not below n, which is at least 1."""
    return 1 << (n - 1).bit_length()


@functools.cache
def processors(device: torch.device) -> int:
    if device.type == "cpu":  # the interpreter runs one program after the other
        return 1
    properties = torch.get_device_module(device).get_device_properties(device)
    return int(getattr(properties, "multi_processor_count", 0) or getattr(properties, "gpu_subslice_count", 1))


def options(warps: int, threads: int | None, resident: float = HALF) -> dict[str, Any]:
    """What kernels are compiled with, for one of NVIDIA's processors that holds so many threads, of which such a share
    is to be resident, or for others. No multiplication is fused with an addition unless a kernel says so: draws depend
    on it.
    """
    chosen = {"num_warps": warps, "enable_fp_fusion": False}
    if threads is not None:
        program = warps * _WARP
        enough = cdiv(int(threads * resident), program) * program
        chosen["maxnreg"] = min(_REGISTERS // enough // 8 * 8, _MOST_REGISTERS)
    return chosen


@functools.cache
def _options_on(device: torch.device, warps: int, resident: float) -> dict[str, Any]:
    threads = None
    if device.type == "cuda" and torch.version.hip is None:
        threads = torch.cuda.get_device_properties(device).max_threads_per_multi_processor
    return options(warps, threads, resident)


def run(
    kernel: Any,
    grid: tuple[int, ...],
    warps: int,
    device: torch.device,
    *args: Any,
    resident: float = HALF,
    **constants: Any,
) -> None:
    """Launches on the device's current stream, with registers for such a share of a processor's threads. Arguments are
    tensors, numbers, None, and tuples of them and of constants; other keywords are constants, all that a kernel has.

    Triton finds out at every launch which of a kernel's compiled forms the arguments need, and takes several times as
    long for that as for the launch. Here that is found by a key of its own where the rules are known. What is set in
    `triton.knobs` after a form's first launch doesn't reach it.
    """
    kind = device.type
    if kind != "cpu":
        module = torch.cuda if kind == "cuda" else torch.get_device_module(device)
        if module.current_device() != device.index:
            with module.device(device):
                run(kernel, grid, warps, device, *args, resident=resident, **constants)
            return
    if kind != "cuda" or not _KNOWS_FORMS:
        kernel[grid](*args, **constants, **_options_on(device, warps, resident))
        return
    values = constants.values()
    traits: list[Any] = [kernel.fn, device, warps, resident, *constants]
    traits += [value.fn if type(value) is JITFunction else value for value in values]  # whose hash takes a lock
    _add_traits(args, traits.append)
    key = tuple(traits)
    form = _forms.get(key)
    if form is not None:
        form[(*grid, 1, 1)](*args, *values)  # in any order: they are compiled in
        return
    form = kernel[grid](*args, **constants, **_options_on(device, warps, resident))
    if isinstance(form, CompiledKernel):  # not a promise of one
        _forms[key] = form


_KNOWS_FORMS = torch.version.hip is None and tuple(map(int, triton.__version__.split(".")[:2])) < (3, 10)
_forms: dict[tuple[Any, ...], CompiledKernel] = {}
_LEAST, _MOST = -(2**31), 2**31 - 1  # that 32 bits hold


def _add_traits(args: tuple[Any, ...], add: Callable[[Any], None]) -> None:
    """What a compiled form depends on: whether an integer is 1, divisible by 16, and of 32 bits; a tensor's dtype, and
    whether it is aligned to 16 bytes; a constant's value; what is None, a float or a bool.
    """
    for arg in args:
        kind = type(arg)
        if kind is Tensor:
            add(arg.dtype)
            add(not arg.data_ptr() & 15)
        elif kind is Multiple:
            count, unit = arg
            add((count == 1 or (not count & 15, _LEAST <= count <= _MOST), unit.value))
        elif kind is int:
            add(arg == 1 or (not arg & 15, _LEAST <= arg <= _MOST))
        elif kind is float or kind is bool:  # whatever its value
            add(kind)
        elif arg is None:
            add(None)
        elif kind is constexpr:
            add(arg.value)
        elif isinstance(arg, tuple):
            _add_traits(arg, add)
        else:  # a tensor of another class
            add(arg.dtype)
            add(not arg.data_ptr() & 15)

"""Launches of the Triton kernels, taken down instead of carried out, and compiled for a GPU that need not be there."""

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

from ..occupancy import LIMITS

AMD = "gfx942"
WARP, WAVEFRONT = 32, 64  # lanes, NVIDIA's and AMD's


class UnavailableError(RuntimeError):
    """The kernels cannot be compiled here."""


@dataclass(frozen=True)
class Launch:
    """What one launch is given: `arguments` are tensors, numbers, None and tuples of them."""

    kernel: Any
    grid: tuple[int, ...]
    warps: int
    arguments: tuple[Any, ...]
    constants: dict[str, Any]
    resident: float  # the share of a processor's threads that there are registers for

    @property
    def name(self) -> str:
        return self.kernel.__name__

    @property
    def programs(self) -> int:
        return functools.reduce(int.__mul__, self.grid)

    def threads(self, target: str | int) -> int:
        return self.programs * self.warps * (WAVEFRONT if target == AMD else WARP)

    def leaves(self) -> Iterator[Any]:
        """The arguments in the order of the kernel's parameters, those of tuples one by one."""
        yield from leaves(self.arguments)

    def compile(self, target: str | int) -> Any:
        """What Triton would compile at the launch, for AMD's gfx942, or for a compute capability such as 90."""
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource, compile, make_backend
        from triton.runtime.jit import create_function_from_signature

        gpu = GPUTarget("hip", target, WAVEFRONT) if target == AMD else GPUTarget("cuda", target, WARP)
        backend = make_backend(gpu)
        threads = None if target == AMD else resident_threads(target)
        options = triton_kernels_launch().options(self.warps, threads, self.resident)
        bind = create_function_from_signature(self.kernel.signature, self.kernel.params, backend)
        given = bind(*self.arguments, **self.constants, **options)
        parsed, signature, constants, attributes = self.kernel._pack_args(backend, options, *given)
        source = ASTSource(self.kernel, signature, constants, attributes)
        return compile(source, target=gpu, options=parsed.__dict__)


def resident_threads(capability: int) -> int:
    """The most that one of NVIDIA's multiprocessors holds."""
    return WARP * LIMITS[divmod(capability, 10)].warps


def leaves(values: tuple[Any, ...]) -> Iterator[Any]:
    """Of nested tuples."""
    for value in values:
        if isinstance(value, tuple):
            yield from leaves(value)
        else:
            yield value


@contextmanager
def intercepted(on_launch: Callable[[Launch], None], processors: int | None = None) -> Iterator[None]:
    """Hands every launch to a function in place of the device, which has so many multiprocessors, or else as few as
    leave no row shared by several programs that one can hold.
    """
    launch = triton_kernels_launch()

    def run(
        kernel: Any,
        grid: tuple[int, ...],
        warps: int,
        device: Any,
        *arguments: Any,
        resident: float = launch.HALF,
        **constants: Any,
    ) -> None:
        on_launch(Launch(kernel, grid, warps, arguments, constants, resident))

    with mock.patch.multiple(launch, run=run, processors=lambda device: processors):
        if processors is None:
            with mock.patch.object(launch, "blocks_per_part", lambda rows, blocks, warps, device: blocks):
                yield
        else:
            yield


def recorded(work: Callable[[], object], processors: int | None) -> list[Launch]:
    launches: list[Launch] = []
    with intercepted(launches.append, processors):
        work()
    return launches


def triton_kernels_launch() -> Any:
    """The module through which all kernels are launched."""
    if os.environ.get("TRITON_INTERPRET", "0") not in ("", "0"):
        raise UnavailableError("kernels are interpreted where TRITON_INTERPRET is set: unset it to have them compiled")
    try:
        from reinmax_kernels.triton_kernels import launch
    except ImportError as error:
        raise UnavailableError(f"{error}") from error
    return launch

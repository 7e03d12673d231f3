"""Launches of a build's kernels by their own host code, on a fake CUDA runtime."""

import ctypes
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from .build import Build

NAME = re.compile(r"[a-z_]+_kernel(?=I|E)")  # in a mangled name: of the namespaces' own names none ends so


class RawLaunch(ctypes.Structure):
    """As the fake runtime has it."""

    _fields_ = (
        ("kernel", ctypes.c_char_p),
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared_bytes", ctypes.c_uint64),
        ("stream", ctypes.c_void_p),
        ("arguments", ctypes.POINTER(ctypes.c_void_p)),
    )


OnLaunch = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(RawLaunch))
OnTensor = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int)


@dataclass(frozen=True)
class Launch:
    kernel: str  # its mangled name
    grid: tuple[int, ...]
    block: tuple[int, ...]
    shared_bytes: int

    @classmethod
    def of(cls, raw: RawLaunch) -> "Launch":
        return cls(raw.kernel.decode(), tuple(raw.grid), tuple(raw.block), raw.shared_bytes)

    @property
    def name(self) -> str:
        """That of its source, without the arguments of its template."""
        return NAME.findall(self.kernel)[0]

    @property
    def blocks(self) -> int:
        return self.grid[0] * self.grid[1] * self.grid[2]

    @property
    def threads(self) -> int:
        return self.blocks * self.block[0]


@contextmanager
def intercepted(
    build: Build,
    on_launch: Callable[[RawLaunch], bool],
    on_tensor: Callable[[int, int, bool], None] = lambda data, size, is_written: None,
    processors: int | None = None,
) -> Iterator[None]:
    """Hands launches to a function, which tells whether they ran, and tensors that ops make to another: address, bytes,
    and whether it is written already. The device has so many multiprocessors, or else as few as leave no row shared by
    several blocks that one can hold.
    """
    callbacks = OnLaunch(lambda raw: on_launch(raw.contents)), OnTensor(on_tensor)
    build.library.set_callbacks(*callbacks)
    build.library.set_processors(processors or 1)
    yield


@dataclass(frozen=True)
class Ops:
    """The ops of a build, under the names of the op table. What one has made is kept until the next one begins."""

    build: Build

    def __getattr__(self, name: str) -> Callable[..., object]:
        def call(*arguments: object) -> object:
            self.build.library.begin_op()
            return op(*arguments)

        op = self.build.op(name)
        return call


def recorded(build: Build, work: Callable[[Ops], object], processors: int | None) -> list[Launch]:
    launches: list[Launch] = []

    def take_down(raw: RawLaunch) -> bool:
        launches.append(Launch.of(raw))
        return True

    with intercepted(build, take_down, processors=processors):
        work(Ops(build))
    return launches

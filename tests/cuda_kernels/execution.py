"""Carries out the kernels' launches on the PTX interpreter: their functions return what the GPU would write.

Kernels are launched by their own host code, with the addresses that the tensors have on the host. A launch may access
those tensors alone that its op was given or has made, each from its first element to its last.
"""

import ctypes
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import ptx
import torch
from ptx.report import Report

from bench.static.cuda.build import Build
from bench.static.cuda.launches import Launch, RawLaunch, intercepted

UNSIGNED = {1: torch.uint8, 2: torch.uint16, 4: torch.uint32, 8: torch.uint64}
STREAM = 0x57  # the fake runtime's
GARBAGE = 0xD7


@dataclass
class Execution:
    """The ops of a build, under the names of the op table; what they launched, and the report of each launch.

    edit: of the PTX of a kernel, by its name and its text.
    runs: without it launches are only taken down.
    check: whatever the interpreter finds wrong, and an output that is not written, is an error.
    """

    build: Build
    edit: Callable[[str, str], str]
    runs: bool
    check: bool
    races: bool
    launches: list[Launch] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)
    memory: dict[int, ptx.Buffer] = field(default_factory=dict)  # by address
    error: BaseException | None = None

    def __getattr__(self, name: str) -> Callable[..., object]:
        op = self.build.op(name)
        return lambda *arguments: self._call(op, arguments)

    def _call(self, op: Callable[..., object], arguments: tuple[object, ...]) -> object:
        self.memory, self.error = {}, None
        self.build.library.begin_op()
        for argument in arguments:
            if isinstance(argument, torch.Tensor) and argument.numel():
                array = memory(argument)
                self.memory[array.ctypes.data] = ptx.Buffer(array)
        try:
            results = op(*arguments)
        except RuntimeError:
            if self.error is not None:
                raise self.error from None
            raise
        for result in (results,) if isinstance(results, torch.Tensor) else results:
            if self.runs and self.check and result.numel():
                assert self.memory[result.data_ptr()].initialized.all(), f"{op} leaves a part of its output unwritten"
        return results

    def on_tensor(self, data: int, size: int, is_written: bool) -> None:
        """Of a tensor that the op has made. Its memory is one with ours."""
        known = self.memory.get(data)
        if size == 0 or (known is not None and known.array.nbytes >= size and known.initialized is True):
            return
        array = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(data))
        if not is_written:
            array[:] = GARBAGE
        self.memory[data] = ptx.Buffer(array, initialized=bool(is_written))

    def on_launch(self, raw: RawLaunch) -> bool:
        try:
            self._carry_out(raw)
        except BaseException as error:  # it goes on behind the C++ that calls us
            self.error = error
            return False
        return True

    def _carry_out(self, raw: RawLaunch) -> None:
        assert raw.stream == STREAM
        launch = Launch.of(raw)
        self.launches.append(launch)
        if not self.runs:
            return
        function = parsed(self.edit(launch.kernel, self.build.kernels[launch.kernel]))[launch.kernel]
        arguments = [
            ctypes.string_at(raw.arguments[number], parameter.size)
            for number, parameter in enumerate(function.parameters)
        ]
        report = ptx.launch(
            function,
            launch.grid,
            launch.block,
            arguments,
            memory=list(self.memory.values()),
            shared_bytes=launch.shared_bytes,
            check=self.check,
            races=self.races,
        )
        self.reports.append(report)


def memory(tensor: torch.Tensor) -> np.ndarray:
    """The tensor's memory from its first element to its last, as integers, for NumPy has no bfloat16."""
    extent = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.detach().view(UNSIGNED[tensor.element_size()]).as_strided((extent,), (1,)).numpy()


@functools.lru_cache(maxsize=256)
def parsed(text: str) -> ptx.Module:
    return ptx.parse(text)


@contextmanager
def executed(
    build: Build,
    *,
    processors: int | None = None,
    edit: Callable[[str, str], str] = lambda name, text: text,
    runs: bool = True,
    check: bool = True,
    races: bool = True,
) -> Iterator[Execution]:
    """Launches in this context run on the interpreter, as on a device of so many multiprocessors, or else of as few as
    leave no row shared by several blocks that one can hold.
    """
    execution = Execution(build, edit, runs, check, races)
    with intercepted(build, execution.on_launch, execution.on_tensor, processors):
        yield execution

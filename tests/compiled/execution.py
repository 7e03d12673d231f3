"""Carries out the kernels' launches on the PTX interpreter: the library's functions return what the GPU would write.

An output counts as unwritten for the first launch that has it, and as written, all of it, for the next.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import ptx
import torch
from ptx.report import Report

from bench.static.launches import Launch, intercepted, leaves
from reinmax_kernels import triton_kernels

INTEGERS = {"i32": np.int32, "i64": np.int64}
UNSIGNED = {1: torch.uint8, 2: torch.uint16, 4: torch.uint32, 8: torch.uint64}
OUTPUTS = {"Drawn", "Chunks", "Partial", "RowSums", "Routed"}  # tuples of tensors, written before they are read
WRITTEN = {  # and tensors
    "bits_ptr",
    "chosen_ptr",
    "counts_ptr",
    "grad_logits_ptr",
    "inverse_ptr",
    "largest_ptr",
    "of_parts_ptr",
    "order_ptr",
    "pieces_ptr",
    "places_ptr",
    "probs_ptr",
    "total_ptr",
    "vectors_ptr",
    "weight_ptr",
}
SCRATCH = 16  # bytes, for two pointers that Triton adds and these kernels don't use


@dataclass
class Execution:
    """The ops in Triton, what they launched, and the report of each launch."""

    target: int
    edit: Callable[[str], str] | None
    check: bool
    launches: list[Launch] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)
    written: set[int] = field(default_factory=set)  # addresses of outputs that an earlier launch wrote to

    def __getattr__(self, name: str) -> Callable[..., object]:
        return getattr(triton_kernels, name)

    def carry_out(self, launch: Launch) -> None:
        compiled = launch.compile(self.target)
        text = compiled.asm["ptx"]
        function = _parsed(self.edit(text) if self.edit else text)[launch.name]
        types = leaves(tuple(compiled.src.signature.values()))
        outputs = self._outputs(launch)
        arguments = [
            self._argument(value, kind, outputs)
            for value, kind in zip(launch.leaves(), types, strict=False)  # constants come last
            if kind != "constexpr"
        ]
        scratch = [np.zeros(SCRATCH, np.uint8) for _ in range(2)]
        block, shared = (32 * launch.warps,), compiled.metadata.shared
        self.launches.append(launch)
        self.reports.append(
            ptx.launch(function, launch.grid, block, [*arguments, *scratch], shared_bytes=shared, check=self.check)
        )
        self.written |= outputs

    def _outputs(self, launch: Launch) -> set[int]:
        """Addresses of what no launch has written to so far."""
        tensors = [
            tensor
            for name, value in zip(launch.kernel.arg_names, launch.arguments, strict=False)
            for tensor in (leaves((value,)) if type(value).__name__ in OUTPUTS or name in WRITTEN else ())
            if isinstance(tensor, torch.Tensor)
        ]
        return {tensor.data_ptr() for tensor in tensors} - self.written

    def _argument(self, value: object, kind: str, outputs: set[int]) -> object:
        if isinstance(value, torch.Tensor):
            is_output = value.data_ptr() in outputs
            return ptx.Buffer(memory(value), initialized=not is_output, offset=value.data_ptr() % 16)
        return INTEGERS[kind](value)


def memory(tensor: torch.Tensor) -> np.ndarray:
    """The tensor's memory from its first element to its last, as integers, for NumPy has no bfloat16."""
    extent = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.detach().view(UNSIGNED[tensor.element_size()]).as_strided((extent,), (1,)).numpy()


@functools.lru_cache(maxsize=64)
def _parsed(text: str) -> ptx.Module:
    return ptx.parse(text)


@contextmanager
def executed(
    target: int = 90, *, processors: int | None = None, edit: Callable[[str], str] | None = None, check: bool = True
) -> Iterator[Execution]:
    """Launches in this context run as the PTX for a compute capability, after an edit of its text, on a device of so
    many multiprocessors. With `check`, whatever the interpreter finds wrong is an error.
    """
    execution = Execution(target, edit, check)
    with intercepted(execution.carry_out, processors):
        yield execution

"""Runs PTX on a machine without a GPU, and finds what is wrong with it.

All threads of a launch go in lock-step, as NumPy arrays. Besides the results there is a report: accesses that are out
of bounds, misaligned or of memory that nobody has written; data races; barriers and shuffles at which threads part;
deadlocks; and how many instructions, bytes, 32-byte sectors and bank conflicts it took.

    module = ptx.parse(text)
    out = ptx.Buffer(np.empty_like(x), initialized=False)
    report = ptx.launch(module["softmax"], grid=(rows,), block=(256,), arguments=[x, out, np.int32(columns)])
    out.array
    report.global_loads.bytes

It reads what nvcc and Triton write. Whatever it does not model raises `UnsupportedInstruction`.

What it cannot tell:

- It runs PTX, and not the machine code that ptxas makes of it, and takes one schedule of the many.
- All threads see a write at once, so that a missing fence does no harm.
- Instructions marked .approx are more exact than the GPU's.
- Blocks that wait for one another by fences and atomics have to read by volatile, relaxed or acquire loads. Others are
  held to race.
"""

from .errors import LaunchError, ParseError, PTXError, UnsupportedInstruction
from .launch import Buffer, launch
from .parser import parse
from .program import Function, Module
from .report import Issue, Kind, Report

__all__ = [
    "Buffer",
    "Function",
    "Issue",
    "Kind",
    "LaunchError",
    "Module",
    "PTXError",
    "ParseError",
    "Report",
    "UnsupportedInstruction",
    "launch",
    "parse",
]

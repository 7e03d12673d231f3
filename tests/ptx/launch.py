"""Runs a kernel."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .errors import Fault, LaunchError
from .instructions import translate
from .machine import Machine
from .memory import ALIGNMENT, FIRST_GLOBAL_ADDRESS, GUARD, Allocation
from .program import Function, Parameter
from .report import Report
from .scheduler import Scheduler
from .threads import Threads
from .types import TYPES, UNSIGNED


@dataclass(eq=False)
class Buffer:
    """An array in global memory.

    array: C-contiguous; holds what the kernel leaves there after the launch.
    initialized: whether it holds something, or which of its bytes do; the kernel has to write the others before it
        reads them. After the launch: which do now.
    offset: bytes by which the address misses the alignment of an allocation.
    """

    array: np.ndarray
    initialized: bool | np.ndarray = True
    offset: int = 0

    def __post_init__(self):
        if not self.array.flags.c_contiguous:
            raise ValueError("an argument has to be contiguous: pass the storage, and strides as the kernel takes them")


Argument = np.ndarray | Buffer | np.generic | bytes


def launch(
    function: Function,
    grid: tuple[int, ...],
    block: tuple[int, ...],
    arguments: Sequence[Argument],
    *,
    memory: Sequence[Buffer] = (),
    shared_bytes: int = 0,
    races: bool = True,
    check: bool = True,
    most_steps: int = 10_000_000,
) -> Report:
    """Runs a kernel over all threads of the grid and reports what it did.

    arguments: one a parameter. Arrays and buffers lie in global memory for the launch and are updated in place; the
        same array twice is one place in memory. NumPy scalars have the parameter's size; a struct is its bytes.
        bfloat16 is uint16.
    memory: what pointers in structs lead to. These buffers lie at the addresses that their arrays have in NumPy.
    shared_bytes: dynamic shared memory.
    races: whether to look for data races, which takes about as long as all the rest.
    check: raise `LaunchError` if there is any issue. Without it they are in the report alone.

    Raises `UnsupportedInstruction` before anything runs if the kernel has an instruction that is not modelled.
    """
    threads = Threads(grid, block)
    _check_block(function, threads)
    layout = _GlobalMemory(function, arguments, memory)
    unit = _smallest_access(function)
    with np.errstate(all="ignore"):
        machine = Machine(function, threads, layout.allocations, shared_bytes, unit, races)
        layout.copy_in(machine)
        _pass_parameters(machine, [layout.value(argument) for argument in arguments])
        steps = [translate(instruction, machine) for instruction in function.instructions]
        scheduler = Scheduler(machine, steps, most_steps)
        report = machine.report
        try:
            scheduler.run()
            report.completed = True
        except Fault as fault:
            machine.issue(fault.kind, fault.detail)
        layout.copy_out(machine)
    scheduler.count_instructions(report)
    if check and report.issues:
        raise LaunchError(report)
    return report


def _check_block(function: Function, threads: Threads) -> None:
    if function.required_block and (*function.required_block, 1, 1)[:3] != threads.block:
        raise ValueError(f"{function.name} demands blocks of {function.required_block} threads, not {threads.block}")
    if function.most_threads and threads.block_size > function.most_threads:
        raise ValueError(f"{function.name} allows {function.most_threads} threads a block, not {threads.block_size}")


def _smallest_access(function: Function) -> int:
    """The bytes of the smallest access to memory that any instruction makes."""
    sizes = [4]
    for instruction in function.instructions:
        if instruction.opcode in ("ld", "ldu", "st", "atom", "red") and "param" not in instruction.modifiers:
            sizes += [TYPES[modifier].size for modifier in instruction.modifiers if modifier in TYPES]
    return min(sizes)


class _GlobalMemory:
    """Where the buffers among the arguments and the module's variables lie."""

    def __init__(self, function: Function, arguments: Sequence[Argument], memory: Sequence[Buffer]):
        self.allocations: list[Allocation] = []
        self.buffers: dict[int, Buffer] = {}  # by their addresses
        self.next_address = FIRST_GLOBAL_ADDRESS
        for variable in function.module_variables.values():
            if variable.space == "global":
                self._allocate(variable.name, variable.size, 0)
        for number, argument in enumerate(arguments):
            if isinstance(argument, np.ndarray) and argument.ndim:
                argument = Buffer(argument)
            if isinstance(argument, Buffer) and self._find(argument.array) is None:
                self._refuse_overlap(argument.array)
                address = self._allocate(f"argument {number}", argument.array.nbytes, argument.offset)
                self.buffers[address] = argument
        for number, buffer in enumerate(memory):
            self._refuse_overlap(buffer.array)
            address = buffer.array.ctypes.data
            self.allocations.append(Allocation(f"memory {number}", address, buffer.array.nbytes))
            self.buffers[address] = buffer

    def _allocate(self, name: str, size: int, offset: int) -> int:
        address = self.next_address + offset
        self.allocations.append(Allocation(name, address, size))
        self.next_address += -(-(offset + size + GUARD) // ALIGNMENT) * ALIGNMENT
        return address

    def _find(self, array: np.ndarray) -> int | None:
        for address, buffer in self.buffers.items():
            if buffer.array.ctypes.data == array.ctypes.data and buffer.array.nbytes == array.nbytes:
                return address
        return None

    def _refuse_overlap(self, array: np.ndarray) -> None:
        if any(np.may_share_memory(array, buffer.array) for buffer in self.buffers.values()):
            raise ValueError("two arguments share a part of their memory: pass the whole of it once")

    def value(self, argument: Argument) -> Argument:
        """What the kernel gets: the address of a buffer, anything else as it is."""
        array = argument.array if isinstance(argument, Buffer) else argument
        if isinstance(array, np.ndarray) and array.ndim:
            return np.uint64(self._find(array))
        return argument

    def copy_in(self, machine: Machine) -> None:
        for address, buffer in self.buffers.items():
            machine.memory.spaces["global"].fill(address, _as_bytes(buffer.array), buffer.initialized)

    def copy_out(self, machine: Machine) -> None:
        space = machine.memory.spaces["global"]
        for address, buffer in self.buffers.items():
            buffer.initialized = space.written_at(address, buffer.array.nbytes)
            if buffer.array.flags.writeable:
                _as_bytes(buffer.array)[:] = space.bytes_at(address, buffer.array.nbytes)


def _as_bytes(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1).view(UNSIGNED[1])


def _pass_parameters(machine: Machine, values: Sequence[Argument]) -> None:
    parameters = machine.function.parameters
    if len(values) != len(parameters):
        raise TypeError(f"{machine.function.name} takes {len(parameters)} arguments, not {len(values)}")
    for parameter, value in zip(parameters, values, strict=True):
        machine.memory.spaces["param"].fill(parameter.offset, np.frombuffer(_encode(parameter, value), UNSIGNED[1]))


def _encode(parameter: Parameter, value: Argument) -> bytes:
    if isinstance(value, bytes):
        data, fits = value, True
    else:
        value = np.asarray(value)
        data = value.tobytes()
        fits = parameter.type.kind == "b" or (parameter.type.kind == "f") == (value.dtype.kind == "f")
    if len(data) != parameter.size or not fits:
        raise TypeError(f"{parameter.name} takes {parameter.size} bytes of .{parameter.type.name}, not {value!r}")
    return data

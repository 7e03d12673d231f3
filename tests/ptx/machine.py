"""The state of one launch, which the instructions work on."""

import numpy as np

from .memory import Allocation, Memory, Space
from .program import Function
from .races import Clocks
from .report import Issue, Kind, Report
from .threads import Threads
from .traffic import TrafficCounter
from .types import UNSIGNED


class AsyncCopies:
    """Copies that have not landed yet, and the number of groups that each thread has committed."""

    def __init__(self, threads: Threads):
        self.pending = []
        self.groups = np.zeros(threads.count, np.int64)


class Machine:
    """Registers, memory and clocks of all threads, and the log of what goes wrong."""

    def __init__(
        self,
        function: Function,
        threads: Threads,
        global_memory: list[Allocation],
        shared_bytes: int,
        unit: int,
        races: bool,
    ):
        self.function, self.threads = function, threads
        self.report = Report(function.name)
        self.pc = 0  # the instruction that executes, which is where issues are found
        self.issues: dict[tuple[Kind, int], Issue] = {}
        self.clocks = Clocks(threads)
        self.registers = {name: np.zeros(threads.count, type_.unsigned) for name, type_ in function.registers.items()}
        self.special_registers = threads.special_registers(shared_bytes, function.shared_bytes + shared_bytes)
        self.carry = np.zeros(threads.count, bool)
        self.copies = AsyncCopies(threads)
        self.addresses = dict(function.offsets)
        self.memory = self._memory(global_memory, shared_bytes, unit, races)

    def _memory(self, global_memory: list[Allocation], shared_bytes: int, unit: int, races: bool) -> Memory:
        function = self.function
        constants, constant_bytes = [], 0
        for variable in function.module_variables.values():
            if variable.space == "const":
                constants.append(Allocation(variable.name, constant_bytes, variable.size))
                constant_bytes += -(-variable.size // 256) * 256
        self.addresses |= {each.name: each.start for each in (*constants, *global_memory)}
        self.addresses |= {parameter.name: parameter.offset for parameter in function.parameters}
        allocations = {
            "global": global_memory,
            "const": constants,
            "shared": [Allocation("the block's shared memory", 0, function.shared_bytes + shared_bytes)],
            "local": [Allocation("the thread's local memory", 0, function.local_bytes)],
            "param": [Allocation(each.name, each.offset, each.size) for each in function.parameters],
        }
        spaces = {name: Space(name, runs, self.threads, unit, self.issue) for name, runs in allocations.items()}
        if races:
            spaces["global"].watch_races(self.clocks)
            spaces["shared"].watch_races(self.clocks)
        for name, address in self.addresses.items():
            if name in function.module_variables:
                variable = function.module_variables[name]
                data = np.frombuffer(variable.data.ljust(variable.size, b"\0"), UNSIGNED[1])
                spaces[variable.space].fill(address, data)
        return Memory(spaces, TrafficCounter(self.report))

    def issue(self, kind: Kind, detail: str) -> None:
        """Logs what the present instruction does wrong, once an instruction."""
        if issue := self.issues.get((kind, self.pc)):
            issue.count += 1
            return
        instruction = self.function.instructions[min(self.pc, len(self.function.instructions) - 1)]
        issue = Issue(kind, instruction.text, instruction.line, detail)
        self.issues[kind, self.pc] = issue
        self.report.issues.append(issue)

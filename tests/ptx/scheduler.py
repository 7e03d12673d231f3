"""Runs the threads, in groups that stand at one instruction.

The group with the lowest program counter goes first. Compilers place the end of a branch behind both of its sides, so
threads that parted wait for one another there and go on together.
"""

from collections import Counter
from typing import NoReturn

import numpy as np

from .errors import Fault
from .machine import Machine
from .report import Kind, Report
from .steps import BlockBarrier, Branch, Exit, IndexedBranch, Step, WarpStep
from .threads import Active, ballot

RUNNING, AT_BARRIER, AT_WARP_STEP, EXITED = range(4)


class Scheduler:
    """Runs a translated kernel to its end."""

    def __init__(self, machine: Machine, steps: list[Step], most_steps: int):
        self.machine, self.steps, self.most_steps = machine, steps, most_steps
        threads = machine.threads
        self.state = np.where(threads.exists, RUNNING, EXITED).astype(np.int8)
        self.pc = np.zeros(threads.count, np.int64)
        self.remaining = threads.block_size * threads.blocks  # threads that have not ended
        self.ended = ~threads.exists
        instructions = machine.function.instructions
        self.predicates = [
            None if each.predicate is None else (machine.registers[each.predicate], each.negated)
            for each in instructions
        ]
        self.meeting_points = set(machine.function.labels.values()) | {
            pc + 1 for pc, step in enumerate(steps) if isinstance(step, (Branch, IndexedBranch, Exit))
        }
        self.thread_counts = np.zeros(len(instructions), np.int64)
        self.warp_counts = np.zeros(len(instructions), np.int64)

    def run(self) -> None:
        while (running := self.state == RUNNING).any():
            pc = int(self.pc[running].min())
            self._advance(pc, self.machine.threads.select(running & (self.pc == pc)))
        if self.remaining:
            self._deadlock()

    def _deadlock(self) -> NoReturn:
        waiting = Counter(self.pc[self.state != EXITED].tolist())
        self.machine.pc = min(waiting)
        lines = {pc: self.machine.function.instructions[pc].line for pc in waiting}
        raise Fault(
            Kind.DEADLOCK, ", ".join(f"{count} threads wait at line {lines[pc]}" for pc, count in waiting.items())
        )

    def _advance(self, pc: int, group: Active) -> None:
        """Runs a group until it parts, waits or ends, or comes to where others may join it."""
        others = len(group) < self.remaining
        while True:
            self.most_steps -= 1
            if self.most_steps < 0:
                raise Fault(Kind.NO_PROGRESS, "the kernel does not come to its end")
            self.machine.pc = pc
            if pc == len(self.steps):  # a kernel may do without a last `ret`
                self._end(group)
                return
            taking = self._taking(pc, group)
            self.thread_counts[pc] += len(taking)
            self.warp_counts[pc] += group.warp_count
            step = self.steps[pc]
            if callable(step):
                if len(taking):
                    step(taking)
                next_pc = pc + 1
            else:
                next_pc = self._steer(step, pc, group, taking)
            if next_pc is None:
                return
            pc = next_pc
            if others and pc in self.meeting_points:
                self.pc[group.index] = pc
                return

    def _taking(self, pc: int, group: Active) -> Active:
        """Those of the group whose predicate lets them take part."""
        if self.predicates[pc] is None:
            return group
        register, negated = self.predicates[pc]
        chosen = register[group.index] != negated
        return group if chosen.all() else group.where(chosen)

    def _steer(self, step: Step, pc: int, group: Active, taking: Active) -> int | None:
        """Takes a step that may part the group. Returns where the whole group goes on, if it stays together."""
        if not len(taking):
            return pc + 1
        if isinstance(step, Branch) and len(taking) == len(group):
            return step.target
        self.pc[group.index] = pc + 1
        if isinstance(step, Branch):
            self.machine.report.divergent_branches += 1
            self.pc[taking.index] = step.target
        elif isinstance(step, IndexedBranch):
            self.pc[taking.index] = np.array(step.targets)[step.index(taking)]
        elif isinstance(step, Exit):
            self._end(taking)
        elif isinstance(step, BlockBarrier):
            self.state[taking.index] = AT_BARRIER
            self.pc[taking.index] = pc
            self._release_barriers()
        elif self._warp_step(step, pc, taking) and len(taking) == len(group):
            return pc + 1
        return None

    def _end(self, group: Active) -> None:
        self.state[group.index] = EXITED
        self.ended[group.index] = True
        self.remaining -= len(group)
        self._release_barriers()

    # Barriers of a block

    def _release_barriers(self) -> None:
        """Lets every block go on whose remaining threads have all come to a barrier."""
        by_block = self.state.reshape(self.machine.threads.blocks, -1)
        waiting = (by_block == AT_BARRIER).sum(axis=1)
        remaining = (by_block != EXITED).sum(axis=1)
        for block in np.flatnonzero((waiting == remaining) & (waiting > 0)):
            self._release_block(block, int(remaining[block]))

    def _release_block(self, block: int, remaining: int) -> None:
        machine, threads = self.machine, self.machine.threads
        waiting = threads.select((threads.block_of == block) & (self.state == AT_BARRIER))
        places = np.unique(self.pc[waiting.index])
        if len({self.steps[pc].identifier for pc in places}) > 1:
            self._deadlock()
        machine.pc = int(places[0])
        if remaining < threads.block_size:
            ended = threads.block_size - remaining
            machine.issue(Kind.DIVERGENT_BARRIER, f"{ended} threads of block {block} ended before the barrier")
        if len(places) > 1:
            lines = ", ".join(str(machine.function.instructions[pc].line) for pc in places)
            machine.issue(Kind.DIVERGENT_BARRIER, f"block {block} meets one barrier at lines {lines}")
        elif release := self.steps[places[0]].release:
            release(waiting)
        machine.clocks.pass_block_barrier(block)
        self.state[waiting.index] = RUNNING
        self.pc[waiting.index] += 1

    # Steps that the lanes of a warp take together

    def _warp_step(self, step: WarpStep, pc: int, arriving: Active) -> bool:
        """Lets those warps take the step whose members have all come. True where all have that arrived."""
        machine, threads = self.machine, self.machine.threads
        earlier = (self.state == AT_WARP_STEP) & (self.pc == pc)
        here = threads.mask(arriving) | earlier
        group = threads.select(here) if earlier.any() else arriving
        members = np.broadcast_to(step.members(group), len(group))
        if not (members >> (group.lanes.astype(np.uint32)) & np.uint32(1)).all():
            machine.issue(Kind.MEMBER_MASK, "a thread is no member of its own mask")
        missing = members & ~ballot(here | self.ended)[group.warps]
        if (members & ballot(self.ended & threads.exists)[group.warps]).any():
            machine.issue(Kind.MEMBER_MASK, "the mask names threads that have ended")
        complete = missing == 0
        ready = group if complete.all() else group.where(complete)
        waiting = group.where(~complete)
        self.state[waiting.index] = AT_WARP_STEP
        self.pc[waiting.index] = pc
        if len(ready):
            step.execute(ready)
            self.state[ready.index] = RUNNING
            self.pc[ready.index] = pc + 1
        return group is arriving and ready is group

    def count_instructions(self, report: Report) -> None:
        """Enters how often instructions were executed."""
        report.thread_instructions = int(self.thread_counts.sum())
        report.warp_instructions = int(self.warp_counts.sum())
        for instruction, count in zip(self.machine.function.instructions, self.warp_counts.tolist(), strict=True):
            report.warp_instructions_by_opcode[instruction.opcode] += count

"""How many blocks of a kernel a streaming multiprocessor holds at once, by the rules of NVIDIA's cuda_occupancy.h.

The limits are those of the CUDA C++ Programming Guide, appendix "Compute Capabilities", table "Technical Specifications
per Compute Capability".
"""

from dataclasses import dataclass

WARP = 32
MOST_THREADS_PER_BLOCK = 1024
MOST_REGISTERS_PER_THREAD = 255
REGISTERS_PER_SM = 65536
PARTITIONS = 4  # of a multiprocessor, each with its own registers
REGISTER_UNIT = 256  # a warp's registers are given out in such units
SHARED_UNIT = 128
RESERVED_SHARED_BYTES = 1024  # of each block, for the system


@dataclass(frozen=True)
class Limits:
    """What a multiprocessor holds at most."""

    warps: int
    blocks: int
    shared_bytes: int


KIB = 1024
LIMITS = {  # by compute capability
    (8, 0): Limits(warps=64, blocks=32, shared_bytes=164 * KIB),
    (8, 6): Limits(warps=48, blocks=16, shared_bytes=100 * KIB),
    (8, 9): Limits(warps=48, blocks=24, shared_bytes=100 * KIB),
    (9, 0): Limits(warps=64, blocks=32, shared_bytes=228 * KIB),
    (10, 0): Limits(warps=64, blocks=32, shared_bytes=228 * KIB),
    (12, 0): Limits(warps=48, blocks=24, shared_bytes=100 * KIB),
}


@dataclass(frozen=True)
class Occupancy:
    """Blocks of one kernel on one multiprocessor, and the share of its warps that they fill."""

    blocks: int
    warps: int
    fraction: float


def occupancy(capability: tuple[int, int], *, threads: int, registers: int, shared_bytes: int) -> Occupancy:
    """The occupancy of a kernel.

    threads: of a block.
    registers: of a thread.
    shared_bytes: static and dynamic ones of a block, without those that the system reserves.
    """
    if capability not in LIMITS:
        known = ", ".join(f"{major}.{minor}" for major, minor in LIMITS)
        raise ValueError(f"limits are known of compute capability {known}, not {capability[0]}.{capability[1]}")
    limits = LIMITS[capability]
    warps = -(-threads // WARP)
    blocks = min(
        limits.blocks,
        limits.warps // warps,
        _blocks_by_registers(registers, warps),
        limits.shared_bytes // _round_up(shared_bytes + RESERVED_SHARED_BYTES, SHARED_UNIT),
    )
    if threads > MOST_THREADS_PER_BLOCK:
        blocks = 0
    return Occupancy(blocks, blocks * warps, blocks * warps / limits.warps)


def _blocks_by_registers(registers: int, warps: int) -> int:
    per_warp = _round_up(max(registers, 1) * WARP, REGISTER_UNIT)
    # A launch is refused as if a block took the same number of warps in every partition.
    if registers > MOST_REGISTERS_PER_THREAD or per_warp * _round_up(warps, PARTITIONS) > REGISTERS_PER_SM:
        return 0
    return REGISTERS_PER_SM // PARTITIONS // per_warp * PARTITIONS // warps


def _round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit

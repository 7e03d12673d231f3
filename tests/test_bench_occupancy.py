"""Occupancy, against what NVIDIA's cuda_occupancy.h (CUDA 13.0) answers."""

import pytest

from bench.occupancy import LIMITS, Occupancy, occupancy


@pytest.mark.parametrize(
    ("capability", "registers", "threads", "shared_bytes", "blocks"),
    [
        ((8, 0), 16, 32, 0, 32),  # blocks
        ((8, 6), 16, 32, 0, 16),
        ((8, 9), 16, 32, 0, 24),
        ((12, 0), 16, 32, 100, 24),
        ((9, 0), 32, 256, 0, 8),  # warps
        ((9, 0), 32, 1000, 0, 2),
        ((8, 6), 32, 1024, 0, 1),
        ((9, 0), 33, 256, 0, 6),  # registers, in units
        ((9, 0), 96, 160, 0, 4),
        ((9, 0), 128, 96, 0, 5),
        ((9, 0), 255, 256, 0, 1),
        ((9, 0), 255, 512, 0, 0),
        ((8, 0), 72, 1024, 0, 0),
        ((9, 0), 16, 128, 20000, 11),  # shared memory, with what is reserved
        ((10, 0), 32, 128, 60000, 3),
        ((8, 9), 32, 128, 98000, 1),
        ((8, 0), 32, 128, 4096, 16),
    ],
)
def test_blocks(capability, registers, threads, shared_bytes, blocks):
    assert occupancy(capability, threads=threads, registers=registers, shared_bytes=shared_bytes).blocks == blocks


def test_warps_and_their_share():
    assert occupancy((9, 0), threads=160, registers=40, shared_bytes=0) == Occupancy(9, 45, 45 / 64)


def test_more_threads_than_a_block_may_have():
    assert occupancy((9, 0), threads=1056, registers=16, shared_bytes=0).blocks == 0


def test_unknown_device():
    with pytest.raises(ValueError, match=r"8\.0, 8\.6, .*, not 7\.5"):
        occupancy((7, 5), threads=32, registers=16, shared_bytes=0)
    assert (9, 0) in LIMITS

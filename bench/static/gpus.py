"""What a launch would take at best by a GPU's published figures. Predicted, never measured.

Memory bandwidth, multiprocessors and clock (boost): NVIDIA A100 Tensor Core GPU Architecture (2020; SXM4, 40 GB),
NVIDIA H100 Tensor Core GPU Architecture (2022; SXM5), NVIDIA DGX B200 datasheet (2024; 8 TB/s a GPU) with
multiprocessors and clock as CUDA tells them, NVIDIA Ada GPU Architecture (2022; GeForce RTX 4090).
"""

from dataclasses import dataclass

LANES = 128  # of a multiprocessor: four schedulers, each of which issues an instruction of one warp a cycle


@dataclass(frozen=True)
class GPU:
    name: str
    target: int  # compute capability, ten times
    processors: int
    clock: float  # Hz
    bandwidth: float  # bytes a second

    def seconds(self, moved_bytes: float, instructions: float) -> tuple[float, str]:
        """The larger of what memory and what instructions of all threads take, and which of them it is."""
        by_memory = moved_bytes / self.bandwidth
        by_instructions = instructions / (self.processors * LANES * self.clock)
        return max((by_memory, "memory"), (by_instructions, "instructions"))


GPUS = (
    GPU("A100", 80, 108, 1.41e9, 1.555e12),
    GPU("H100", 90, 132, 1.83e9, 3.35e12),
    GPU("B200", 100, 148, 1.965e9, 8.0e12),
    GPU("RTX 4090", 89, 128, 2.52e9, 1.008e12),
)

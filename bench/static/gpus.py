"""What a launch would take at best by a GPU's published figures. Predicted, never measured.

Bandwidth and multiprocessors are those of NVIDIA's architecture papers and datasheets: A100 (2020; SXM4, 40 GB), H100
(2022; SXM5), DGX B200 (2024; of one GPU), and Ada (2022; GeForce RTX 4090). The clock is the boost clock, with which
float32 comes to the peak that is published of each.
"""

from dataclasses import dataclass

PREDICTED = "predicted, not measured"
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
    GPU("H100", 90, 132, 1.98e9, 3.35e12),
    GPU("B200", 100, 148, 1.965e9, 8.0e12),
    GPU("RTX 4090", 89, 128, 2.52e9, 1.008e12),
)

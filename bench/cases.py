"""The named shapes that every benchmark runs over."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    name: str
    rows: int
    categories: int
    source: str  # where the shape comes from
    tau: float = 1.0


CASES = (
    Case("MoE router, 8 experts", 65536, 8, "65,536 tokens, Mixtral 8x7B"),
    Case("MoE router, 64 experts", 16384, 64, "16,384 tokens, OLMoE"),
    Case("MoE router, 256 experts", 16384, 256, "16,384 tokens, DeepSeek-V3"),
    Case("VQ codebook", 4096, 1024, "16 images of 16x16 codes, VQGAN"),
    Case("vocabulary", 1024, 32768, "1,024 tokens, Mistral 7B v0.3"),
    Case("quadratic programme", 65536, 2, "the paper: batch 512, 128 binary latents"),
    Case("categorical VAE", 3000, 10, "the paper: batch 100, 30 latents of 10 categories", tau=1.3),
)

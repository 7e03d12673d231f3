"""Draws with the package as it is installed: `python smoke.py cpu`; `cuda` where the CUDA kernels have to be there."""

import sys
from pathlib import Path

import numpy as np
import torch

import reinmax_kernels

ROOT = Path(__file__).resolve().parents[1]
VECTORS = np.load(ROOT / "tests/data/contract_vectors.npz")


def check(device: str) -> None:
    """Contract vectors bit for bit, and a gradient beside the reference's."""
    for name in (
        name.removesuffix("_logits") for name in VECTORS.files if name.startswith("case") and "logits" in name
    ):
        logits = torch.from_numpy(VECTORS[f"{name}_logits"]).to(device)
        seed, offset, row_offset = VECTORS[f"{name}_args"].tolist()
        index = reinmax_kernels.sample(logits, seed=seed, offset=offset, row_offset=row_offset)
        assert index.tolist() == VECTORS[f"{name}_index"].tolist(), f"{name} on {device}"
    gradients = []
    for backend in ("auto", "reference"):
        logits = torch.linspace(-2, 2, 6000, device=device).view(4, 1500).requires_grad_()
        with reinmax_kernels.backend(backend):
            one_hot, _ = reinmax_kernels.reinmax(logits, 0.8, seed=1)
            (one_hot * logits.detach().sin()).sum().backward()
        gradients.append(logits.grad)
    torch.testing.assert_close(*gradients)


def main(kind: str) -> None:
    info = reinmax_kernels.build_info()
    assert ROOT not in Path(reinmax_kernels.__file__).parents, "this is the checkout, not what is installed"
    assert "cpu" in info["backends"]
    assert ("cuda" in info["backends"]) == (kind == "cuda"), info
    check("cpu")
    if torch.cuda.is_available():
        check("cuda")
    print(f"{kind} wheel: {info}, GPU: {torch.cuda.is_available()}")


main(sys.argv[1])

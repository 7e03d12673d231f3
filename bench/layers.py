"""How long bits and codebook lookups take, beside the same made of one-hot samples."""

import argparse
import os
from collections.abc import Callable

import torch
from rich.console import Console
from torch import Tensor

import reinmax_kernels

from . import cases, compare, results
from .cases import Case
from .compare import Calls
from .memory import peak_bytes
from .peers import OURS
from .tables import Row

SECONDS, QUICK_SECONDS = 2.0, 0.05
D = 64  # numbers in a code's vector
BITS = (
    Case("vae", 100, 240, "Bernoulli latents of a VAE: 100 images, 240 bits"),
    Case("mask", 4096, 512, "a bit for each channel"),
)
CODES = (
    Case("vq-1024", 4096, 1024, "VQGAN: 16 images of 16x16 codes"),
    Case("vq-8192", 4096, 8192, "DALL-E's dVAE: 4 images of 32x32 codes"),
)
QUICK_BITS, QUICK_CODES = (Case("vae", 10, 24, "few"),), (Case("vq-64", 100, 64, "few"),)


def bernoulli(logits: Tensor, grad: Tensor, tau: float) -> Calls:
    """Each estimator, and the categories' on pairs of logits (x, 0)."""
    logits = logits.detach().requires_grad_()

    def step(bits: Callable[[Tensor], Tensor]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(bits(logits), logits, grad)

    def pairs(x: Tensor) -> Tensor:
        return torch.stack([x, torch.zeros_like(x)], -1)

    return {
        OURS: step(lambda x: reinmax_kernels.bernoulli(x, "reinmax", tau)[0]),
        "reinmax on pairs": step(lambda x: reinmax_kernels.reinmax(pairs(x), tau)[0][..., 0]),
        "straight_through": step(lambda x: reinmax_kernels.bernoulli(x, "straight_through", tau)[0]),
        "gumbel_softmax": step(lambda x: reinmax_kernels.bernoulli(x, "gumbel_softmax", tau)[0]),
        "gumbel_softmax on pairs": step(lambda x: reinmax_kernels.gumbel_softmax(pairs(x), tau)[0][..., 0]),
        "torch.bernoulli, no gradient": lambda: torch.bernoulli(logits.detach().sigmoid()),
    }


def codebook_lookup(logits: Tensor, grad: Tensor, tau: float) -> Calls:
    """Each estimator, and the product of its one-hot and the codebook."""
    logits = logits.detach().requires_grad_()
    codebook = torch.randn(logits.shape[-1], D).to(logits.detach()).requires_grad_()
    grad = grad[:, :1].expand(-1, D).contiguous()

    def step(vectors: Callable[[Tensor, Tensor], Tensor]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(vectors(logits, codebook), (logits, codebook), grad)

    def ours(estimator: str) -> Callable[[], object]:
        return step(lambda x, b: reinmax_kernels.codebook_lookup(x, b, tau, estimator=estimator)[0])

    return {
        OURS: ours("reinmax"),
        "reinmax, then @": step(lambda x, b: reinmax_kernels.reinmax(x, tau)[0] @ b),
        "straight_through": ours("straight_through"),
        "straight_through, then @": step(lambda x, b: reinmax_kernels.straight_through(x, tau)[0] @ b),
    }


WORKS = {"bernoulli": (bernoulli, BITS, QUICK_BITS), "codebook_lookup": (codebook_lookup, CODES, QUICK_CODES)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    compare.add_arguments(parser)
    parser.add_argument("--tau", type=cases.tau, default=1.0, help="the temperature (default: 1)")


def run(options: argparse.Namespace, console: Console) -> None:
    cases.check_graphs(options)
    torch.manual_seed(options.seed)
    load = round(os.getloadavg()[0], 2)
    rows: list[Row] = []
    for work, (calls_of, chosen, few) in WORKS.items():
        for case in few if options.quick else chosen:
            logits, grad = (
                torch.randn(case.rows, case.categories).to(options.device, getattr(torch, options.dtype))
                for _ in range(2)
            )
            calls = compare.with_triton(calls_of(logits, grad, options.tau), options)
            about = {"work": f"{work}, forward and backward", "case": case.name}
            about |= {"rows": case.rows, "categories": case.categories}
            for row in compare.measure(calls, QUICK_SECONDS if options.quick else SECONDS, about, options):
                peak = peak_bytes(calls[row["peer"]], options.device)
                rows.append({**row, "peak / logits": peak / logits.nbytes})
    compare.print_tables(rows, console)
    compare.print_legend(options, load, console)
    configuration = compare.configuration(options, load) | {"tau": options.tau}
    results.save(options.output, "layers", configuration, rows)

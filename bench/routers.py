"""How long the routers take, beside plain PyTorch that computes the same."""

import argparse
import os
from collections.abc import Callable

import torch
from rich.console import Console
from torch import Tensor

from reinmax_kernels import routing

from . import cases, compare, results, sparse_mixer
from .cases import Case
from .compare import Calls
from .peers import OURS
from .tables import Row

PLAIN = "plain PyTorch"
SECONDS, QUICK_SECONDS = 2.0, 0.05
# A gate's tokens and experts, and how many of these a token goes to.
CASES = {
    Case("moe-8", 65536, 8, "router of Mixtral 8x7B"): (1, 2),
    Case("moe-64", 16384, 64, "router of OLMoE"): (1, 2, 8),
    Case("moe-256", 16384, 256, "router of DeepSeek-V3"): (8,),
}
QUICK_CASES = {Case("moe-8", 512, 8, "router of Mixtral 8x7B, few tokens"): (1, 2)}


def _sparse_mixer(logits: Tensor, k: int, grad: Tensor) -> Calls:
    logits = logits.detach().requires_grad_()

    def forward_backward(router: Callable[[Tensor, int], tuple[Tensor, Tensor]]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(router(logits, k)[1], logits, grad)

    return {OURS: forward_backward(routing.sparse_mixer), PLAIN: forward_backward(sparse_mixer.sparse_mixer)}


def _topk_router(logits: Tensor, k: int, _: Tensor) -> Calls:
    return {OURS: lambda: routing.topk_router(logits, k), "softmax().topk()": lambda: logits.softmax(-1).topk(k)}


def _dispatch_plan(logits: Tensor, k: int, _: Tensor) -> Calls:
    index, _ = routing.topk_router(logits, k)
    flat = index.flatten()
    return {
        OURS: lambda: routing.dispatch_plan(index, logits.shape[-1]),
        "argsort(stable=True)": lambda: flat.argsort(dim=-1, stable=True),
    }


# The works, and the most experts a token can go to in them.
WORKS = {
    "sparse_mixer, forward and backward": (_sparse_mixer, 2),
    "topk_router, forward": (_topk_router, cases.MAX_CATEGORIES),
    "dispatch_plan": (_dispatch_plan, cases.MAX_CATEGORIES),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    compare.add_arguments(parser)


def run(options: argparse.Namespace, console: Console) -> None:
    cases.check_graphs(options)
    torch.manual_seed(options.seed)
    load = round(os.getloadavg()[0], 2)
    rows: list[Row] = []
    for case, ks in (QUICK_CASES if options.quick else CASES).items():
        logits = torch.randn(case.rows, case.categories).to(options.device, getattr(torch, options.dtype))
        for k in ks:
            for work, (calls, most) in WORKS.items():
                if k <= most:
                    about = {"work": work, "case": f"{case.name}, k = {k}", "k": k}
                    about |= {"rows": case.rows, "categories": case.categories}
                    grad = torch.randn(case.rows, k).to(logits)
                    seconds = QUICK_SECONDS if options.quick else SECONDS
                    peers = compare.with_triton(calls(logits, k, grad), options)
                    rows += compare.measure(peers, seconds, about, options)
    compare.print_tables(rows, console)
    compare.print_legend(options, load, console)
    configuration = compare.configuration(options, load)
    results.save(options.output, "routers", configuration, rows)

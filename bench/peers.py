"""What is compared: the works, who does each of them, and what no one can beat.

A new peer is one line in ESTIMATORS, SAMPLERS or BACKWARDS. The first of each is what the others are compared with.
"""

import argparse
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import reinmax
import torch
from torch import Tensor
from torch.nn import functional

import reinmax_kernels
from reinmax_kernels.rows import tau_tensor

from .cases import GRADIENTS, Case

OURS = "reinmax_kernels"
OURS_IN_TRITON = "the same in Triton"  # on a GPU, where our own are the CUDA kernels if they were built
PACKAGE = "reinmax (PyPI)"
SOFTMAX = "softmax, no draw"  # what every estimator computes at the least
LIMIT = "limit"
FRESH_LIMIT = "limit, fresh memory"
COPY = "copy of as many bytes"
LIMITS = {LIMIT: "of_limit", FRESH_LIMIT: "of_fresh", COPY: "of_copy"}  # and how the shares of them are called
ROW_STATE_BYTES = 16  # a row's index (int64) and log-sum-exp (float64), which the forward leaves to the backward


def _reference(logits: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    with reinmax_kernels.backend("reference"):
        return reinmax_kernels.reinmax(logits, tau)


@functools.cache
def _compiled_package() -> Callable[..., tuple[Tensor, ...]]:
    """Made at its first use, because torch.compile takes seconds to import."""
    return torch.compile(reinmax.reinmax, dynamic=False)


# Logits and tau to outputs that carry a gradient, of which the first is the one-hot, where there is one.
ESTIMATORS: dict[str, Callable[[Tensor, float], tuple[Tensor, ...]]] = {
    OURS: reinmax_kernels.reinmax,
    "its reference": _reference,
    PACKAGE: reinmax.reinmax,
    "torch.compile of it": lambda logits, tau: _compiled_package()(logits, tau),
    "gumbel_softmax": lambda logits, tau: (functional.gumbel_softmax(logits, tau, hard=True),),
    SOFTMAX: lambda logits, tau: (functional.softmax(logits if tau == 1 else logits / tau, -1),),
}
SAMPLERS: dict[str, Callable[[Tensor], Tensor]] = {
    OURS: reinmax_kernels.sample,
    "softmax, multinomial": lambda logits: torch.multinomial(logits.softmax(-1), 1),
}


def _gapped_straight_through(*args: Any) -> Tensor:
    return torch.ops.reinmax_kernels.gapped_straight_through_backward(*args, 1.0)


def _gumbel_softmax(*args: Any) -> Tensor:
    seed = torch.zeros(1, dtype=torch.int64, device=args[2].device)
    return torch.ops.reinmax_kernels.gumbel_rao_backward(*args, seed, 0, 0, 1)


def in_triton(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def forced(*args: Any) -> Any:
        with reinmax_kernels.backend("triton"):
            return function(*args)

    return forced


# Take (grad_one_hot, grad_probs, logits, index, log_sum_exp, mask, tau).
BACKWARDS: dict[str, Callable[..., Tensor]] = {
    "reinmax": torch.ops.reinmax_kernels.reinmax_backward,
    "straight_through": torch.ops.reinmax_kernels.straight_through_backward,
    "gapped_straight_through": _gapped_straight_through,
    "gumbel_softmax": _gumbel_softmax,
}


@dataclass(frozen=True)
class Operands:
    """What the works of one case work on."""

    logits: Tensor  # [N, C], wants a gradient
    grads: Sequence[Tensor]  # those that arrive at the outputs: at the one-hot, or at one-hot and probabilities
    tau: float
    index: Tensor
    log_sum_exp: Tensor

    @classmethod
    def random(cls, case: Case, options: argparse.Namespace, generator: torch.Generator) -> "Operands":
        """Normal logits and gradients, of the device, the dtype and the tau that the options name."""

        def normal() -> Tensor:
            numbers = torch.randn(case.rows, case.categories, generator=generator)
            return numbers.to(options.device, getattr(torch, options.dtype))

        logits = normal()
        seed = torch.zeros(1, dtype=torch.int64, device=options.device)
        _, _, index, log_sum_exp = torch.ops.reinmax_kernels.sample_dense(logits, seed, None, 0, 0)
        grads = [normal() for _ in range(GRADIENTS[options.gradients])]
        return cls(logits.requires_grad_(), grads, options.tau, index, log_sum_exp)

    @functools.cached_property
    def rows(self) -> Tensor:
        """The logits, for what needs no gradient."""
        return self.logits.detach()

    @functools.cached_property
    def buffers(self) -> Sequence[Tensor]:
        """Memory that the limits write to again and again."""
        return [torch.zeros_like(self.rows) for _ in range(3)]

    def halves(self, bytes_in_all: int) -> Sequence[Tensor]:
        return [torch.zeros(bytes_in_all // 2, dtype=torch.uint8, device=self.rows.device) for _ in range(2)]


def forward_backward(estimator: Callable[..., tuple[Tensor, ...]], operands: Operands) -> None:
    outputs = estimator(operands.logits, operands.tau)
    arriving = list(zip(outputs, operands.grads, strict=False))
    torch.autograd.grad([output for output, _ in arriving], operands.logits, [grad for _, grad in arriving])


def _forward(estimator: Callable[..., tuple[Tensor, ...]], operands: Operands) -> tuple[Tensor, ...]:
    return estimator(operands.logits, operands.tau)


def _backward(backward: Callable[..., Tensor], operands: Operands) -> Tensor:
    grad_one_hot, grad_probs = [*operands.grads, None][:2]
    tau = tau_tensor(operands.tau, operands.rows.device)
    return backward(grad_one_hot, grad_probs, operands.rows, operands.index, operands.log_sum_exp, None, tau)


def _sample(sampler: Callable[[Tensor], Tensor], operands: Operands) -> Tensor:
    return sampler(operands.rows)


# The limits: the same bytes read and written with next to no arithmetic.


def _copy_and_fill(operands: Operands, out: Sequence[Tensor]) -> Sequence[Tensor]:
    out[0].copy_(operands.rows)
    out[1].zero_()
    return out


def _add(operands: Operands, out: Sequence[Tensor]) -> Sequence[Tensor]:
    add = torch.add if len(operands.grads) == 1 else torch.addcmul
    add(operands.rows, *operands.grads, out=out[-1])
    return out


def _copy_fill_and_add(operands: Operands, out: Sequence[Tensor]) -> Sequence[Tensor]:
    return _add(operands, _copy_and_fill(operands, out))


def _sum(operands: Operands, _: Sequence[Tensor]) -> Tensor:
    return operands.rows.sum(-1)


@dataclass(frozen=True)
class Work:
    title: str
    peers: Mapping[str, Any]
    in_triton: Any  # the first of the peers, by the Triton kernels
    call: Callable[[Any, Operands], object]  # one call of a peer
    limit: Callable[[Operands, Sequence[Tensor]], object]
    # The least that has to move: logits and what has their size, and a row's own bytes.
    reads: int
    writes: int
    row_bytes: int
    differentiates: bool = True  # reads the gradients too, as many as arrive

    def traffic(self, operands: Operands) -> int:
        """Bytes that a call has to read and write at the least."""
        arrays = self.reads + self.writes + (len(operands.grads) if self.differentiates else 0)
        return arrays * operands.rows.nbytes + self.row_bytes * len(operands.rows)

    def calls(self, operands: Operands) -> dict[str, Callable[[], object]]:
        """A call of every peer and of the limits. The first of these writes into memory that is there. On the CPU a
        second one writes into memory that has to be had from the system first, as a call's results have; on a GPU,
        where torch keeps what it once had, the second is a plain copy that reads half the bytes and writes half.
        """
        peers = {**self.peers, **({OURS_IN_TRITON: self.in_triton} if operands.rows.is_cuda else {})}
        calls = {name: functools.partial(self.call, peer, operands) for name, peer in peers.items()}
        calls[LIMIT] = lambda: self.limit(operands, operands.buffers[: self.writes])
        if operands.rows.is_cuda:
            source, target = operands.halves(self.traffic(operands))
            calls[COPY] = lambda: target.copy_(source)
        elif self.writes:
            calls[FRESH_LIMIT] = lambda: self.limit(
                operands, [torch.empty_like(operands.rows) for _ in range(self.writes)]
            )
        return calls


WORKS = {
    "reinmax": Work(
        title="Forward and backward of reinmax and its peers",
        peers=ESTIMATORS,
        in_triton=in_triton(reinmax_kernels.reinmax),
        call=forward_backward,
        limit=_copy_fill_and_add,
        reads=2,  # the logits, forward and backward
        writes=3,  # one-hot, probabilities, gradient
        row_bytes=2 * ROW_STATE_BYTES,
    ),
    "forward": Work(
        title="The forward alone: one-hot and probabilities",
        peers=ESTIMATORS,
        in_triton=in_triton(reinmax_kernels.reinmax),
        call=_forward,
        limit=_copy_and_fill,
        reads=1,
        writes=2,
        row_bytes=ROW_STATE_BYTES,
        differentiates=False,
    ),
    "backward": Work(
        title="The backward alone",
        peers=BACKWARDS,
        in_triton=torch.ops.reinmax_kernels.reinmax_backward.triton,
        call=_backward,
        limit=_add,
        reads=1,
        writes=1,
        row_bytes=ROW_STATE_BYTES,
    ),
    "sample": Work(
        title="One index for each row, without gradient",
        peers=SAMPLERS,
        in_triton=in_triton(reinmax_kernels.sample),
        call=_sample,
        limit=_sum,
        reads=1,
        writes=0,
        row_bytes=8,  # the index
        differentiates=False,
    ),
}


def captured(call: Callable[[], object]) -> Callable[[], object]:
    """The replay of a CUDA graph of the call: its kernels, without what it costs to launch them from Python."""
    stream = torch.cuda.Stream()  # where a capture has to happen, and autograd has to be warmed up
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def failure(call: Callable[[], object], graphs: bool = False) -> str | None:
    """Why a peer can't do its work here, such as a dtype that it has not or torch.compile without a compiler; or what
    no graph can hold.
    """
    try:
        call()
        if graphs:
            captured(call)
    except RuntimeError as error:
        return str(error).strip().partition("\n")[0] or type(error).__name__
    return None

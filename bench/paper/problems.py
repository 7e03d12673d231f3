"""Random problems small enough to enumerate every draw with its probability, in float64: an error of an expected
gradient is an error then, and not noise.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from reinmax_kernels.rows import tau_tensor

Estimator = Callable[[Tensor, Tensor, Tensor], Tensor]  # logits [..., C], draws [...], their gradients g, to ∇logits
Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Estimates:
    """Of every problem P and every draw M: its probability [P, M] and what is estimated from it [P, M, L, C]; and the
    true gradient [P, L, C].
    """

    probability: Tensor
    estimates: Tensor
    true: Tensor

    def mean(self) -> Tensor:
        return torch.einsum("pm,pmlc->plc", self.probability, self.estimates)

    def relative(self, distance: Tensor) -> Tensor:
        """Lengths [P] of [P, L, C] over the true gradient's."""
        return distance.flatten(1).norm(dim=1) / self.true.flatten(1).norm(dim=1)

    def relative_bias(self) -> Tensor:
        """|E[estimate] - ∇E[f(x(D))]| / |∇E[f(x(D))]|."""
        return self.relative(self.mean() - self.true)

    def relative_deviation(self) -> Tensor:
        """The root of E|estimate - E[estimate]|^2, over the length of the true gradient."""
        squares = (self.estimates - self.mean().unsqueeze(1)).flatten(2).square().sum(-1)
        return (self.probability * squares).sum(1).sqrt() / self.true.flatten(1).norm(dim=1)

    def cosine(self) -> Tensor:
        """The expected cosine of the angle between an estimate and the true gradient; 0 for an estimate of zero."""
        cosines = functional.cosine_similarity(self.estimates.flatten(2), self.true.flatten(1).unsqueeze(1), dim=-1)
        return (self.probability * cosines).sum(1)


@dataclass(frozen=True)
class Problems:
    """P random problems: logits and the weights a of x(D) = ⟨a, D⟩ + b, [P, L, C] each, and b [P]."""

    logits: Tensor
    weights: Tensor
    constant: Tensor

    @classmethod
    def random(cls, count: int, latents: int, categories: int, seed: int) -> "Problems":
        generator = torch.Generator().manual_seed(seed)
        shape = (2, count, latents, categories)
        logits, weights = torch.randn(shape, generator=generator, dtype=torch.float64)
        constant = torch.randn(count, generator=generator, dtype=torch.float64)
        return cls(logits, weights / latents**0.5, constant)

    def estimates(self, estimator: Estimator, f: Function) -> Estimates:
        """From every draw, of ∇E[f(x(D))]."""
        latents, categories = self.logits.shape[1:]
        index = torch.tensor(list(itertools.product(range(categories), repeat=latents)))  # [M, L]
        one_hot = functional.one_hot(index, categories).double()
        logits = self.logits.unsqueeze(1).expand(-1, *one_hot.shape)  # [P, M, L, C]
        probability = (logits.log_softmax(-1) * one_hot).sum((-1, -2)).exp()  # [P, M]

        x = torch.einsum("plc,mlc->pm", self.weights, one_hot) + self.constant.unsqueeze(1)
        x.requires_grad_()
        values = f(x)
        (slope,) = torch.autograd.grad(values.sum(), x)
        g = slope.detach()[..., None, None] * self.weights.unsqueeze(1)
        score = one_hot - logits.softmax(-1)
        true = torch.einsum("pm,pmlc->plc", probability * values.detach(), score)
        found = estimator(logits.contiguous(), index.expand(len(logits), -1, -1).contiguous(), g.contiguous())
        return Estimates(probability, found, true)


def library(name: str, logits: Tensor, index: Tensor, g: Tensor, *own: object, tau: float = 1.0) -> Tensor:
    """The gradient that the library's kernel gives for a draw of our choosing; `own`: an estimator's own arguments."""
    backward = getattr(torch.ops.reinmax_kernels, f"{name}_backward")
    return backward(g, None, logits, index, logits.logsumexp(-1), None, tau_tensor(tau, logits.device), *own)


def gumbel_rao(logits: Tensor, index: Tensor, g: Tensor, num_samples: int, tau: float = 1.0) -> Tensor:
    """The library's, with the noise of one seed."""
    return library("gumbel_rao", logits, index, g, torch.zeros(1, dtype=torch.int64), 0, 0, num_samples, tau=tau)

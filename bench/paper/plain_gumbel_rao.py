"""Gumbel-Rao in plain PyTorch, as public code has it, but for memory: samples in chunks, and a stable logarithm."""

import torch
from torch import Tensor

CHUNK_ELEMENTS = 2**22  # of noise at once


def gumbel_rao(logits: Tensor, tau: float = 1.0, num_samples: int = 100) -> tuple[Tensor, Tensor]:
    """One-hot draws and probabilities of logits [N, C]. The gradient is the mean over samples of
    J(softmax(G / tau)) g / tau, with Gumbel-perturbed logits G given the draw.
    """
    probs = logits.softmax(-1)
    index = torch.multinomial(probs.detach(), 1)
    one_hot = torch.zeros_like(logits).scatter_(-1, index, 1.0)
    return _Averaged.apply(logits, one_hot, index, tau, num_samples), probs


class _Averaged(torch.autograd.Function):
    """Chunk by chunk, in the backward, so that no more than a chunk's noise lives at once."""

    @staticmethod
    def forward(ctx, logits, one_hot, index, tau, num_samples):
        ctx.save_for_backward(logits, index)
        ctx.tau, ctx.num_samples = tau, num_samples
        return one_hot.clone()

    @staticmethod
    def backward(ctx, grad):
        logits, index = ctx.saved_tensors
        chunk = max(1, CHUNK_ELEMENTS // logits.numel())
        total = torch.zeros_like(logits)
        for start in range(0, ctx.num_samples, chunk):
            samples = min(chunk, ctx.num_samples - start)
            noisy = conditional_gumbel(logits, index, samples)
            s = (noisy / ctx.tau).softmax(-1)
            total += (s * (grad - (s * grad).sum(-1, keepdim=True))).sum(0)
        return total / (ctx.tau * ctx.num_samples), None, None, None, None


def conditional_gumbel(logits: Tensor, index: Tensor, samples: int) -> Tensor:
    """Gumbel-perturbed logits [K, N, C] given that `index` [N, 1] is the largest."""
    log_exponential = logits.new_empty(samples, *logits.shape).exponential_().log()
    where = index.expand(samples, -1, -1)
    top = logits.logsumexp(-1, keepdim=True) - log_exponential.gather(-1, where)
    return (-torch.logaddexp(log_exponential - logits, -top)).scatter(-1, where, top)

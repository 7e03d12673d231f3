"""SparseMixer's second version in plain PyTorch, as public models run it: what the fused router is compared with."""

import torch
from torch import Tensor

JITTER_EPS = 0.1


class _Weight(torch.autograd.Function):
    """p_D times its factor; differentiated without the factor."""

    @staticmethod
    def forward(ctx, scores: Tensor, drawn_probs: Tensor, drawn: Tensor, probs: Tensor, factor: Tensor) -> Tensor:
        ctx.save_for_backward(drawn_probs, drawn, probs)
        return drawn_probs * factor

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        drawn_probs, drawn, probs = ctx.saved_tensors
        through = grad * drawn_probs
        return (-through * probs).scatter_add(-1, drawn, through), None, None, None, None


def _expert(candidates: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        largest = candidates.max(-1, keepdim=True).values
        far = (largest - scores) / scores.abs().clamp(min=largest) > 2 * JITTER_EPS
    near = candidates.masked_fill(far, -torch.inf)
    gumbel = -torch.empty_like(near).exponential_().log()
    drawn = (near + gumbel).argmax(-1, keepdim=True)
    probs = near.softmax(-1)
    best = probs.argmax(-1, keepdim=True)
    whole = (drawn == best) | (torch.rand_like(largest) > 0.75)
    return drawn, _Weight.apply(scores, probs.gather(-1, drawn), drawn, probs.detach(), 0.3333 + 0.6667 * whole)


def sparse_mixer(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Experts [..., k] and their weights, of one or two draws."""
    drawn, weight = _expert(scores, scores)
    if k == 1:
        return drawn, weight
    second, second_weight = _expert(scores.scatter(-1, drawn, -torch.inf), scores)
    return torch.cat((drawn, second), -1), torch.cat((weight, second_weight), -1)

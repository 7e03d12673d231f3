"""What every backward is made of: probabilities, and the softmax Jacobian applied to a vector."""

import torch
from torch import Tensor

from .sample import masked


def dot(p: Tensor, v: Tensor) -> Tensor:
    """<p, v> over the categories, kept as a dimension of size one."""
    return (p * v).sum(-1, keepdim=True)


def jacobian_product(p: Tensor, v: Tensor) -> Tensor:
    """J(p) v = p (v - <p, v>)."""
    return p * (v - dot(p, v))


def probabilities(x: Tensor, log_sum_exp: Tensor) -> Tensor:
    """softmax(x) from the log-sum-exp that was saved."""
    return (x.double() - log_sum_exp.unsqueeze(-1)).exp().to(x.dtype)


def tempered(x: Tensor, tau: Tensor | None, pi: Tensor) -> Tensor:
    """softmax(x / tau); pi itself at tau = 1. In float64, where no finite tau overflows a difference of logits."""
    if tau is None:
        return pi
    distance = x.double() - x.double().amax(-1, keepdim=True)
    return (distance / tau).softmax(-1).to(x.dtype)


def gradients(
    grad_one_hot: Tensor | None, grad_probs: Tensor | None, logits: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The logits as the estimators see them, and both gradients beside them: 0 where none arrived and where a
    category can't be drawn, whatever arrived there.
    """
    x = masked(logits, mask)
    zero = torch.zeros((), dtype=x.dtype, device=x.device)
    drawable = x != -torch.inf
    g, h = (zero if g is None else torch.where(drawable, g.to(x.dtype), zero) for g in (grad_one_hot, grad_probs))
    return x, g.expand_as(x), h.expand_as(x)

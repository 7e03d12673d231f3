"""Gapped straight-through (Fan et al., ICML 2022): the softmax of logits that were moved until the draw leads them."""

import torch
from torch import Tensor

from .softmax import gradients, jacobian_product, probabilities, tempered


def gapped_straight_through_backward(
    grad_one_hot: Tensor | None,
    grad_probs: Tensor | None,
    logits: Tensor,
    index: Tensor,
    log_sum_exp: Tensor,
    mask: Tensor | None,
    tau: Tensor | None,
    gap: float,
) -> Tensor:
    """J(q) g / tau + J(pi) h, with q = softmax((x + m1 - m2) / tau): m1 lifts the drawn logit to the largest, m2 lowers
    every other one to `gap` below it.
    """
    x, g, h = gradients(grad_one_hot, grad_probs, logits, mask)
    pi = probabilities(x, log_sum_exp)
    below = (x.double() - x.double().amax(-1, keepdim=True)).clamp(max=-gap)
    below = below.scatter(-1, index.unsqueeze(-1), 0.0)
    one = torch.ones((), dtype=torch.float64, device=x.device) if tau is None else tau
    q = tempered(below, one, pi)
    through_sample = (jacobian_product(q, g.double()) / one).to(x.dtype)
    grad_logits = through_sample + jacobian_product(pi, h)
    return grad_logits.to(logits.dtype).contiguous()

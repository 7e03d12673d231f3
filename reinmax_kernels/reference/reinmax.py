"""ReinMax (Liu et al., NeurIPS 2023): Heun's method in place of straight-through's Euler step."""

import torch
from torch import Tensor

from .softmax import dot, gradients, jacobian_product, probabilities, tempered


def reinmax_backward(
    grad_one_hot: Tensor | None,
    grad_probs: Tensor | None,
    logits: Tensor,
    index: Tensor,
    log_sum_exp: Tensor,
    mask: Tensor | None,
    tau: Tensor | None,
) -> Tensor:
    """2 J((p + e) / 2) g - J(pi) g / 2 + J(pi) h, in closed form: with a = <pi, g>, b = <p, g>, e the drawn
    one-hot and g_D its gradient, (e + p)(g - (g_D + b) / 2) - pi (g - a) / 2 + J(pi) h.
    """
    x, g, h = gradients(grad_one_hot, grad_probs, logits, mask)
    pi = probabilities(x, log_sum_exp)
    p = tempered(x, tau, pi)
    drawn = index.unsqueeze(-1)
    e = torch.zeros_like(x).scatter_(-1, drawn, 1.0)
    g_drawn = g.gather(-1, drawn)
    centred = g - 0.5 * (g_drawn + dot(p, g))
    grad_logits = (e + p) * centred - 0.5 * jacobian_product(pi, g) + jacobian_product(pi, h)
    return grad_logits.to(logits.dtype).contiguous()

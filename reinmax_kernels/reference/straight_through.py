"""Straight-through: the sampled one-hot is treated as if it were softmax(logits / tau) (Bengio et al., 2013)."""

from torch import Tensor

from .softmax import gradients, jacobian_product, probabilities


def straight_through_backward(
    grad_one_hot: Tensor | None,
    grad_probs: Tensor | None,
    logits: Tensor,
    index: Tensor,
    log_sum_exp: Tensor,
    mask: Tensor | None,
    tau: Tensor | None,
) -> Tensor:
    """J(p) g / tau + J(pi) h, with pi = softmax(logits), p = softmax(logits / tau)."""
    x, g, h = gradients(grad_one_hot, grad_probs, logits, mask)
    pi = probabilities(x, log_sum_exp)
    if tau is None:
        grad_logits = jacobian_product(pi, g + h)
    else:
        temperature = tau.to(x.dtype)
        p = (x / temperature).softmax(-1)
        grad_logits = jacobian_product(p, g) / temperature + jacobian_product(pi, h)
    return grad_logits.to(logits.dtype).contiguous()

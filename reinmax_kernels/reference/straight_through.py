"""Straight-through: the sampled one-hot is treated as if it were softmax(logits / tau) (Bengio et al., 2013)."""

from torch import Tensor

from .softmax import gradients, jacobian_product, probabilities, tempered


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
    through_sample = jacobian_product(tempered(x, tau, pi), g)
    if tau is not None:
        through_sample = (through_sample.double() / tau).to(x.dtype)
    grad_logits = through_sample + jacobian_product(pi, h)
    return grad_logits.to(logits.dtype).contiguous()

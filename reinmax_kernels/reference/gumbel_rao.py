"""Gumbel-Rao by Monte Carlo (Paulus et al., ICLR 2021): straight-through Gumbel-Softmax averaged over Gumbel noise that
is drawn given the sample. With one sample of noise it is straight-through Gumbel-Softmax itself (Jang et al., 2017).
"""

import torch
from torch import Tensor

from .noise import Stream
from .softmax import gradients, jacobian_product, probabilities


def gumbel_rao_backward(
    grad_one_hot: Tensor | None,
    grad_probs: Tensor | None,
    logits: Tensor,
    index: Tensor,
    log_sum_exp: Tensor,
    mask: Tensor | None,
    tau: Tensor | None,
    seed: Tensor,
    offset: int,
    row_offset: int,
    num_samples: int,
) -> Tensor:
    """The mean over samples k of J(s_k) g / tau, and J(pi) h. s_k = softmax(G_k / tau), where G_k are Gumbel-perturbed
    logits given the draw D: G_D - G_j = log(1 + E_j / (E_D pi_j)) for exponential variates E.
    """
    x, g, h = gradients(grad_one_hot, grad_probs, logits, mask)
    pi = probabilities(x, log_sum_exp)
    rows, categories = logits.shape[:-1].numel(), logits.shape[-1]
    drawn = index.reshape(-1, 1)
    flat_g = g.double().reshape(rows, categories)
    surprise = (log_sum_exp.unsqueeze(-1) - x.double()).reshape(rows, categories)  # -log pi
    inverse_tau = 1.0 if tau is None else 1 / tau
    stream = Stream(seed, offset, row_offset, rows, categories)
    total = torch.zeros_like(flat_g)
    for sample in range(num_samples):
        log_ratios = stream.exponential_ratios(sample, index.reshape(-1)).log() + surprise
        behind = torch.nn.functional.softplus(log_ratios, threshold=40.0).scatter(-1, drawn, 0.0)
        total += jacobian_product((-behind * inverse_tau).softmax(-1), flat_g)
    through_sample = (total * inverse_tau / num_samples).reshape(x.shape).to(x.dtype)
    grad_logits = through_sample + jacobian_product(pi, h)
    return grad_logits.to(logits.dtype).contiguous()

"""Bits, one for each logit: their draw, and the estimators of categorical choices for the two categories (x, 0)."""

import torch
from torch import Tensor

from .. import rows
from . import contract
from .noise import Stream
from .sample import draw_values, masked


def _bit_logits(logits: Tensor, mask: Tensor | None) -> Tensor:
    """The logits as the estimators see them, NaN where no bit can be drawn."""
    x = masked(logits, mask)
    return torch.where(draw_values(x).isnan(), torch.nan, x)


def require_bits(logits: Tensor, mask: Tensor | None) -> None:
    """Raises ValueError for the first logit that no bit can be drawn with."""
    if _bit_logits(logits, mask).isnan().any():
        raise rows.invalid_bit(logits, torch.ones_like(logits, dtype=torch.bool) if mask is None else mask)


def bernoulli(logits: Tensor, seed: Tensor, mask: Tensor | None, offset: int, row_offset: int) -> tuple[Tensor, Tensor]:
    """Bits and their probabilities sigmoid(logits), in the logits' shape and dtype.

    NaN, on devices that do not check: bit 0, probability NaN.
    """
    if logits.device.type == "cpu":
        require_bits(logits, mask)
    x = _bit_logits(logits, mask)
    bits = contract.draw_bits(x.float().flatten(), seed, offset, row_offset).reshape(logits.shape)
    return bits.to(logits.dtype), x.sigmoid().to(logits.dtype).contiguous()


def _gradients(
    grad_bits: Tensor | None, grad_probs: Tensor | None, logits: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The logits as the estimators see them, and both gradients beside them: 0 where none arrived and where the bit is
    certain, whatever arrived there.
    """
    x = _bit_logits(logits, mask)
    zero = torch.zeros((), dtype=x.dtype, device=x.device)
    g, h = (zero if g is None else torch.where(x.isinf(), zero, g.to(x.dtype)) for g in (grad_bits, grad_probs))
    return x, g.expand_as(x), h.expand_as(x)


def _tempered(x: Tensor, tau: Tensor | None) -> Tensor:
    """x / tau, in float64, which no finite tau takes beyond its range."""
    return x.double() if tau is None else x.double() / tau


def _slope(x: Tensor) -> Tensor:
    """The derivative of the sigmoid, P (1 - P)."""
    return x.sigmoid() * (-x).sigmoid()


def _product(x: Tensor, through_bit: Tensor, g: Tensor, h: Tensor, dtype: torch.dtype) -> Tensor:
    return (through_bit.to(x.dtype) * g + _slope(x) * h).to(dtype).contiguous()


def bernoulli_reinmax_backward(
    grad_bits: Tensor | None,
    grad_probs: Tensor | None,
    logits: Tensor,
    bits: Tensor,
    mask: Tensor | None,
    tau: Tensor | None,
) -> Tensor:
    """((1 - s_b^2) - P (1 - P)) g / 2 + P (1 - P) h: s_b is the tempered probability of the bit that was drawn. With o
    = 1 - s_b, that of the other one, 1 - s_b^2 = o (2 - o), which keeps the digits of a small o.
    """
    x, g, h = _gradients(grad_bits, grad_probs, logits, mask)
    other = _tempered(torch.where(bits == 1, -x, x), tau).sigmoid()
    return _product(x, (other * (2 - other) - _slope(x.double())) / 2, g, h, logits.dtype)


def bernoulli_straight_through_backward(
    grad_bits: Tensor | None,
    grad_probs: Tensor | None,
    logits: Tensor,
    bits: Tensor,
    mask: Tensor | None,
    tau: Tensor | None,
) -> Tensor:
    """s (1 - s) g / tau + P (1 - P) h, with s = sigmoid(x / tau)."""
    x, g, h = _gradients(grad_bits, grad_probs, logits, mask)
    return _product(x, _slope(_tempered(x, tau)) / (1.0 if tau is None else tau), g, h, logits.dtype)


def bernoulli_gumbel_softmax_backward(
    grad_bits: Tensor | None,
    grad_probs: Tensor | None,
    logits: Tensor,
    bits: Tensor,
    mask: Tensor | None,
    tau: Tensor | None,
    seed: Tensor,
    offset: int,
    row_offset: int,
) -> Tensor:
    """s (1 - s) g / tau + P (1 - P) h, with s a sigmoid of noisy logits given the bit. They lead by log(1 + rho / o): o
    is the probability of the other bit, rho the ratio of two exponential variates.
    """
    x, g, h = _gradients(grad_bits, grad_probs, logits, mask)
    u = Stream(seed, offset, row_offset, logits.numel(), 2).uniform_of_two(0).reshape(logits.shape)
    log_other = torch.nn.functional.logsigmoid(torch.where(bits == 1, -x, x).double())
    lead = torch.nn.functional.softplus((u / (1 - u)).log() - log_other, threshold=40.0)
    return _product(x, _slope(_tempered(lead, tau)) / (1.0 if tau is None else tau), g, h, logits.dtype)

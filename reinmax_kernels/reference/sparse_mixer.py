"""SparseMixer (Liu, Gao, Chen, 2023) and version 2 (Liu et al., GRIN, 2024): a router that draws its experts."""

import torch
from torch import Tensor

from .. import rows
from . import contract
from .sample import draw_values, masked

_AUXILIARY = 2  # the number of the draw that decides the first expert's factor; before it come the experts' own
_NUMBER_SHIFT = 56  # a draw's number is in the highest byte of the offset

# Of each version: the factor of an expert that is not the best, and the high word of the uniform above which it is 1.
_FACTORS = {1: (0.5, 1 << 31), 2: (0.3333, 3 << 30)}


def _near_best(x: Tensor, jitter_eps: float) -> Tensor:
    """The logits, -inf where (max - x) / max(|x|, max) > 2 jitter_eps. 0 / 0 and what is not finite exceed nothing."""
    largest = x.amax(-1, keepdim=True)
    limit = torch.full((), 2 * jitter_eps, dtype=x.dtype, device=x.device)
    return torch.where((largest - x) / torch.maximum(x.abs(), largest) > limit, -torch.inf, x)


def _without(x: Tensor, index: Tensor) -> Tensor:
    return x.scatter(-1, index.unsqueeze(-1), -torch.inf)


def _factor(version: int, is_best: Tensor, seed: Tensor, offset: int, row_offset: int) -> Tensor:
    """1 where the best expert was drawn or the auxiliary uniform says so, else the version's."""
    factor, high_word = _FACTORS[version]
    low, high, *_ = contract.row_bits(is_best.numel(), seed, offset, row_offset)
    above = (high > high_word) | ((high == high_word) & (low > 0))
    return torch.where(is_best | above, 1.0, torch.full((), factor, dtype=torch.float64, device=is_best.device))


def require_experts_to_draw(logits: Tensor, mask: Tensor | None, k: int) -> None:
    """Raises ValueError for the first row that has fewer than k experts to draw."""
    rows.require_experts_to_draw(logits, mask, contract.valid_rows(draw_values(masked(logits, mask))).flatten(), k)


def sparse_mixer(
    logits: Tensor,
    seed: Tensor | None,
    mask: Tensor | None,
    offset: int,
    row_offset: int,
    k: int,
    version: int,
    jitter_eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Experts [..., k], their weights [..., k] in the logits' dtype, and the log-sum-exps [..., k], in float64, of the
    logits that each was drawn from. Without a seed the best are chosen.

    Rows without a distribution, on devices that do not check: index 0, weights and log-sum-exps NaN.
    """
    tokens, experts = logits.shape[:-1], logits.shape[-1]
    x = masked(logits, mask).reshape(tokens.numel(), experts)
    if logits.device.type == "cpu":
        require_experts_to_draw(logits, mask, k)
    columns = []
    for draw in range(k):
        near = _near_best(x, jitter_eps)
        valid = contract.valid_rows(draw_values(near))
        best = x.argmax(-1)  # the first among equals
        index = torch.where(valid, best, 0)
        log_sum_exp = near.double().logsumexp(-1).masked_fill(~valid, torch.nan)
        if seed is not None:
            index = contract.draw(draw_values(near), seed, offset ^ draw << _NUMBER_SHIFT, row_offset)
        weight = near.softmax(-1).gather(-1, index.unsqueeze(-1)).squeeze(-1).masked_fill(~valid, torch.nan)
        if seed is not None:
            auxiliary = offset ^ (draw + _AUXILIARY) << _NUMBER_SHIFT
            weight = weight * _factor(version, index == best, seed, auxiliary, row_offset).to(x.dtype)
        columns.append((index, weight.to(logits.dtype), log_sum_exp))
        x = _without(x, index)
    index, weight, log_sum_exp = (torch.stack(column, -1).reshape(*tokens, k) for column in zip(*columns, strict=True))
    return index, weight, log_sum_exp


def sparse_mixer_backward(
    grad_weight: Tensor,
    logits: Tensor,
    index: Tensor,
    log_sum_exp: Tensor,
    mask: Tensor | None,
    jitter_eps: float,
    scale: float,
) -> Tensor:
    """The sum over the drawn experts D of scale g_D p_D (e_D - p), p the softmax that each was drawn from."""
    x = masked(logits, mask)
    grad_logits = torch.zeros_like(x)
    for draw in range(index.shape[-1]):
        drawn = index[..., draw : draw + 1]
        p = (_near_best(x, jitter_eps).double() - log_sum_exp[..., draw : draw + 1]).exp().to(x.dtype)
        through = scale * grad_weight[..., draw : draw + 1].to(x.dtype) * p.gather(-1, drawn)
        grad_logits = grad_logits - through * p
        grad_logits = grad_logits.scatter_add(-1, drawn, through)
        x = _without(x, index[..., draw])
    return grad_logits.to(logits.dtype).contiguous()

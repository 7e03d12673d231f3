"""Assignments of tokens to experts, counted and sorted by expert."""

import torch
from torch import Tensor

from .. import rows


def _known(index: Tensor, num_experts: int) -> Tensor:
    """The experts, and `num_experts` for what is none; on the CPU, where it can be told, that is an error."""
    if index.device.type == "cpu":
        rows.require_experts(index, num_experts)
    return torch.where((index >= 0) & (index < num_experts), index, num_experts)


def _counts(known: Tensor, num_experts: int) -> Tensor:
    counts = known.new_zeros((*known.shape[:-1], num_experts + 1)).scatter_add(-1, known, torch.ones_like(known))
    return counts[..., :num_experts].contiguous()


def expert_counts(index: Tensor, num_experts: int) -> Tensor:
    """Of each list of assignments [..., M]: how many each expert has [..., E]."""
    return _counts(_known(index, num_experts), num_experts)


def dispatch_plan(index: Tensor, num_experts: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of each list of assignments [..., M]: how many each expert has [..., E], the positions in the order of their
    experts, and where in that order each position is. Those whose index is no expert come last, and count for none.
    """
    known = _known(index, num_experts)
    order = known.argsort(dim=-1, stable=True)
    positions = torch.arange(index.shape[-1], device=index.device).expand_as(index)
    return _counts(known, num_experts), order, torch.empty_like(order).scatter_(-1, order, positions)

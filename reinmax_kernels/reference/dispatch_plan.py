"""Assignments of tokens to experts, sorted by expert."""

import torch
from torch import Tensor

from .. import rows


def dispatch_plan(index: Tensor, num_experts: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of each list of assignments [..., M]: how many each expert has [..., E], the positions in the order of their
    experts, and where in that order each position is.
    """
    if index.device.type == "cpu":
        rows.require_experts(index, num_experts)
    counts = index.new_zeros((*index.shape[:-1], num_experts)).scatter_add(-1, index, torch.ones_like(index))
    order = index.argsort(dim=-1, stable=True)
    positions = torch.arange(index.shape[-1], device=index.device).expand_as(index)
    return counts, order, torch.empty_like(order).scatter_(-1, order, positions)

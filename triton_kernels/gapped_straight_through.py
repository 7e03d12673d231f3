"""Gapped straight-through (Fan et al., ICML 2022): the softmax of logits that were moved until the draw leads them."""

import functools

import triton
import triton.language as tl

from . import row, straight_through
from .backward import backward
from .upstream import Estimator


@triton.jit
def _weight(behind, is_drawn, inverse_tau, gap_bits):
    """The drawn logit is lifted to the largest, every other one lowered to `gap` below it."""
    gap = row.double(gap_bits).to(behind.dtype)
    return tl.where(is_drawn, 1.0, tl.exp(tl.minimum(behind, -gap) * inverse_tau))


gapped_straight_through_backward = functools.partial(backward, Estimator(straight_through.gradient, weight=_weight))

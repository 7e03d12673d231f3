"""Straight-through: the sampled one-hot is treated as if it were softmax(logits / tau) (Bengio et al., 2013)."""

import functools

import triton
import triton.language as tl  # noqa: F401 (the interpreter looks for it beside every function)

from .backward import backward
from .upstream import Estimator


@triton.jit
def gradient(at, row, inverse_tau):
    """p (g - <p, g>) / tau + pi (h - <pi, h>)."""
    return at.p * (at.g - row.p_g) * inverse_tau + at.pi * (at.h - row.pi_h)


STRAIGHT_THROUGH = Estimator(gradient)
straight_through_backward = functools.partial(backward, STRAIGHT_THROUGH)

"""ReinMax (Liu et al., NeurIPS 2023): Heun's method in place of straight-through's Euler step."""

import functools

import triton
import triton.language as tl

from .backward import backward
from .upstream import Estimator


@triton.jit
def _gradient(at, row, inverse_tau):
    """(e + p)(g - (g_D + <p, g>) / 2) - pi (g - <pi, g>) / 2 + pi (h - <pi, h>)."""
    e = tl.where(at.is_drawn, 1.0, 0.0).to(at.p.dtype)
    through_sample = (e + at.p) * (at.g - 0.5 * (row.g_drawn + row.p_g)) - 0.5 * at.pi * (at.g - row.pi_g)
    return through_sample + at.pi * (at.h - row.pi_h)


@triton.jit
def _away_from_drawn(pi, g, g_drawn):
    return 0.5 * pi * (g - g_drawn)


REINMAX = Estimator(_gradient, _away_from_drawn)
reinmax_backward = functools.partial(backward, REINMAX)

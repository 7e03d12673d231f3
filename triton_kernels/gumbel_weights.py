"""Weights of categories in one sample of Gumbel noise, relative to that of the drawn one."""

import math

import triton
import triton.language as tl

from . import noise
from .upstream import probability

# Probabilities below e**-60 count as that, for their ratios to have no overflow, and the exponent makes up for it: of
# so large a ratio the 1 has no part.
_LEAST_LOG_PROBABILITY = tl.constexpr(-60.0)
_LEAST_PROBABILITY = tl.constexpr(math.exp(-60))


@triton.jit
def base(pi, log_pi, TEMPERED: tl.constexpr):
    """What the weights of categories are made of, one number to hold of each: the probability, or where there is a
    temperature and that is below e**-60, how far its logarithm lies below -60, a negative number.
    """
    if TEMPERED:
        pi = tl.where(log_pi < _LEAST_LOG_PROBABILITY, log_pi - _LEAST_LOG_PROBABILITY, pi)
    return pi


@triton.jit
def base_of_logits(x, log_sum_exp, TEMPERED: tl.constexpr):
    return base(probability(x, log_sum_exp), x - log_sum_exp.to(x.dtype), TEMPERED)


@triton.jit
def _probability(base):
    return tl.where(base < 0.0, _LEAST_PROBABILITY, base)


@triton.jit
def _power(ratio, base, inverse_tau):
    return tl.exp((tl.minimum(base, 0.0) - noise.log_1p(ratio)) * inverse_tau)


@triton.jit
def relative_weight(log_u, log_u_drawn, base, is_drawn, inverse_tau, TEMPERED: tl.constexpr):
    if TEMPERED:
        weight = _power(log_u / (_probability(base) * log_u_drawn), base, inverse_tau)
    else:
        scaled = base * log_u_drawn
        weight = scaled / (scaled + log_u)
    return tl.where(is_drawn, 1.0, weight)


@triton.jit
def slope_of_two(base, u, inverse_tau, TEMPERED: tl.constexpr):
    """s_D s_j of two categories, from a uniform; the base is that of j, the one that was not drawn."""
    if TEMPERED:
        weight = _power(u / ((1.0 - u) * _probability(base)), base, inverse_tau)
        slope = weight / ((weight + 1.0) * (weight + 1.0))
    else:  # a (a + u) / (2 a + u)**2, with a = pi_j (1 - u)
        a = base * (1.0 - u)
        b = a + u
        slope = a * b / ((a + b) * (a + b))
    return slope


@triton.jit
def log_uniform_of(category, sample, source, DTYPE: tl.constexpr):
    """Of one category of one row."""
    u0, u1, u2, u3 = noise.uniforms((category // 4).to(tl.uint32), sample, source, DTYPE)
    word = category % 4
    return noise.log(tl.where(word < 2, tl.where(word == 0, u0, u1), tl.where(word == 2, u2, u3)))

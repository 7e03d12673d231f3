"""Weights of categories in one sample of Gumbel noise, relative to that of the drawn one."""

import math

import triton
import triton.language as tl

from . import noise
from .upstream import probability

# Probabilities below e**-60 count as that, for their ratios to have no overflow, and a factor makes up for it: of so
# large a ratio the 1 has no part.
_LEAST_LOG_PROBABILITY = tl.constexpr(-60.0)
_LEAST_PROBABILITY = tl.constexpr(math.exp(-60))


@triton.jit
def base_and_factor(pi, log_pi, inverse_tau, TEMPERED: tl.constexpr):
    """What the weights of categories are made of: their probabilities, and a factor where there is a temperature."""
    base, factor = pi, pi
    if TEMPERED:
        base = tl.maximum(pi, _LEAST_PROBABILITY)
        factor = tl.exp(tl.minimum(log_pi - _LEAST_LOG_PROBABILITY, 0.0) * inverse_tau)
    return base, factor


@triton.jit
def base_and_factor_of_logits(x, log_sum_exp, inverse_tau, TEMPERED: tl.constexpr):
    return base_and_factor(probability(x, log_sum_exp), x - log_sum_exp.to(x.dtype), inverse_tau, TEMPERED)


@triton.jit
def power(ratio, inverse_tau):
    return tl.exp(-noise.log_1p(ratio) * inverse_tau)


@triton.jit
def relative_weight(log_u, log_u_drawn, base, factor, is_drawn, inverse_tau, TEMPERED: tl.constexpr):
    scaled = base * log_u_drawn
    weight = power(log_u / scaled, inverse_tau) * factor if TEMPERED else scaled / (scaled + log_u)
    return tl.where(is_drawn, 1.0, weight)


@triton.jit
def slope_of_two(base, factor, u, inverse_tau, TEMPERED: tl.constexpr):
    """s_D s_j of two categories, from a uniform; base and factor are those of j, the one that was not drawn."""
    if TEMPERED:
        weight = power(u / ((1.0 - u) * base), inverse_tau) * factor
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

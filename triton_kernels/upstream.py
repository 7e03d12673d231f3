"""What every backward starts from, and what an estimator's gradient is made of."""

from typing import Any, NamedTuple

import triton
import triton.language as tl

from . import row


class Point(NamedTuple):
    """One position of a row: pi = softmax(x) there and p = softmax(x / tau), or what the estimator's weights make of
    it, the gradients of one-hot and probabilities, and whether the category was drawn.
    """

    pi: Any
    p: Any
    g: Any
    h: Any
    is_drawn: Any


class Sums(NamedTuple):
    """Of a row: g at the drawn category, and inner products."""

    g_drawn: Any
    pi_g: Any
    p_g: Any
    pi_h: Any


class Upstream(NamedTuple):
    """What a backward starts from: the gradients, the logits and their mask, and index and log-sum-exp [N]."""

    grad_one_hot: Any
    grad_probs: Any
    logits: Any
    mask: Any
    index: Any
    log_sum_exp: Any
    inner: Any


@triton.jit
def load(up, i, j, inside):
    """Logits and both gradients, in the precision that is computed in."""
    x = row.accumulated(row.load_logits(up.logits, up.mask, i, j, inside, up.inner))
    g = row.load_gradient(up.grad_one_hot, x, i, j, inside, up.inner)
    return x, g, row.load_gradient(up.grad_probs, x, i, j, inside, up.inner)


@triton.jit
def probability(x, log_sum_exp):
    """exp(x - log_sum_exp) in x's precision, of a float64 log-sum-exp."""
    high = log_sum_exp.to(x.dtype)
    return tl.exp((x - high) - (log_sum_exp - high.to(tl.float64)).to(x.dtype))


@triton.jit
def inverse_of(tau, DTYPE: tl.constexpr):
    """1 / tau, inside the range where 0 times it is 0 and -inf times it is -inf."""
    LEAST: tl.constexpr = 2.2250738585072014e-308 if DTYPE == tl.float64 else 1.1754943508222875e-38
    MOST: tl.constexpr = 1.7976931348623157e308 if DTYPE == tl.float64 else 3.4028234663852886e38
    return tl.minimum(tl.maximum(1.0 / tau, LEAST), MOST).to(DTYPE)


@triton.jit
def weight(behind, is_drawn, inverse_tau, setting, WEIGHT: tl.constexpr):
    """Of categories in p, before it is divided by its sum, by how far they lie behind the largest logit."""
    return tl.exp(behind * inverse_tau) if WEIGHT is None else WEIGHT(behind, is_drawn, inverse_tau, setting)


class Estimator(NamedTuple):
    """`gradient(point, sums, inverse_tau)`; at tau = 1 and without a gradient of the probabilities,
    `away_from_drawn(pi, g, g_drawn)`, where a formula needs no sum there; and `weight(behind, is_drawn, inverse_tau,
    setting)`, where p is made of other weights than exp(behind / tau), of how far a logit lies behind the largest.
    """

    gradient: Any
    away_from_drawn: Any = None
    weight: Any = None

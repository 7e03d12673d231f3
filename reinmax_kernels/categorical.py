"""The estimators of categorical choices: what users call."""

import torch
from torch import Tensor

from . import backends, ops, reference, rows


def sample(
    logits: Tensor,
    *,
    dim: int = -1,
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
    seed: int | Tensor | None = None,
    offset: int = 0,
    row_offset: int = 0,
) -> Tensor:
    r"""Draw a category from each row of logits: :math:`D \sim \pi = \mathrm{softmax}(\theta)`.

    The draw is exact to 4.2e-8 in total variation, and the same on every backend, device and thread count for the
    same `(logits, seed, offset, row_offset)`, bit for bit. No gradient flows through it. For a sample without
    one-hot and probabilities this is the fast way: nothing of size [..., C] is written.

    Args:
        logits: unnormalised log-probabilities, [..., C, ...], float16, bfloat16, float32 or float64, any strides.
            A category with logit -inf is never drawn. C is at most 2**23. Draws are made in float32.
        dim: the category dimension. The rows are what remains when it is moved last.
        mask: boolean, broadcastable to the logits, True = allowed. It acts before anything else: whatever a masked
            logit holds (NaN included) does not matter.
        generator: draws the seed when none is given; else the global generator of the device does, so that
            `torch.manual_seed` replays. Cannot be traced by `torch.compile(fullgraph=True)`: use `seed` there.
        seed: an int in [-2**63, 2**64), or an int64 tensor of G elements on the logits' device, one stream for each
            G-th part of the rows (one per request, say). Row i of a group is row `row_offset + i` of its stream.
        offset: 64 bits that select another independent draw of the same seed, such as the step of a training run.
        row_offset: the number of the first row, for a batch that is one part of a larger one.

    Returns:
        int64 indices with the logits' shape less `dim`.

    Raises:
        TypeError: logits no floating-point tensor; a mask or seed of the wrong type.
        IndexError: `dim` out of range.
        ValueError: no category or more than 2**23; a mask or seed that does not fit; a generator of another device;
            on the CPU, a row that holds NaN or +inf, or nothing but -inf (the first such row is named). On a GPU
            nothing waits to find out: such a row has index 0, probabilities NaN and gradient NaN, unless
            REINMAX_KERNELS_CHECK=1 is set, which makes it raise there too.

    Source: inverse-transform sampling on integer weights, with Philox4x32-10 (Salmon et al., SC 2011).
    Differs from it: weights are integers of 39 bits, in chunks of 1024 categories, so that no order of summation
    shows; a category 27.7 nats below the largest of its chunk has weight 0.
    """
    rows_last, mask_last, seeds = operands(logits, dim, mask, generator, seed)
    op = ops.OPS[backends.overload(logits.device)]["sample"]
    index: Tensor = op(
        rows_last, seeds, mask_last, rows.int64_bits(offset, "offset"), rows.int64_bits(row_offset, "row_offset")
    )
    return index


def reinmax(
    logits: Tensor,
    tau: float | Tensor = 1.0,
    hard: bool = True,
    *,
    dim: int = -1,
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
    seed: int | Tensor | None = None,
    offset: int = 0,
    row_offset: int = 0,
) -> tuple[Tensor, Tensor]:
    r"""Draw one-hot samples whose gradient is second-order accurate: ReinMax, Heun's method for a discrete choice.

    With :math:`\pi = \mathrm{softmax}(\theta)`, :math:`\pi_\tau = \mathrm{softmax}(\theta / \tau)`, the draw
    :math:`D \sim \pi` and :math:`J(q) = \mathrm{diag}(q) - q q^\top`, the gradients :math:`g` of the one-hot and
    :math:`h` of the probabilities become

    .. math:: \nabla_\theta = 2\, J\!\left(\tfrac{\pi_\tau + D}{2}\right) g - \tfrac12 J(\pi)\, g + J(\pi)\, h .

    At tau = 1 its expectation is the exact gradient for every quadratic function of the one-hot, and the backward
    is one pass over the row. Larger tau trades bias for variance; the paper tunes it from 1.0 to 1.5.

    Args:
        logits, dim, mask, generator, seed, offset, row_offset: as in :func:`sample`.
        tau: the temperature, finite and > 0, as a number or a tensor of one element (no gradient flows to it). It is
            kept in float64. It changes the gradient alone, never the sample. A tensor on a GPU is used unchecked,
            without synchronisation; under `torch.compile` it can change from call to call without compiling again.
        hard: accepted for the `reinmax` package's signature; only True exists.

    Returns:
        `(one_hot, probs)` in the logits' shape and dtype: the sample, and softmax(logits). Both are differentiable,
        once: a second backward raises RuntimeError. Half types accumulate in float32. Under autocast nothing is
        cast: what comes in bfloat16 leaves in bfloat16. Kept for the backward are the logits themselves, and an
        index and a float64 log-sum-exp a row.

    Raises:
        As :func:`sample`, and ValueError for `hard=False` or a tau that is not finite and > 0, TypeError for a tau
        that is no number.

    Source: Liu et al., "Bridging Discrete and Backpropagation: Straight-Through and Beyond", NeurIPS 2023, Alg. 2.
    Differs from it: nowhere in value; the backward is a closed form of the same expression. The authors' package
    also subtracts the row's mean from the gradient, which is zero but for rounding; here masked categories keep an
    exact 0.
    """
    if not hard:
        raise ValueError("hard: expected True (ReinMax has hard samples only), got False")
    return estimate("reinmax", logits, tau, dim, mask, generator, seed, offset, row_offset)


def straight_through(
    logits: Tensor,
    tau: float | Tensor = 1.0,
    *,
    dim: int = -1,
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
    seed: int | Tensor | None = None,
    offset: int = 0,
    row_offset: int = 0,
) -> tuple[Tensor, Tensor]:
    r"""Draw one-hot samples with the straight-through gradient: the sample is treated as if it were its softmax.

    With :math:`\pi_\tau = \mathrm{softmax}(\theta / \tau)` and the gradients :math:`g` of the one-hot and :math:`h`
    of the probabilities,

    .. math:: \nabla_\theta = \tfrac1\tau J(\pi_\tau)\, g + J(\pi)\, h .

    First-order accurate: at tau = 1 its expectation is the exact gradient for linear functions of the one-hot.

    Args, returns and raises: as :func:`reinmax`, without `hard`.

    Source: Bengio et al., "Estimating or Propagating Gradients Through Stochastic Neurons", 2013; the temperature as
    in Liu et al., NeurIPS 2023, Alg. 1.
    Differs from it: nowhere.
    """
    return estimate("straight_through", logits, tau, dim, mask, generator, seed, offset, row_offset)


def gapped_straight_through(
    logits: Tensor,
    tau: float | Tensor = 1.0,
    gap: float = 1.0,
    *,
    dim: int = -1,
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
    seed: int | Tensor | None = None,
    offset: int = 0,
    row_offset: int = 0,
) -> tuple[Tensor, Tensor]:
    r"""Draw one-hot samples with the gapped straight-through gradient: the softmax of logits that agree with the draw.

    The drawn logit is lifted to the largest, and every other one lowered to `gap` below it or less, neither of which is
    differentiated: :math:`\theta' = \theta + m_1 - m_2` with :math:`m_1 = (\max\theta - \theta_D) D` and
    :math:`m_{2,j} = \mathrm{relu}(\theta_j - \max\theta + \mathrm{gap})` for :math:`j \ne D`, 0 at D. With
    :math:`q = \mathrm{softmax}(\theta' / \tau)` and the gradients :math:`g` of the one-hot and :math:`h` of the
    probabilities,

    .. math:: \nabla_\theta = \tfrac1\tau J(q)\, g + J(\pi)\, h .

    As deterministic given the draw as :func:`straight_through`, and made to behave as :func:`gumbel_softmax` does at
    low temperatures; biased even for linear functions of the one-hot.

    Args, returns and raises: as :func:`reinmax`, without `hard`, and
        gap: how far the drawn logit leads, finite and >= 0. TypeError where it is no number, ValueError where it is
            out of range.

    Source: Fan et al., "Training Discrete Deep Generative Models via Gapped Straight-Through Estimator", ICML 2022.
    Differs from it: nowhere; its GST-1.0 is gap = 1.
    """
    gap = rows.gap_value(gap)
    return estimate("gapped_straight_through", logits, tau, dim, mask, generator, seed, offset, row_offset, gap)


def estimate(
    name: str,
    logits: Tensor,
    tau: float | Tensor,
    dim: int,
    mask: Tensor | None,
    generator: torch.Generator | None,
    seed: int | Tensor | None,
    offset: int,
    row_offset: int,
    setting: float | None = None,
) -> tuple[Tensor, Tensor]:
    """What every estimator does with what its user gave; `setting` is what its backward takes of its own."""
    rows_last, mask_last, seeds = operands(logits, dim, mask, generator, seed)
    one_hot, probs = ops.estimate(
        ops.ESTIMATORS[backends.overload(logits.device)][name],
        rows_last,
        seeds,
        mask_last,
        rows.int64_bits(offset, "offset"),
        rows.int64_bits(row_offset, "row_offset"),
        rows.tau_tensor(tau, logits.device),
        setting,
    )
    if dim in (-1, logits.ndim - 1):
        return one_hot, probs
    return one_hot.movedim(-1, dim), probs.movedim(-1, dim)


def operands(
    logits: Tensor, dim: int, mask: Tensor | None, generator: torch.Generator | None, seed: int | Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor]:
    """What every op takes first: logits and mask with the categories last, and the seeds."""
    rows_last = rows.categories_last(logits, dim)
    mask_last = rows.mask_categories_last(mask, logits, dim)
    if backends.CHECKS:
        reference.require_distributions(rows_last, mask_last)
    return rows_last, mask_last, rows.seed_tensor(seed, generator, rows_last)

"""Routers for mixture-of-experts layers: which experts a token goes to, and with what weight."""

from typing import Any

import torch
from torch import Tensor

from . import backends, ops, reference, router_ops, rows
from .reference.sample import accumulate_dtype

_SCORES = ("softmax", "sigmoid")


def sparse_mixer(
    logits: Tensor,
    k: int = 1,
    *,
    version: int = 2,
    jitter_eps: float = 0.1,
    training: bool = True,
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
    seed: int | Tensor | None = None,
    offset: int = 0,
    row_offset: int = 0,
) -> tuple[Tensor, Tensor]:
    r"""Send each token to an expert that is drawn, with a gradient for the choice: SparseMixer.

    A router that takes the best expert learns from the weight alone: nothing tells it what the expert that was not
    chosen would have done. Here the expert is drawn, and the gradient estimates that of the expectation over draws,
    though a single expert runs. For a token with logits :math:`\theta`:

    1. *Jitter mask.* With :math:`m = \max\theta`, experts with :math:`(m - \theta_i) / \max(|\theta_i|, m) >
       2\epsilon` are left out. Without it a token would now and then be sent to an expert that is no match for it.
    2. *Draw.* :math:`D \sim p = \mathrm{softmax}` of the logits that are left.
    3. *Weight.* :math:`w = p_D` if D is the best expert, or if a uniform U exceeds c; else :math:`w = a\, p_D`. The
       caller multiplies expert D's output by w.
    4. *Gradient.* With :math:`g` that of w, the logits get :math:`s\, g\, p_D (e_D - p)`: the factor a is left out.

    Version 1 has c = 1/2, a = 1/2 and s = 2. That half of the draws that are not the best run their expert at half the
    weight is the midpoint method, a second-order solver like ReinMax's (Heun's): it asks for the loss half-way between
    no expert and expert D. For experts linear in w, where the loss is :math:`w\, c_D`, the mean gradient is exactly
    that of :math:`\sum_D p_D (p_D c_D)`, through choice and weight together. Version 2 (GRIN, Phi-3.5-MoE) has c = 3/4,
    a = 0.3333 and s = 1, after Heun's third-order method, and, for k = 2, draws a second expert the same way among the
    others: steps 1 to 4 once more on the logits with D at -inf. Its two weights do not sum to 1.

    In eval mode the best expert is taken, the lower index among equals, and w = p_D with its own derivative (s = 1).

    Args:
        logits: of the gate, [..., E] with E from 2 to 1024, float16, bfloat16, float32 or float64, any strides. Never
            written to. An expert of logit -inf is never chosen.
        k: 1, or with version 2 also 2 experts a token.
        version: 1 or 2.
        jitter_eps: the mask's :math:`\epsilon`, finite and >= 0. 0 leaves only the best and their equals, 1 and more
            leave all.
        training: False is eval mode: nothing is drawn, and the generator is left alone.
        mask, generator, seed, offset, row_offset: as in :func:`reinmax_kernels.sample`; the mask broadcasts to the
            logits, True = allowed. A token's draws are numbers 0 and 1 of its row, its U numbers 2 and 3.

    Returns:
        `(index, weight)`: int64 [..., k] and weights [..., k] in the logits' dtype, computed in float32 for half types.
        The weights are differentiable, once. Kept for the backward are the logits, and an index and a float64
        log-sum-exp for each expert that was chosen.

    Raises:
        TypeError: logits no floating-point tensor; k no integer; a mask or seed of the wrong type.
        ValueError: fewer than 2 or more than 1024 experts; an unknown version; k out of range, or 2 with version 1;
            jitter_eps < 0; a mask or seed that does not fit; a generator of another device; on the CPU, a row that
            holds NaN or +inf, or fewer than k experts above -inf (the first such row is named; on a GPU its weights are
            NaN, unless REINMAX_KERNELS_CHECK=1 is set).

    Source: Liu, Gao, Chen, "Sparse Backpropagation for MoE Training", 2023, and version 2: Liu et al., "GRIN:
    GRadient-INformed MoE", 2024; its constants are those that the public models were trained with.
    Differs from it: the mask is computed in float32 under half types, where public code rounds the logits' differences
    and ratios, so that experts at its edge can differ. The learned vector by which version 1 multiplies the output is
    the caller's.
    """
    if version not in (1, 2):
        raise ValueError(f"version: expected 1 or 2, got {version!r}")
    rows.router_logits(logits, k)
    if k > version:
        raise ValueError(f"k: expected {'1' if version == 1 else '1 or 2'} with version {version}, got {k}")
    mask = rows.mask_categories_last(mask, logits, -1)
    if backends.CHECKS:
        reference.require_experts_to_draw(logits, mask, int(k))
    router = router_ops.SPARSE_MIXER[backends.overload(logits.device)]
    index, weight, _ = ops.apply(
        router,
        logits,
        rows.seed_tensor(seed, generator, logits) if training else None,
        mask,
        rows.int64_bits(offset, "offset"),
        rows.int64_bits(row_offset, "row_offset"),
        int(k),
        version,
        rows.jitter_value(jitter_eps),
    )
    return index, weight


def topk_router(logits: Tensor, k: int, *, score: str = "softmax", normalize: bool = True) -> tuple[Tensor, Tensor]:
    r"""Send each token to the k experts of largest logit: the deterministic router of most mixtures of experts.

    With the score :math:`s = \mathrm{softmax}(\theta)` or :math:`s_i = 1 / (1 + e^{-\theta_i})` and the k experts
    :math:`i \in K` of largest logit, the weights are :math:`w_i = s_i`, or :math:`w_i = s_i / \sum_{j \in K} s_j` where
    they are normalised. The gradient is theirs: the choice itself has none, so an expert that was not chosen learns
    through the softmax's denominator or not at all. :func:`sparse_mixer` is a router whose choice has a gradient.

    Args:
        logits: of the gate, [..., E] with E from 2 to 1024, float16, bfloat16, float32 or float64, any strides. Never
            written to.
        k: how many experts a token goes to, in [1, E].
        score: "softmax", or "sigmoid", which scores each expert by itself.
        normalize: whether a token's weights sum to 1, as in Mixtral; else they are the scores, as in Switch (k = 1).

    Returns:
        `(index, weight)`: int64 [..., k], the largest logit first and the lower index first among equals, and the
        weights [..., k] in the logits' dtype, computed in float32 for half types. The weights are differentiable, once.
        An expert of logit -inf is chosen after all others, with weight 0.

    Raises:
        TypeError: logits no floating-point tensor; k no integer.
        ValueError: fewer than 2 or more than 1024 experts; k out of range; an unknown score; on the CPU, a row that
            holds NaN or +inf, or nothing but -inf (the first such row is named; on a GPU its weights are NaN, unless
            REINMAX_KERNELS_CHECK=1 is set).

    Source: Shazeer et al., "Outrageously Large Neural Networks", ICLR 2017; Fedus et al., "Switch Transformers", JMLR
    2022; with the sigmoid, DeepSeek-V3, 2024.
    Differs from it: nowhere in value. The order is by logits, which are never rounded to a tie as scores are, and
    normalised sigmoids never divide 0 by 0.
    """
    if score not in _SCORES:
        raise ValueError(f"score: expected one of {', '.join(_SCORES)}; got {score!r}")
    rows.router_logits(logits, k)
    if backends.CHECKS:
        reference.require_scores(logits)
    router = router_ops.TOPK_ROUTER[backends.overload(logits.device)]
    index, weight = ops.apply(router, logits, int(k), score == "sigmoid", bool(normalize))
    return index, weight


def load_balance_loss(probs: Tensor, index: Tensor) -> Tensor:
    r"""The auxiliary loss that keeps experts equally busy: :math:`E \sum_e f_e\, \bar p_e`.

    :math:`f_e` is the share of all assignments that went to expert e, which has no gradient, and :math:`\bar p_e` the
    mean over tokens of the router's probability for e, which has. The loss is 1 where either is uniform and grows to E
    where everything goes to one expert with certainty; its gradient pushes probability from busy experts to idle ones.

    Args:
        probs: the router's probabilities [..., E], floating-point.
        index: the experts that were chosen, int64 [..., k], for the same tokens.

    Returns:
        A scalar, differentiable in `probs`: float64 for float64, else float32. 0 where there are no tokens.

    Raises:
        TypeError: `probs` no floating-point tensor, `index` not int64.
        ValueError: the tokens differ in shape; different devices; on the CPU, an index outside of [0, E) (on a GPU no
            expert counts it, unless REINMAX_KERNELS_CHECK=1 is set).

    Source: Fedus et al., "Switch Transformers", JMLR 2022, equation 4.
    Differs from it: for k > 1 f is the share of all k assignments, so that it sums to 1 for every k.
    """
    rows.categories_last(probs, -1)
    rows.expert_index(index, probs.shape[-1])
    if index.device != probs.device:
        raise ValueError(f"index: expected it on {probs.device} like the probabilities, got {index.device}")
    if index.ndim != probs.ndim or index.shape[:-1] != probs.shape[:-1]:
        tokens = ", ".join(map(str, probs.shape[:-1]))
        raise ValueError(f"index: expected shape ({tokens}, k) for these probabilities, got {tuple(index.shape)}")
    experts = probs.shape[-1]
    counts: Tensor = _routed("expert_counts", index, experts)
    values = probs.to(accumulate_dtype(probs.dtype)).reshape(-1, experts)
    share = counts.to(values.dtype) / max(index.numel(), 1)
    return experts * (share * values.sum(0)).sum() / max(len(values), 1)


def z_loss(logits: Tensor) -> Tensor:
    r"""The auxiliary loss that keeps logits small: the mean over tokens of :math:`(\log \sum_e e^{\theta_e})^2`.

    Large logits are rounded coarsely in half types, and so are the router's probabilities; this loss pulls a row's
    log-sum-exp towards 0.

    Args:
        logits: of the gate, [..., E], floating-point.

    Returns:
        A scalar, differentiable: float64 for float64, else float32. 0 where there are no tokens.

    Raises:
        TypeError: logits no floating-point tensor.

    Source: Zoph et al., "ST-MoE: Designing Stable and Transferable Sparse Expert Models", 2022, equation 5.
    Differs from it: nowhere.
    """
    rows.categories_last(logits, -1)
    squares = logits.to(accumulate_dtype(logits.dtype)).logsumexp(-1).square()
    return squares.sum() / max(squares.numel(), 1)


def dispatch_plan(index: Tensor, num_experts: int) -> tuple[Tensor, Tensor, Tensor]:
    r"""Sort the assignments of tokens to experts by expert: what moves tokens to their experts and back.

    Over the flattened index, assignment i being token i // k. The sort is stable: each expert sees its tokens in their
    order. With `tokens` [T, ...], `tokens[order // k]` are the experts' inputs, `counts[e]` rows for each expert e in
    turn; of their results in the same order, `results[inverse]` are those of the assignments in the order of `index`.

    Args:
        index: the experts that were chosen, int64, any shape, [..., k] from a router.
        num_experts: E; every index is in [0, E).

    Returns:
        `(counts, order, inverse)`, all int64: the number of assignments of each expert [E], the assignments in the
        order of their experts [index.numel()], and the inverse permutation: `order[inverse]` is the identity.

    Raises:
        TypeError: `index` not int64, `num_experts` no integer.
        ValueError: `num_experts` < 1; on the CPU, an index out of range (the first such position is named; on a GPU
            such assignments come last, in their order, and no expert counts them, unless REINMAX_KERNELS_CHECK=1 is
            set).

    Source: a counting sort; Gale et al., "MegaBlocks", MLSys 2023, sorts the same assignments by radix.
    Differs from it: nowhere in value.
    """
    counts, order, inverse = _routed("dispatch_plan", index, num_experts)
    return counts, order, inverse


def _routed(name: str, index: Tensor, num_experts: int) -> Any:
    """What an op makes of the flattened assignments."""
    flat = rows.expert_index(index, num_experts).flatten()
    if backends.CHECKS:
        rows.require_experts(flat, int(num_experts))
    return router_ops.OPS[backends.overload(index.device)][name](flat, int(num_experts))

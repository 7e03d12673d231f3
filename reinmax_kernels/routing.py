"""Routers for mixture-of-experts layers: which experts a token goes to, and with what weight."""

from torch import Tensor

from . import backends, router_ops, rows
from .reference.sample import accumulate_dtype

_SCORES = ("softmax", "sigmoid")


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
            holds NaN or +inf, or nothing but -inf (the first such row is named; on a GPU its weights are NaN).

    Source: Shazeer et al., "Outrageously Large Neural Networks", ICLR 2017; Fedus et al., "Switch Transformers", JMLR
    2022; with the sigmoid, DeepSeek-V3, 2024.
    Differs from it: nowhere in value. The order is by logits, which are never rounded to a tie as scores are, and
    normalised sigmoids never divide 0 by 0.
    """
    if score not in _SCORES:
        raise ValueError(f"score: expected one of {', '.join(_SCORES)}; got {score!r}")
    router = router_ops.TOPK_ROUTER[backends.overload(rows.router_logits(logits, k).device)]
    index, weight = router.apply(logits, k, score == "sigmoid", bool(normalize))
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
        ValueError: the tokens differ in shape; different devices; on the CPU, an index outside of [0, E).

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
    counts, _, _ = dispatch_plan(index, experts)
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
        ValueError: `num_experts` < 1; on the CPU, an index out of range (the first such position is named; on a GPU it
            is an assertion of the device).

    Source: a counting sort; Gale et al., "MegaBlocks", MLSys 2023, sorts the same assignments by radix.
    Differs from it: nowhere in value.
    """
    flat = rows.expert_index(index, num_experts).flatten()
    op = router_ops.OPS[backends.overload(index.device)]["dispatch_plan"]
    counts, order, inverse = op(flat, num_experts)
    return counts, order, inverse

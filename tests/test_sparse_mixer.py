"""The router that draws its experts, against plain PyTorch, its law, and the router of a real model."""

import laws
import numpy as np
import pytest
import torch
from test_contract import vector

import reinmax_kernels
from reinmax_kernels import router_ops, routing, sample

KINDS = [(1, 1), (2, 1), (2, 2)]  # version, k
CUTS = {1: (0.5, 2**63), 2: (0.3333, 3 * 2**62)}  # the factor, and what a uniform of 64 bits has to exceed for 1


class Weigh(torch.autograd.Function):
    """p_D M forward; backward as if M were the version's constant."""

    @staticmethod
    def forward(ctx, probability, factor, scale):
        ctx.scale = scale
        return probability * factor

    @staticmethod
    def backward(ctx, grad):
        return ctx.scale * grad, None, None


def left_by_jitter(scores, jitter_eps):
    largest = scores.max(-1, keepdim=True).values
    return scores.masked_fill((largest - scores) / scores.abs().clamp(min=largest) > 2 * jitter_eps, -torch.inf)


def auxiliary(seed, offset, row_offset, rows, number):
    """The uniforms of 64 bits of draw `number`."""
    row = (row_offset + np.arange(rows)).astype(np.uint64)
    low, high = row & np.uint64(2**32 - 1), row >> np.uint64(32)
    counter = low, high, offset % 2**32, (offset % 2**64 >> 32) ^ (number << 24)
    words = laws._philox(counter, (seed % 2**32, seed % 2**64 >> 32))
    return words[..., 0] | words[..., 1] << np.uint64(32)


def plain(logits, k=1, *, version=2, jitter_eps=0.1, training=True, mask=None, seed=0, offset=0, row_offset=0):
    """Rows [N, E], as the papers have it, with the draws of the contract; in the logits' dtype."""
    scores = logits if mask is None else logits.masked_fill(~mask, -torch.inf)
    chosen, weights = [], []
    for number in range(k):
        near = left_by_jitter(scores, jitter_eps)
        best = scores.argmax(-1)
        drawn = best
        if training:
            with reinmax_kernels.backend("reference"):
                drawn = sample(near.detach(), seed=seed, offset=offset ^ number << 56, row_offset=row_offset)
        probability = near.softmax(-1).gather(-1, drawn.unsqueeze(-1)).squeeze(-1)
        low, cut = CUTS[version]
        above = torch.from_numpy(auxiliary(seed, offset, row_offset, len(logits), number + 2) > np.uint64(cut))
        factor = torch.where((drawn == best) | above, 1.0, torch.tensor(low, dtype=logits.dtype)) if training else 1
        scale = 2 if training and version == 1 else 1
        weights.append(Weigh.apply(probability, factor, scale))
        chosen.append(drawn)
        scores = scores.scatter(-1, drawn.unsqueeze(-1), -torch.inf)
    return torch.stack(chosen, -1), torch.stack(weights, -1)


def step(router, logits, *arguments, **options):
    """Index, weights, and the logits' gradient for weights that matter differently."""
    logits = logits.detach().clone().requires_grad_()
    index, weight = router(logits, *arguments, **options)
    weight.backward(torch.linspace(-1, 2, weight.numel(), dtype=weight.dtype).view_as(weight))
    return index, weight.detach(), logits.grad


def close(actual, expected, atol):
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


STREAM = {"seed": -9, "offset": 2**62 + 5, "row_offset": 2**32 - 20}


@pytest.mark.parametrize(("version", "k"), KINDS)
@pytest.mark.parametrize("experts", [2, 3, 8, 16, 32, 33, 64, 100, 1024])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_router_is_that_of_plain_pytorch(backend, version, k, experts, training, masked, dtype):
    logits = torch.randn(150, experts, dtype=dtype)
    mask = torch.rand(150, experts) < 0.7
    mask[:, :2] = True
    options = STREAM | {"version": version, "training": training, "jitter_eps": 0.3, "mask": mask if masked else None}
    index, weight, grad = step(routing.sparse_mixer, logits, k, **options)
    expected = step(plain, logits, k, **options)
    assert torch.equal(index, expected[0])
    assert (index.dtype, weight.dtype, grad.dtype) == (torch.int64, dtype, dtype)
    atol = 1e-14 if dtype == torch.float64 else 1e-6
    close(weight, expected[1], atol)
    close(grad, expected[2], 4 * atol)
    if masked:
        assert mask.gather(-1, index).all()
        assert (grad[~mask] == 0).all()
    if k == 2:
        assert (index[:, 0] != index[:, 1]).all()


def test_every_case_occurs_in_the_comparison_above():
    # Experts that the jitter leaves out; draws of the best and of another, with the factor and without.
    logits = torch.randn(150, 8)
    near = left_by_jitter(logits, 0.3)
    assert 0.2 < (near == -torch.inf).float().mean() < 0.8
    index, weight = routing.sparse_mixer(logits, version=2, jitter_eps=0.3, **STREAM)
    ratio = (weight / near.softmax(-1).gather(-1, index)).squeeze(-1)
    best = index.squeeze(-1) == logits.argmax(-1)
    for case in (best, ~best & (ratio > 0.9), ~best & (ratio < 0.4)):
        assert case.sum() >= 5


def test_each_draw_is_the_contracts(backend):
    logits, args, index = vector("draw01")  # the second draw of a row
    seed, offset, row_offset = args["seed"], args["offset"] ^ 1 << 56, args["row_offset"]
    certain = torch.cat([logits, torch.full((len(logits), 1), 100.0)], -1)
    ours, _ = routing.sparse_mixer(certain, 2, jitter_eps=1.0, seed=seed, offset=offset, row_offset=row_offset)
    assert (ours[:, 0] == logits.shape[-1]).all()
    assert torch.equal(ours[:, 1], index)


@pytest.mark.parametrize("number", [2, 3])
def test_the_uniforms_of_the_factors_are_those_of_the_contracts_draws(number):
    logits, args, index = vector(f"draw0{number}")
    words = laws._philox([np.arange(len(logits)), 0, 5, number << 24], (args["seed"], 0))
    element = words[..., 2] | words[..., 3] << np.uint64(32)
    prefix = logits.double().softmax(-1).cumsum(-1)
    drawn = (prefix <= torch.from_numpy(element.astype(np.float64) * 2.0**-64).unsqueeze(-1)).sum(-1)
    assert torch.equal(drawn, index)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("experts", [8, 64])
def test_a_uniform_has_to_exceed_the_cut(backend, version, experts):
    # Uniforms at the cut itself and next to it, by Philox run backwards.
    from boundaries import counter_for

    cut = CUTS[version][1]
    logits = torch.zeros(1, experts)
    for uniform, expected in ((cut, False), (cut + 1, True), (cut - 1, False)):
        place = counter_for(uniform, 0, 7)
        place["offset"] ^= 2 << 56
        index, weight = routing.sparse_mixer(logits, version=version, seed=7, **place)
        if index.item() != 0:  # not the first of equals
            assert weight.item() == pytest.approx((1 if expected else CUTS[version][0]) / experts)


# The law.


@pytest.mark.parametrize("jitter_eps", [0.1, 10.0])
def test_version_1_is_exact_for_linear_experts(backend, jitter_eps):
    overload = reinmax_kernels.backends.overload(torch.device("cpu"))
    for experts in (2, 5, 40):
        logits, cost = torch.randn(experts, dtype=torch.float64), torch.randn(experts, dtype=torch.float64)
        theta = logits.clone().requires_grad_()
        p = left_by_jitter(theta, jitter_eps).softmax(-1)
        (expected,) = torch.autograd.grad((p * (p * cost)).sum(), theta)
        every = logits.expand(experts, -1)
        total = left_by_jitter(every, jitter_eps).logsumexp(-1, keepdim=True)
        grad = router_ops.OPS[overload]["sparse_mixer_backward"](
            cost.unsqueeze(-1), every, torch.arange(experts).unsqueeze(-1), total, None, jitter_eps, 2.0
        )
        close((p.detach().unsqueeze(-1) * grad)[p > 0].sum(0), expected, 1e-14)


@pytest.mark.parametrize(("version", "k"), KINDS)
@pytest.mark.parametrize("experts", [4, 40])
def test_the_frequencies_of_experts_and_factors(backend, version, k, experts):
    row = torch.linspace(1.0, 1.2, experts)
    index, weight = routing.sparse_mixer(row.expand(40_000, -1), k, version=version, seed=3)
    p = left_by_jitter(row, 0.1).softmax(-1)
    share = torch.bincount(index[:, 0], minlength=experts) / 40_000
    assert (share - p).abs().max() < 4 * (p / 40_000).sqrt().max()
    other = index[:, 0] != experts - 1
    whole = (weight[:, 0] / p[index[:, 0]])[other] > 0.9
    assert whole.float().mean().item() == pytest.approx(0.5 if version == 1 else 0.25, abs=0.02)


# Edges.


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("experts", [8, 64])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_computed_in_float32_and_rounded_once(backend, training, experts, dtype):
    logits = torch.randn(100, experts).to(dtype)
    options = {"training": training, "seed": 2, "jitter_eps": 0.3}
    index, weight, grad = step(routing.sparse_mixer, logits, 2, **options)
    wide = step(routing.sparse_mixer, logits.float(), 2, **options)
    assert torch.equal(index, wide[0])
    assert torch.equal(weight, wide[1].to(dtype))
    rounding = torch.finfo(dtype).eps
    torch.testing.assert_close(grad.float(), wide[2], rtol=rounding, atol=4 * rounding)  # the arriving one was rounded


@pytest.mark.parametrize(("version", "k"), KINDS)
@pytest.mark.parametrize("experts", [6, 40])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_large_logits_and_infinite_ones_never_give_nan(backend, version, k, experts, training, dtype):
    spread = torch.linspace(-1e4, 1e4, experts)
    one, two = (torch.full((experts,), -torch.inf).index_fill_(0, torch.tensor(at), -1e4) for at in ([4], [2, 4]))
    rows = [torch.full((experts,), value) for value in (1e4, -1e4, 0.0)] + [spread, -spread.flip(0), two]
    rows += [one] if k == 1 else []
    logits = torch.stack(rows).to(dtype)
    index, weight, grad = step(routing.sparse_mixer, logits, k, version=version, training=training, seed=1)
    assert weight.isfinite().all()
    assert grad.isfinite().all()
    assert logits.gather(-1, index).isfinite().all()
    if not training:
        assert index[0].tolist() == list(range(k))


@pytest.mark.parametrize("experts", [9, 70])
def test_eval_is_deterministic_and_ties_go_to_the_lower_index(backend, experts):
    logits = torch.randint(3, (200, experts)).float()
    torch.manual_seed(5)
    state = torch.get_rng_state()
    index, _ = routing.sparse_mixer(logits, 2, training=False)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(index, logits.sort(dim=-1, descending=True, stable=True).indices[:, :2])


def test_training_draws_afresh_and_replays(backend):
    logits = torch.zeros(50, 8)
    torch.manual_seed(1)
    first, second = (routing.sparse_mixer(logits)[0] for _ in range(2))
    assert not torch.equal(first, second)
    torch.manual_seed(1)
    assert torch.equal(routing.sparse_mixer(logits)[0], first)
    generators = [torch.Generator().manual_seed(3) for _ in range(2)]
    assert torch.equal(*(routing.sparse_mixer(logits, generator=g)[0] for g in generators))


@pytest.mark.parametrize(("version", "k"), KINDS)
@pytest.mark.parametrize("experts", [8, 64])
def test_a_split_batch_continues_and_threads_do_not_show(backend, threads, version, k, experts):
    logits = torch.randn(20_011 if experts == 8 else 1011, experts)
    whole = routing.sparse_mixer(logits, k, version=version, seed=4, offset=-3, row_offset=7)
    parts = [
        routing.sparse_mixer(logits[i : i + 401], k, version=version, seed=4, offset=-3, row_offset=7 + i)
        for i in range(0, len(logits), 401)
    ]
    for ours, expected in zip(map(torch.cat, zip(*parts, strict=True)), whole, strict=True):
        assert torch.equal(ours, expected)


@pytest.mark.parametrize("experts", [8, 40])
def test_seeds_of_groups(backend, experts):
    logits, seeds = torch.randn(3, 50, experts), torch.tensor([5, -1, 2**62])
    index, weight = routing.sparse_mixer(logits, 2, seed=seeds, offset=1)
    for group in range(3):
        ours = routing.sparse_mixer(logits[group], 2, seed=seeds[group], offset=1)
        assert torch.equal(index[group], ours[0])
        close(weight[group], ours[1], 1e-7)


@pytest.mark.parametrize("experts", [8, 64])
def test_strides_and_an_expanded_gradient(backend, experts):
    logits = torch.randn(experts, 90, dtype=torch.float64)
    for view in (logits.T, logits.T[::3], logits.T.flip(0)):
        before = view.clone()
        close(step(routing.sparse_mixer, view, 2, seed=1), step(plain, view, 2, seed=1), 1e-13)
        assert torch.equal(view, before)
        leaves = [view.detach().clone().requires_grad_() for _ in range(2)]
        for router, leaf in zip((routing.sparse_mixer, plain), leaves, strict=True):
            router(leaf, 2, seed=1)[1].sum().backward()
        close(leaves[0].grad, leaves[1].grad, 1e-13)


@pytest.mark.parametrize("shape", [(0, 8), (5, 0, 40), (8,), (2, 3, 4, 33)])
@pytest.mark.parametrize("training", [True, False])
def test_shapes(backend, shape, training):
    index, weight, grad = step(routing.sparse_mixer, torch.randn(shape), 2, training=training)
    assert index.shape == weight.shape == (*shape[:-1], 2)
    assert grad.shape == shape


@pytest.mark.slow
@pytest.mark.skipif(reinmax_kernels.backends.native is None, reason="the kernels alone")
def test_millions_of_tokens():
    logits = torch.randn(1, 8).expand(5_000_000, -1)
    index, weight = routing.sparse_mixer(logits, 2, seed=1, row_offset=2**33)
    last = routing.sparse_mixer(logits[-70:], 2, seed=1, row_offset=2**33 + 5_000_000 - 70)
    assert torch.equal(index[-70:], last[0])
    assert torch.equal(weight[-70:], last[1])


# Refusals.


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("experts", [8, 64])
@pytest.mark.parametrize("held", [torch.nan, torch.inf, -torch.inf])
def test_a_row_without_a_distribution_is_named(backend, training, experts, held):
    logits = torch.randn(90, experts)
    logits[71] = held
    logits[80] = torch.nan
    for k in (1, 2):
        with pytest.raises(ValueError, match="logits: row 71 of 90 holds"):
            routing.sparse_mixer(logits, k, training=training)
    mask = torch.ones(90, experts, dtype=torch.bool)
    mask[71] = mask[80] = False
    mask[71, 3] = True
    with pytest.raises(ValueError, match="logits: row 71 of 90 holds"):
        routing.sparse_mixer(logits, mask=mask, training=training)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("experts", [8, 64])
def test_a_row_with_too_few_experts_is_named(backend, training, experts):
    mask = torch.ones(90, experts, dtype=torch.bool)
    mask[33, 1:] = False
    with pytest.raises(ValueError, match="logits: row 33 of 90 has 1 experts above -inf; expected at least k = 2"):
        routing.sparse_mixer(torch.randn(90, experts), 2, mask=mask, training=training)


LOGITS = torch.ones(3, 4)
BAD = [
    (TypeError, "logits: expected float16", (LOGITS.long(),), {}),
    (ValueError, "logits: expected 2 to 1024 experts in the last dimension, got 1", (torch.ones(3, 1),), {}),
    (ValueError, "logits: expected 2 to 1024 experts in the last dimension, got 1025", (torch.ones(3, 1025),), {}),
    (ValueError, "version: expected 1 or 2, got 3", (LOGITS,), {"version": 3}),
    (ValueError, "version: expected 1 or 2, got '2'", (LOGITS,), {"version": "2"}),
    (ValueError, "k: expected 1 with version 1, got 2", (LOGITS, 2), {"version": 1}),
    (ValueError, "k: expected 1 or 2 with version 2, got 3", (LOGITS, 3), {}),
    (ValueError, r"k: expected a value in \[1, 4\] for 4 experts, got 0", (LOGITS, 0), {}),
    (TypeError, "k: expected an int, got float", (LOGITS, 1.0), {}),
    (ValueError, "jitter_eps: expected a finite value >= 0, got -0.1", (LOGITS,), {"jitter_eps": -0.1}),
    (ValueError, "jitter_eps: expected a finite value >= 0, got nan", (LOGITS,), {"jitter_eps": torch.nan}),
    (TypeError, "jitter_eps: expected a real number, got str", (LOGITS,), {"jitter_eps": "0.1"}),
    (TypeError, "mask: expected a boolean tensor", (LOGITS,), {"mask": LOGITS}),
    (ValueError, "mask: expected it on cpu", (LOGITS,), {"mask": torch.ones(3, 4, dtype=torch.bool, device="meta")}),
    (ValueError, "seed: expected it on cpu", (LOGITS,), {"seed": torch.ones(1, dtype=torch.int64, device="meta")}),
    (ValueError, "seed: expected a number of seeds that divides the 3 rows", (LOGITS,), {"seed": torch.arange(2)}),
]


@pytest.mark.parametrize(("error", "message", "arguments", "options"), BAD)
def test_bad_input(error, message, arguments, options):
    with pytest.raises(error, match=message):
        routing.sparse_mixer(*arguments, **options)


# PyTorch's transformations.


@pytest.mark.parametrize("overload", router_ops.OVERLOADS)
@pytest.mark.parametrize("seed", [None, torch.tensor([1]), torch.arange(3)], ids=["eval", "one seed", "three seeds"])
@pytest.mark.parametrize("masked", [True, False])
def test_opcheck(overload, seed, masked):
    ops = router_ops.OPS[overload]
    logits, mask = torch.randn(5, 6).T, torch.tensor([True, True, False, True, True]) if masked else None
    args = logits, seed, mask, 2, 7, 2, 2, 0.3
    torch.library.opcheck(ops["sparse_mixer"], args)
    index, weight, log_sum_exp = ops["sparse_mixer"](*args)
    backward_args = torch.randn_like(weight), logits, index, log_sum_exp, mask, 0.3, 2.0
    torch.library.opcheck(ops["sparse_mixer_backward"], backward_args)


def gradient_step(function, logits, *arguments):
    logits = logits.detach().clone().requires_grad_()
    index, weight = function(logits, *arguments)
    (weight * torch.arange(1.0, weight.numel() + 1).view_as(weight)).sum().backward()
    return index, weight.detach(), logits.grad


@pytest.mark.parametrize("with_backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("training", [True, False])
def test_compiled_to_one_graph(backend, with_backend, training):
    torch._dynamo.reset()

    def model(logits, seed):
        return routing.sparse_mixer(2 * logits, 2, seed=seed, training=training)

    function = torch.compile(model, fullgraph=True, backend=with_backend)
    for n in (6, 11):
        logits, seed = torch.randn(n, 8), torch.tensor([n])
        ours, expected = (gradient_step(f, logits, seed) for f in (function, model))
        assert torch.equal(ours[0], expected[0])
        close(ours[1:], expected[1:], 1e-5)


@pytest.mark.parametrize("in_dim", [0, 1, 2])
@pytest.mark.parametrize("training", [True, False])
def test_vmap_and_its_gradient(backend, in_dim, training):
    logits, seeds = torch.randn(3, 5, 8), torch.arange(3)
    masks = torch.rand(3, 8) < 0.7
    masks[:, :2] = True

    def router(x, seed, mask):
        return routing.sparse_mixer(x, 2, seed=seed, mask=mask, training=training)

    def loss(x, seed, mask):
        return (router(x, seed, mask)[1] * torch.tensor([1.0, -2.0])).sum()

    dims = (in_dim, 0, 0)
    entries = list(zip(logits, seeds, masks, strict=True))
    index, weight = torch.func.vmap(router, dims)(logits.movedim(0, in_dim), seeds, masks)
    assert torch.equal(index, torch.stack([router(*entry)[0] for entry in entries]))
    close(weight, torch.stack([router(*entry)[1] for entry in entries]), 1e-6)
    grad = torch.func.vmap(torch.func.grad(loss), dims)(logits.movedim(0, in_dim), seeds, masks)
    close(grad, torch.stack([torch.func.grad(loss)(*entry) for entry in entries]), 1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_vmap_over_nothing_gives_nothing(backend, training):
    logits = torch.randn(0, 5, 8, requires_grad=True)
    index, weight = torch.func.vmap(lambda x: routing.sparse_mixer(x, 2, training=training), randomness="same")(logits)
    assert index.shape == weight.shape == (0, 5, 2)
    (grad,) = torch.autograd.grad(weight.sum(), logits)
    assert grad.shape == logits.shape


def test_vmap_draws_as_its_randomness_says(backend):
    logits = torch.zeros(6, 40, 9)
    for randomness, distinct in (("different", 6), ("same", 1)):
        index, _ = torch.func.vmap(routing.sparse_mixer, randomness=randomness)(logits)
        assert len(index.unique(dim=0)) == distinct


def test_autocast_keeps_the_dtype_that_comes_in(backend):
    linear = torch.nn.Linear(5, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = linear(torch.randn(10, 5))
        _, weight = routing.sparse_mixer(logits, 2)
    assert (logits.dtype, weight.dtype) == (torch.bfloat16, torch.bfloat16)
    weight.sum().backward()
    assert linear.weight.grad.isfinite().all()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_shape_functions_on_any_device(device):
    with torch._subclasses.FakeTensorMode():
        index, weight = routing.sparse_mixer(torch.empty(4, 7, 8, device=device, dtype=torch.float16), 2)
        assert (index.shape, index.dtype, index.device.type) == ((4, 7, 2), torch.int64, device)
        assert (weight.shape, weight.dtype, weight.device.type) == ((4, 7, 2), torch.float16, device)


def test_only_small_tensors_are_kept_beside_the_logits(backend):
    logits, kept = torch.randn(30, 8, requires_grad=True), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        routing.sparse_mixer(logits, 2)
    own = [t for t in kept if t.untyped_storage().data_ptr() != logits.untyped_storage().data_ptr()]
    assert sorted(((t.dtype, t.numel()) for t in own), key=str) == [(torch.float64, 60), (torch.int64, 60)]


# A real model's router.


@pytest.mark.parametrize("jitter_eps", [0.01, 0.1, 0.5])
def test_phi_moe_in_eval_mode(backend, jitter_eps):
    modeling = pytest.importorskip("transformers.models.phimoe.modeling_phimoe", reason="no transformers")
    config = modeling.PhimoeConfig(hidden_size=24, num_local_experts=16, router_jitter_noise=jitter_eps)
    router, tokens = modeling.PhimoeTopKRouter(config).eval(), torch.randn(500, 24)
    with torch.no_grad():
        router.weight.normal_()
    logits, expected_weight, expected_index = router(tokens)
    arriving = torch.linspace(-1, 2, expected_weight.numel()).view_as(expected_weight)
    (expected,) = torch.autograd.grad(expected_weight, logits, arriving)
    index, weight, grad = step(routing.sparse_mixer, logits, 2, jitter_eps=jitter_eps, training=False)
    assert torch.equal(index, expected_index)
    close(weight, expected_weight.detach(), 1e-6)
    close(grad, expected, 1e-6)


# The ops by themselves: the public functions check first, but without them nothing may be read outside of the tensors.


def refused(op, given, change, message):
    with pytest.raises(ValueError, match=message):
        router_ops.OPS["default"][op](*(given | change).values())


kernels_only = pytest.mark.skipif(
    reinmax_kernels.backends.native is None, reason="the reference leaves these checks to PyTorch"
)


@kernels_only
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits": torch.zeros(6, 1)}, "logits: expected 2 to 1024 experts"),
        ({"logits": torch.zeros(6, 1025)}, "logits: expected 2 to 1024 experts"),
        ({"logits": torch.zeros(6, 5).bool()}, "logits: expected floating-point numbers"),
        ({"seed": torch.arange(4)}, "seed: expected int64 seeds whose number divides the rows"),
        ({"mask": torch.ones(6, 4).bool()}, "expected a tensor that broadcasts to the logits' shape"),
        ({"mask": torch.ones(6, 5)}, "mask: expected a boolean tensor"),
        ({"k": 0}, r"k: expected a value in \[1, E\]"),
        ({"k": 3}, "k: expected 1 or 2"),
        ({"version": 1, "k": 2}, "version: expected 2, or 1 with k = 1"),
        ({"version": 3}, "version: expected 2, or 1 with k = 1"),
        ({"jitter_eps": -0.1}, "jitter_eps: expected a finite value >= 0"),
        ({"jitter_eps": torch.nan}, "jitter_eps: expected a finite value >= 0"),
    ],
)
def test_the_kernel_refuses_to_draw_outside_of_its_tensors(change, message):
    given = {"logits": torch.zeros(6, 5), "seed": torch.arange(3), "mask": None, "offset": 0, "row_offset": 0}
    refused("sparse_mixer", given | {"k": 1, "version": 2, "jitter_eps": 0.1}, change, message)


@kernels_only
@pytest.mark.parametrize(
    ("change", "message"),
    [
        *(({"index": torch.full((6, 2), j)}, "index: expected experts in") for j in (-1, 5, 2**40)),
        ({"index": torch.zeros(5, 2).long()}, "index: expected int64"),
        ({"index": torch.zeros(6, 2).int()}, "index: expected int64"),
        ({"index": torch.zeros(6, 6).long()}, r"k: expected a value in \[1, E\]"),
        ({"grad_weight": torch.ones(6, 3)}, "expected a tensor that broadcasts"),
        ({"grad_weight": torch.ones(6, 2).double()}, "grad_weight: expected the logits' dtype"),
        ({"log_sum_exp": torch.zeros(6, 2)}, "log_sum_exp: expected float64"),
        ({"log_sum_exp": torch.zeros(6, 1).double()}, "log_sum_exp: expected float64"),
    ],
)
def test_the_kernels_refuse_a_backward_outside_of_their_tensors(change, message):
    index = torch.zeros(6, 2).long()
    given = {"grad_weight": torch.ones(6, 2), "logits": torch.zeros(6, 5), "index": index}
    own = {"log_sum_exp": index.double(), "mask": None, "jitter_eps": 0.1, "scale": 1.0}
    refused("sparse_mixer_backward", given | own, change, message)
    if "log_sum_exp" not in change:
        refused("topk_router_backward", given | {"sigmoid": False, "normalize": True}, change, message)

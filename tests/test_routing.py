"""The deterministic router, its losses and its plan, against plain PyTorch."""

from unittest import mock

import pytest
import torch

from reinmax_kernels import backends, ops, router_ops, routing

FORMS = [(score, normalize) for score in ("softmax", "sigmoid") for normalize in (True, False)]
SIZES = [(2, 1), (2, 2), (7, 3), (8, 2), (32, 32), (33, 1), (64, 8), (100, 100), (1024, 4)]


def plain(logits, k, score, normalize):
    """As it stands in models, with the gradient of autograd."""
    scores = logits.softmax(-1) if score == "softmax" else logits.sigmoid()
    index = logits.detach().sort(dim=-1, descending=True, stable=True).indices[..., :k]
    weight = scores.gather(-1, index)
    return index, weight / weight.sum(-1, keepdim=True) if normalize else weight


def step(router, logits, *arguments, **options):
    """Index, weights, and the logits' gradient for weights that matter differently."""
    logits = logits.detach().clone().requires_grad_()
    index, weight = router(logits, *arguments, **options)
    arriving = torch.linspace(-1, 2, weight.numel(), dtype=weight.dtype).view_as(weight)
    weight.backward(arriving)
    return index, weight.detach(), logits.grad


def close(actual, expected, atol):
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


@pytest.mark.parametrize(("score", "normalize"), FORMS)
@pytest.mark.parametrize(("experts", "k"), SIZES)
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-14), (torch.float32, 1e-6)])
def test_the_router_and_its_gradient_are_those_of_plain_pytorch(backend, score, normalize, experts, k, dtype, atol):
    logits = 2 * torch.randn(3, 45, experts, dtype=dtype)
    index, weight, grad = step(routing.topk_router, logits, k, score=score, normalize=normalize)
    expected = step(plain, logits.double(), k, score, normalize)
    assert torch.equal(index, expected[0])
    assert (index.dtype, weight.dtype, grad.dtype) == (torch.int64, dtype, dtype)
    close(weight.double(), expected[1], atol)
    close(grad.double(), expected[2], 10 * atol)


@pytest.mark.parametrize(("score", "normalize"), FORMS)
@pytest.mark.parametrize("experts", [8, 64])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_rounded_once(backend, score, normalize, experts, dtype):
    logits = (2 * torch.randn(50, experts)).to(dtype)
    index, weight, grad = step(routing.topk_router, logits, 3, score=score, normalize=normalize)
    wide = step(routing.topk_router, logits.float(), 3, score=score, normalize=normalize)
    assert torch.equal(index, wide[0])
    assert torch.equal(weight, wide[1].to(dtype))
    rounding = torch.finfo(dtype).eps
    torch.testing.assert_close(grad.float(), wide[2], rtol=rounding, atol=4 * rounding)  # the arriving one was rounded


@pytest.mark.parametrize(("score", "normalize"), FORMS)
@pytest.mark.parametrize("experts", [6, 40])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_large_logits_and_infinite_ones_never_give_nan(backend, score, normalize, experts, dtype):
    rows = [torch.full((experts,), value) for value in (1e4, -1e4, 0.0)]
    rows += [
        torch.linspace(-1e4, 1e4, experts),
        torch.full((experts,), -torch.inf).index_fill_(0, torch.tensor(4), -1e4),
    ]
    index, weight, grad = step(routing.topk_router, torch.stack(rows).to(dtype), 5, score=score, normalize=normalize)
    assert weight.isfinite().all()
    assert grad.isfinite().all()
    if normalize:
        close(weight.float().sum(-1), torch.ones(len(rows)), 1e-2)
    assert index[:3].tolist() == [[0, 1, 2, 3, 4]] * 3  # ties go to the lower index
    assert index[4].tolist() == [4, 0, 1, 2, 3]  # what can't be had comes last, each once
    assert (weight[4, 1:] == 0).all()


def test_ties_go_to_the_lower_index(backend):
    for experts in (9, 70):
        logits = torch.randint(3, (200, experts)).float()
        index, _ = routing.topk_router(logits, experts)
        assert torch.equal(index, logits.sort(dim=-1, descending=True, stable=True).indices)


@pytest.mark.parametrize(("score", "normalize"), FORMS)
@pytest.mark.parametrize("shape", [(0, 8), (5, 0, 40), (8,), (2, 3, 4, 33)])
def test_shapes(backend, score, normalize, shape):
    index, weight, grad = step(routing.topk_router, torch.randn(shape), 2, score=score, normalize=normalize)
    assert index.shape == weight.shape == (*shape[:-1], 2)
    assert grad.shape == shape


@pytest.mark.parametrize("experts", [8, 64])
def test_strides_and_broadcast_gradients(backend, experts):
    logits = torch.randn(experts, 30, dtype=torch.float64)
    for view in (logits.T, logits.T.expand(3, -1, -1), logits.T[::3], logits.T.flip(0)):
        before = view.clone()
        index, weight, grad = step(routing.topk_router, view, 3, normalize=False)
        expected = step(plain, view, 3, "softmax", False)
        assert torch.equal(index, expected[0])
        close(weight, expected[1], 1e-14)
        close(grad, expected[2], 1e-13)
        assert torch.equal(view, before)
        leaf = view.detach().clone().requires_grad_()
        routing.topk_router(leaf, 3, normalize=False)[1].sum().backward()  # an expanded gradient arrives
        other = view.detach().clone().requires_grad_()
        plain(other, 3, "softmax", False)[1].sum().backward()
        close(leaf.grad, other.grad, 1e-13)


def test_many_tokens_on_any_number_of_threads(backend, threads):
    logits = torch.randn(30_000, 8)
    index, weight = routing.topk_router(logits, 2)
    expected = torch.topk(logits.softmax(-1), 2)
    assert torch.equal(index, expected.indices)
    close(weight, expected.values / expected.values.sum(-1, keepdim=True), 1e-6)


@pytest.mark.parametrize("held", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("experts", [8, 64])
def test_a_row_without_an_order_is_named(backend, held, experts):
    logits = torch.randn(90, experts)
    logits[71] = held
    logits[80] = torch.nan
    with pytest.raises(ValueError, match="logits: row 71 of 90 holds"):
        routing.topk_router(logits, 2)


BAD_ROUTERS = [
    (TypeError, "logits: expected a tensor, got list", ([[1.0, 2.0]], 1), {}),
    (TypeError, "logits: expected float16", (torch.ones(3, 4).long(), 1), {}),
    (ValueError, "logits: expected 2 to 1024 experts in the last dimension, got 1", (torch.ones(3, 1), 1), {}),
    (ValueError, "logits: expected 2 to 1024 experts in the last dimension, got 1025", (torch.ones(3, 1025), 1), {}),
    (TypeError, "k: expected an int, got float", (torch.ones(3, 4), 1.0), {}),
    (TypeError, "k: expected an int, got bool", (torch.ones(3, 4), True), {}),
    (ValueError, r"k: expected a value in \[1, 4\] for 4 experts, got 0", (torch.ones(3, 4), 0), {}),
    (ValueError, r"k: expected a value in \[1, 4\] for 4 experts, got 5", (torch.ones(3, 4), 5), {}),
    (ValueError, "score: expected one of softmax, sigmoid; got 'tanh'", (torch.ones(3, 4), 1), {"score": "tanh"}),
]


@pytest.mark.parametrize(("error", "message", "arguments", "options"), BAD_ROUTERS)
def test_bad_input_of_the_router(error, message, arguments, options):
    with pytest.raises(error, match=message):
        routing.topk_router(*arguments, **options)


# The plan.


@pytest.mark.parametrize("shape", [(0,), (1,), (7, 2), (3, 50, 4), (26_667, 3)])
@pytest.mark.parametrize("experts", [1, 8, 1000])
def test_the_plan_sorts_stably(backend, threads, shape, experts):
    index = torch.randint(experts, shape)
    counts, order, inverse = routing.dispatch_plan(index, experts)
    flat = index.flatten()
    assert torch.equal(counts, torch.bincount(flat, minlength=experts))
    assert torch.equal(order, flat.argsort(stable=True))
    assert torch.equal(order[inverse], torch.arange(flat.numel()))
    assert {t.dtype for t in (counts, order, inverse)} == {torch.int64}


@pytest.mark.parametrize("shape", [(0,), (3, 0), (9,), (40_000,), (2, 3, 20_000)])
def test_experts_are_counted(overload, threads, shape):
    index = torch.randint(7, shape)
    counts = router_ops.OPS[overload]["expert_counts"](index, 7)
    assert counts.dtype == torch.int64
    assert torch.equal(counts, torch.nn.functional.one_hot(index, 7).sum(-2))


def test_where_it_is_not_an_error_the_reference_sorts_what_is_no_expert_behind_all_others():
    """As on a GPU."""
    index = torch.tensor([-1, 1, 4, 0, 2**40, 1])
    with mock.patch("reinmax_kernels.rows.require_experts"):
        counts, order, inverse = router_ops.OPS["reference"]["dispatch_plan"](index, 2)
    assert counts.tolist() == [1, 2]
    assert order.tolist() == [3, 1, 5, 0, 2, 4]
    assert torch.equal(order[inverse], torch.arange(6))


def test_the_plan_moves_tokens_to_their_experts_and_back(backend):
    tokens, experts = torch.randn(60, 5), torch.randn(8, 5)
    index, weight = routing.topk_router(torch.randn(60, 8), 2)
    counts, order, inverse = routing.dispatch_plan(index, 8)
    inputs = tokens[order // 2].split(counts.tolist())
    results = torch.cat([rows * expert for rows, expert in zip(inputs, experts, strict=True)])
    combined = (results[inverse].view(60, 2, 5) * weight.unsqueeze(-1)).sum(1)
    close(combined, (tokens.unsqueeze(1) * experts[index] * weight.unsqueeze(-1)).sum(1), 1e-6)


@pytest.mark.parametrize("bad", [-1, 8, 2**40])
def test_an_index_out_of_range_is_named(backend, bad):
    index = torch.randint(8, (100_000,))
    index[70_123] = bad
    message = rf"index: expected experts in \[0, 8\), got {bad} at position 70123"
    with pytest.raises(ValueError, match=message):
        routing.dispatch_plan(index.view(-1, 2), 8)
    with pytest.raises(ValueError, match="index: expected experts"):
        routing.load_balance_loss(torch.ones(50_000, 8) / 8, index.view(-1, 2))


def test_bad_input_of_the_plan():
    for index in ([0], torch.zeros(3), torch.zeros(3).int()):
        with pytest.raises(TypeError, match="index: expected an int64 tensor"):
            routing.dispatch_plan(index, 4)
    with pytest.raises(ValueError, match="num_experts: expected at least 1, got 0"):
        routing.dispatch_plan(torch.zeros(3).long(), 0)
    with pytest.raises(TypeError, match="num_experts: expected an int, got float"):
        routing.dispatch_plan(torch.zeros(3).long(), 4.0)


# The losses.


@pytest.mark.parametrize("k", [1, 3])
def test_the_balance_loss_by_its_formula(backend, k):
    probs = torch.randn(4, 10, 6, dtype=torch.float64).softmax(-1).requires_grad_()
    index = probs.detach().topk(k).indices
    share = torch.stack([(index == e).double().mean() for e in range(6)])
    expected = 6 * sum(share[e] * probs[..., e].mean() for e in range(6))
    loss = routing.load_balance_loss(probs, index)
    close(loss, expected, 1e-14)
    close(torch.autograd.grad(loss, probs), torch.autograd.grad(expected, probs), 1e-15)


def test_the_balance_loss_is_one_where_experts_are_equally_busy_and_e_where_one_has_all(backend):
    index = torch.arange(24).remainder(8).view(12, 2)
    assert routing.load_balance_loss(torch.randn(12, 8).softmax(-1), index).item() == pytest.approx(1)
    certain = torch.nn.functional.one_hot(torch.zeros(12).long(), 8).float()
    assert routing.load_balance_loss(certain, torch.zeros(12, 1).long()).item() == pytest.approx(8)


def test_the_z_loss_by_its_formula():
    logits = torch.randn(4, 10, 6, dtype=torch.float64, requires_grad=True)
    expected = logits.exp().sum(-1).log().square().mean()
    loss = routing.z_loss(logits)
    close(loss, expected, 1e-14)
    close(torch.autograd.grad(loss, logits), torch.autograd.grad(expected, logits), 1e-15)
    assert routing.z_loss(torch.full((3, 5), 1e4)).isfinite()


def test_losses_of_half_types_are_in_float32_and_those_of_nothing_are_zero(backend):
    logits = torch.randn(200, 8).bfloat16()
    index, _ = routing.topk_router(logits, 2)
    for loss, wide in (
        (routing.z_loss(logits), routing.z_loss(logits.float())),
        (
            routing.load_balance_loss(logits.softmax(-1), index),
            routing.load_balance_loss(logits.softmax(-1).float(), index),
        ),
    ):
        assert loss.dtype == torch.float32
        assert torch.equal(loss, wide)
    assert routing.z_loss(torch.ones(0, 8)) == 0
    assert routing.load_balance_loss(torch.ones(0, 8), torch.ones(0, 2).long()) == 0


def test_bad_input_of_the_losses():
    with pytest.raises(ValueError, match=r"index: expected shape \(5, k\) for these probabilities, got \(4, 2\)"):
        routing.load_balance_loss(torch.ones(5, 8), torch.zeros(4, 2).long())
    with pytest.raises(ValueError, match="index: expected it on cpu like the probabilities, got meta"):
        routing.load_balance_loss(torch.ones(5, 8), torch.zeros(5, 2, dtype=torch.int64, device="meta"))
    with pytest.raises(TypeError, match="index: expected an int64 tensor, got float32"):
        routing.load_balance_loss(torch.ones(5, 8), torch.zeros(5, 2))
    with pytest.raises(TypeError, match="logits: expected float16"):
        routing.z_loss(torch.ones(5, 8).long())


# PyTorch's transformations.


@pytest.mark.parametrize("overload", router_ops.OVERLOADS)
@pytest.mark.parametrize("layout", ["contiguous", "transposed"])
@pytest.mark.parametrize(("score", "normalize"), FORMS)
def test_opcheck_of_the_router(overload, layout, score, normalize):
    ops = router_ops.OPS[overload]
    logits = torch.randn(6, 5) if layout == "contiguous" else torch.randn(5, 6).T
    form = score == "sigmoid", normalize
    torch.library.opcheck(ops["topk_router"], (logits, 2, *form))
    index, weight = ops["topk_router"](logits, 2, *form)
    torch.library.opcheck(ops["topk_router_backward"], (torch.randn_like(weight), logits, index, *form))


@pytest.mark.parametrize("overload", router_ops.OVERLOADS)
@pytest.mark.parametrize("shape", [(12,), (3, 4)])
def test_opcheck_of_the_plan(overload, shape):
    for op in ("dispatch_plan", "expert_counts"):
        torch.library.opcheck(router_ops.OPS[overload][op], (torch.randint(5, shape), 5))


def layer(logits):
    """What a layer does with a router, but for the experts."""
    index, weight = routing.topk_router(logits, 2)
    _, order, inverse = routing.dispatch_plan(index, logits.shape[-1])
    loss = routing.load_balance_loss(logits.softmax(-1), index) + routing.z_loss(logits)
    return weight.flatten()[order][inverse].view_as(weight), loss


def layer_step(function, logits):
    logits = logits.detach().clone().requires_grad_()
    weight, loss = function(logits)
    ((weight * weight.new_tensor([1.0, -2.0])).sum() + loss.sum()).backward()
    return weight.detach(), loss.detach(), logits.grad


@pytest.mark.parametrize("with_backend", ["aot_eager", "inductor"])
def test_compiled_to_one_graph(backend, with_backend):
    torch._dynamo.reset()
    function = torch.compile(layer, fullgraph=True, backend=with_backend)
    for n in (6, 11):
        logits = torch.randn(n, 8)
        for ours, expected in zip(layer_step(function, logits), layer_step(layer, logits), strict=True):
            close(ours, expected, 1e-6)


@pytest.mark.parametrize("in_dim", [0, 1, 2])
def test_vmap(backend, in_dim):
    logits = torch.randn(3, 5, 8)
    ours = layer_step(torch.func.vmap(layer, in_dim), logits.movedim(0, in_dim))
    one_by_one = [layer_step(layer, entry) for entry in logits]
    expected = [torch.stack(outputs) for outputs in zip(*one_by_one, strict=True)]
    close(ours[0], expected[0], 0)
    close(ours[1], expected[1], 1e-6)
    close(ours[2], expected[2].movedim(0, in_dim), 1e-6)


def test_vmap_over_nothing_gives_nothing(backend):
    logits = torch.randn(0, 5, 8, requires_grad=True)
    index, weight = torch.func.vmap(lambda x: routing.topk_router(x, 2))(logits)
    assert index.shape == weight.shape == (0, 5, 2)
    (grad,) = torch.autograd.grad(weight.sum(), logits)
    assert grad.shape == logits.shape
    plan = torch.func.vmap(lambda i: routing.dispatch_plan(i, 8))(index)
    assert [tensor.shape for tensor in plan] == [(0, 8), (0, 10), (0, 10)]


def test_autocast_keeps_the_dtype_that_comes_in(backend):
    linear = torch.nn.Linear(5, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = linear(torch.randn(10, 5))
        index, weight = routing.topk_router(logits, 2)
        loss = routing.z_loss(logits) + routing.load_balance_loss(logits.softmax(-1), index)
    assert (logits.dtype, weight.dtype, loss.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)
    (weight[:, 0].sum() + loss).backward()
    assert linear.weight.grad.isfinite().all()


def test_a_second_backward_is_refused(backend):
    logits = torch.randn(4, 8, requires_grad=True)
    _, weight = routing.topk_router(logits, 2)
    (grad,) = torch.autograd.grad(weight.square().sum(), logits, create_graph=True)
    with pytest.raises(RuntimeError, match=r"once_differentiable|does not require grad"):
        grad.sum().backward()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_shape_functions_on_any_device(device):
    with torch._subclasses.FakeTensorMode():
        logits = torch.empty(4, 7, 8, device=device, dtype=torch.float16)
        index, weight = routing.topk_router(logits, 2)
        assert (index.shape, index.dtype, index.device.type) == ((4, 7, 2), torch.int64, device)
        assert (weight.shape, weight.dtype, weight.device.type) == ((4, 7, 2), torch.float16, device)
        counts, order, inverse = routing.dispatch_plan(index, 8)
        assert [t.shape for t in (counts, order, inverse)] == [(8,), (56,), (56,)]


# The switch that makes a GPU check its values. Here it has to come before what serves the call, which is taken away.


@pytest.mark.parametrize("checks", [True, False])
def test_the_routers_check_where_they_are_told_to(monkeypatch, checks):
    def served(*_):
        raise RuntimeError("served")

    monkeypatch.setattr(backends, "CHECKS", checks)
    monkeypatch.setattr(ops, "apply", served)
    monkeypatch.setattr(router_ops, "OPS", {"default": {"dispatch_plan": served, "expert_counts": served}})
    bad = torch.zeros(2, 3, 4)
    bad[1, 0, 2] = torch.nan
    mask = torch.tensor([True, False, False, False])
    calls = {
        "row 3 of 6 holds NaN at category 2": lambda: routing.topk_router(bad, 1),
        "row 3 of 6 holds NaN": lambda: routing.sparse_mixer(bad),
        "row 0 of 6 has 1 experts above -inf": lambda: routing.sparse_mixer(torch.zeros(2, 3, 4), 2, mask=mask),
        r"got 4 at position 1": lambda: routing.dispatch_plan(torch.tensor([0, 4]), 4),
        r"got 5 at position 2": lambda: routing.load_balance_loss(torch.ones(3, 4), torch.tensor([[0], [1], [5]])),
    }
    for message, call in calls.items():
        with pytest.raises(ValueError if checks else RuntimeError, match=message if checks else "served"):
            call()
    with pytest.raises(RuntimeError, match="served"):
        routing.sparse_mixer(torch.zeros(2, 3, 4), 2)

"""The ops inside PyTorch's transformations: compile, export, vmap, autocast, distributed, and what autograd keeps.

torch.autograd.gradcheck has no place here: the gradients are estimates, by design no derivative of what is returned
(a one-hot, whose derivative is 0 wherever it exists). `test_laws.py` checks them instead.
"""

import copy
import io
import os
import pickle
import weakref

import laws
import pytest
import torch
from estimators import ESTIMATORS
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

import reinmax_kernels
from reinmax_kernels import backends, ops, reinmax, sample


@pytest.fixture(params=ESTIMATORS)
def estimator(request):
    return ESTIMATORS[request.param]


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()


def equal(ours, expected):
    return len(ours) == len(expected) and all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))


# The declarations themselves.

MASKS = {"no mask": None, "full": (6, 5), "row": (5,), "column": (6, 1)}


def mask_of(shape):
    if shape is None:
        return None
    mask = torch.rand(shape) < 0.7
    mask[..., 0] = True
    return mask


@pytest.mark.parametrize("overload", ops.OVERLOADS)
@pytest.mark.parametrize("op", ["sample", "sample_dense"])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("layout", ["contiguous", "transposed"])
def test_opcheck_of_the_draws(overload, op, mask, seeds, layout):
    logits = torch.randn(6, 5) if layout == "contiguous" else torch.randn(5, 6).T
    args = logits, torch.arange(seeds), mask_of(MASKS[mask]), 2, 7
    torch.library.opcheck(ops.OPS[overload][op], args)


@pytest.mark.parametrize("overload", ops.OVERLOADS)
@pytest.mark.parametrize("name", sorted(set(laws.OPS.values())))
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("tau", [None, 0.5])
@pytest.mark.parametrize("given", ["both", "one_hot", "probs", "expanded"])
def test_opcheck_of_the_backwards(overload, name, mask, tau, given):
    logits, mask = torch.randn(6, 5), mask_of(MASKS[mask])
    _, _, index, log_sum_exp = ops.OPS[overload]["sample_dense"](logits, torch.tensor([1]), mask, 0, 0)
    g = torch.ones(()).expand(6, 5) if given == "expanded" else torch.randn(6, 5)
    args = (
        None if given == "probs" else g,
        None if given == "one_hot" else torch.randn(6, 5),
        logits,
        index,
        log_sum_exp,
        mask,
        None if tau is None else torch.tensor(tau, dtype=torch.float64),
        *laws.own_arguments(name),
    )
    torch.library.opcheck(ops.OPS[overload][f"{name}_backward"], args)


REFUSED_DRAWS = [
    ({"seed": torch.arange(4)}, "seed: expected int64 seeds whose number divides the rows"),
    ({"seed": torch.arange(0)}, "seed: expected int64 seeds"),
    ({"seed": torch.arange(3).int()}, "seed: expected int64 seeds"),
    ({"mask": torch.ones(6, 5)}, "mask: expected a boolean tensor"),
    ({"mask": torch.ones(6, 4).bool()}, "expected a tensor that broadcasts to the logits' shape"),
    ({"logits": torch.ones(6, 5).bool()}, "logits: expected floating-point numbers"),
]
REFUSED_BACKWARDS = [
    *(({"index": torch.tensor([0, 1, 2, 3, 4, j])}, "index: expected categories in") for j in (-1, 5, 2**40)),
    ({"index": torch.arange(5)}, "index: expected int64, one a row"),
    ({"index": torch.zeros(6).int()}, "index: expected int64, one a row"),
    ({"log_sum_exp": torch.zeros(5).double()}, "log_sum_exp: expected float64, one a row"),
    ({"log_sum_exp": torch.zeros(6)}, "log_sum_exp: expected float64, one a row"),
    ({"grad_one_hot": torch.ones(5, 5)}, "expected a tensor that broadcasts to the logits' shape"),
    ({"grad_probs": torch.ones(6, 5).double()}, "gradient: expected the logits' dtype"),
    ({"tau": torch.ones(2).double()}, "tau: expected one float64"),
    ({"tau": torch.tensor(1.0)}, "tau: expected one float64"),
    *(
        ({"tau": torch.tensor(tau, dtype=torch.float64)}, "tau: expected a finite value > 0")
        for tau in (0, -1, torch.inf, torch.nan)
    ),
]
kernels_only = pytest.mark.skipif(backends.native is None, reason="the reference leaves these checks to PyTorch")


@kernels_only
@pytest.mark.parametrize(("change", "expected"), REFUSED_DRAWS)
@pytest.mark.parametrize("op", ["sample", "sample_dense"])
def test_the_kernels_refuse_to_draw_outside_of_their_tensors(op, change, expected):
    """The public functions check first; the ops can be called without them, and must not read stray memory."""
    given = {"logits": torch.zeros(6, 5), "seed": torch.arange(3), "mask": None, "offset": 0, "row_offset": 0}
    with pytest.raises(ValueError, match=expected):
        ops.OPS["default"][op](*(given | change).values())


@kernels_only
@pytest.mark.parametrize(("change", "expected"), REFUSED_BACKWARDS)
@pytest.mark.parametrize("name", sorted(set(laws.OPS.values())))
def test_the_kernels_refuse_a_backward_outside_of_their_tensors(name, change, expected):
    given = {
        "grad_one_hot": torch.ones(6, 5),
        "grad_probs": None,
        "logits": torch.zeros(6, 5),
        "index": torch.zeros(6, dtype=torch.int64),
        "log_sum_exp": torch.zeros(6, dtype=torch.float64),
        "mask": None,
        "tau": None,
    }
    with pytest.raises(ValueError, match=expected):
        ops.OPS["default"][f"{name}_backward"](*(given | change).values(), *laws.own_arguments(name))


REFUSED_SETTINGS = [
    ("gapped_straight_through", (-1.0,), "gap: expected a finite value >= 0"),
    ("gapped_straight_through", (torch.nan,), "gap: expected a finite value >= 0"),
    ("gumbel_rao", (torch.tensor([1]), 0, 0, 0), "num_samples: expected a value in"),
    ("gumbel_rao", (torch.tensor([1]), 0, 0, 2**32), "num_samples: expected a value in"),
    ("gumbel_rao", (torch.arange(4), 0, 0, 1), "seed: expected int64 seeds whose number divides the rows"),
    ("gumbel_rao", (torch.arange(3).int(), 0, 0, 1), "seed: expected int64 seeds"),
]


@kernels_only
@pytest.mark.parametrize(("name", "own", "expected"), REFUSED_SETTINGS)
def test_the_kernels_refuse_settings_out_of_range(name, own, expected):
    logits, index = torch.zeros(6, 5), torch.zeros(6, dtype=torch.int64)
    with pytest.raises(ValueError, match=expected):
        ops.OPS["default"][f"{name}_backward"](logits, None, logits, index, index.double(), None, None, *own)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_shape_functions_on_any_device(device, dtype):
    with torch._subclasses.FakeTensorMode():
        logits = torch.empty(4, 7, 3, device=device, dtype=dtype)
        index = sample(logits, dim=1, mask=torch.ones(7, 1, dtype=torch.bool, device=device))
        assert (index.shape, index.dtype, index.device.type) == ((4, 3), torch.int64, device)
        for estimator in ESTIMATORS.values():
            for output in estimator(logits, 0.5, dim=1, seed=3):
                assert (output.shape, output.dtype, output.device.type) == (logits.shape, dtype, device)
        outputs = torch.ops.reinmax_kernels.sample_dense(logits, torch.empty(1, device=device).long(), None, 0, 0)
        assert [t.shape for t in outputs] == [(4, 7, 3), (4, 7, 3), (4, 7), (4, 7)]
        assert [t.dtype for t in outputs] == [dtype, dtype, torch.int64, torch.float64]
        grad = torch.ops.reinmax_kernels.reinmax_backward(logits, None, logits, *outputs[2:], None, None)
        assert (grad.shape, grad.dtype, grad.device.type) == (logits.shape, dtype, device)


# torch.compile.


def gradient_step(function, logits, *args, **options):
    """Outputs and gradient of a function that may be compiled."""
    logits = logits.detach().clone().requires_grad_()
    one_hot, probs = function(logits, *args, **options)
    weight = torch.arange(logits.numel(), dtype=logits.dtype).view_as(logits) / logits.numel()
    (one_hot * weight + probs * weight.cos()).sum().backward()
    return one_hot.detach(), probs.detach(), logits.grad


def compiled(function, **options):
    """The function compiled to a single graph, and the counter of its compilations."""
    counter = CompileCounterWithBackend(options.pop("with_backend", "aot_eager"))
    return torch.compile(function, fullgraph=True, backend=counter, **options), counter


def starts_again(estimator):
    """A dynamic compiler has a symbol for a float, such as a gap, and starts again where an op takes a number."""
    return estimator is ESTIMATORS["gapped_straight_through"]


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("with_backend", ["aot_eager", "inductor"])
def test_compiled_equals_eager(backend, estimator, dynamic, with_backend):
    def model(logits, seed, mask):
        return estimator(2 * logits, 0.7, seed=seed, mask=mask, dim=1)

    function, counter = compiled(model, dynamic=dynamic, with_backend=with_backend)
    logits, mask = torch.randn(3, 6, 4, dtype=torch.float64), mask_of((6, 4)).index_fill_(0, torch.tensor(0), True)
    for seed in (torch.tensor([5]), torch.tensor([1, 2, 3]), 5):
        ours, expected = (gradient_step(f, logits, seed, mask) for f in (function, model))
        assert torch.equal(ours[0], expected[0])
        torch.testing.assert_close(ours[1:], expected[1:], rtol=0, atol=1e-14)
    assert counter.frame_count <= 3 + (dynamic and starts_again(estimator))


def test_compiled_sample_equals_eager(backend):
    function, _ = compiled(lambda logits, seed: sample(logits, seed=seed, offset=3) + 1, with_backend="inductor")
    logits = torch.randn(30, 50)
    for seed in (torch.tensor([4]), 9):
        assert torch.equal(function(logits, seed), sample(logits, seed=seed, offset=3) + 1)


@pytest.mark.parametrize("with_backend", ["aot_eager", "inductor"])
def test_every_compiled_call_draws_afresh(backend, estimator, with_backend):
    function, _ = compiled(lambda logits: estimator(logits)[0], with_backend=with_backend)
    logits = torch.zeros(64, 50)
    torch.manual_seed(1)
    drawn = [function(logits) for _ in range(4)]
    assert len({tuple(one_hot.argmax(-1).tolist()) for one_hot in drawn}) == 4
    torch.manual_seed(1)
    assert equal([function(logits) for _ in range(4)], drawn)


ANNEALED = [10.0, 8.0, 6.0, 4.0, 3.0, 2.0, 1.5, 1.0, 0.8, 0.5, 0.3, 0.1]


SPELLINGS = {"float": float, "one element": lambda tau: torch.tensor([tau]), "0-d": torch.tensor}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_an_annealed_tau_compiles_a_few_times_at_most(backend, estimator, spelling):
    def model(logits, tau):
        return estimator(logits, tau, seed=1)

    function, counter = compiled(model)
    logits = torch.randn(8, 6, dtype=torch.float64)
    for tau in ANNEALED:  # fullgraph=True raises where the limit of recompilations (8) is reached
        ours, expected = (gradient_step(f, logits, SPELLINGS[spelling](tau)) for f in (function, model))
        assert torch.equal(ours[0], expected[0])
        torch.testing.assert_close(ours[1:], expected[1:], rtol=0, atol=1e-14)
    # As a float: the first value, any value, and 1, which takes a path of its own on either side.
    assert counter.frame_count <= 4


@pytest.mark.parametrize("argument", ["seed", "offset", "row_offset"])
def test_a_number_that_changes_at_every_step_compiles_a_few_times_at_most(backend, argument):
    def model(logits, value):
        return sample(logits, **({"seed": 1} | {argument: value}))

    function, counter = compiled(model)
    logits = torch.randn(40, 6)
    for value in [0, 1, 2, 3, 17, 1000, 2**31, 2**32 + 5, 2**40, 2**62, 2**63 - 1, 12]:
        assert torch.equal(function(logits, value), model(logits, value))
    assert counter.frame_count <= 3


def test_negative_seeds_compile_too(backend):
    function, _ = compiled(lambda logits, seed: sample(logits, seed=seed))
    logits = torch.randn(40, 6)
    for seed in (-1, -5, 7, -(2**63)):
        assert torch.equal(function(logits, seed), sample(logits, seed=seed))


def test_changing_batch_sizes_compile_once_when_dynamic(backend, estimator):
    def model(logits):
        return estimator(logits, 0.9, seed=1)

    function, counter = compiled(model, dynamic=True)
    for n in (3, 5, 8, 13, 40):
        logits = torch.randn(n, 7)
        ours, expected = (gradient_step(f, logits) for f in (function, model))
        assert torch.equal(ours[0], expected[0])
        torch.testing.assert_close(ours[1:], expected[1:], rtol=0, atol=1e-6)
    assert counter.frame_count == 1 + starts_again(estimator)


def test_the_compiled_function_follows_the_chosen_backend():
    # What `backend` says when a call is made decides, not what it said when the function was compiled.
    function = torch.compile(lambda logits: sample(logits, seed=1), backend=(seen := Recorder()), fullgraph=True)
    logits = torch.randn(5, 6)
    for name, overload in (("auto", "default"), ("reference", "reference"), ("auto", "default")):
        with reinmax_kernels.backend(name):
            seen.targets.clear()
            assert torch.equal(function(logits), sample(logits, seed=1))
            assert seen.ran[-1] == ops.OPS[overload]["sample"]


class Recorder:
    """A compiler backend that runs the graph as it is and keeps which draw it holds."""

    def __init__(self):
        self.targets, self.ran = [], []

    def __call__(self, graph, _):
        (target,) = (node.target for node in graph.graph.nodes if "sample" in str(node.target))

        def run(*args):
            self.ran.append(target)
            return graph.forward(*args)

        return run


# torch.export.


class Choice(nn.Module):
    """A small network with a discrete layer; the seed is an input, as an exported program needs."""

    def __init__(self, tau=0.8):
        super().__init__()
        self.tau = tau
        self.before, self.after = nn.Linear(5, 12), nn.Linear(12, 2)

    def forward(self, x, seed=None):
        one_hot, probs = reinmax(self.before(x), self.tau, seed=seed)
        return self.after(one_hot), probs


@pytest.mark.parametrize("strict", [False, True])
def test_export_round_trip(backend, strict):
    model, x, seed = Choice().eval(), torch.randn(6, 5), torch.tensor([3])
    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(model, (x, seed), strict=strict, dynamic_shapes=({0: batch}, None))
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    for n, seed in ((6, torch.tensor([3])), (11, torch.tensor([-4]))):
        x = torch.randn(n, 5)
        assert equal(loaded(x, seed), model(x, seed))


# torch.autocast.


def test_autocast_keeps_the_dtype_that_comes_in(backend, estimator):
    linear, x = nn.Linear(8, 16), torch.randn(20, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = linear(x)
        one_hot, probs = estimator(logits, 0.7)
        assert (logits.dtype, one_hot.dtype, probs.dtype) == (torch.bfloat16,) * 3
        loss = (one_hot @ torch.randn(16, 3)).square().sum() + probs.square().sum()
        in_float32 = estimator(torch.randn(3, 4))
    loss.backward()
    for weight in linear.parameters():
        assert weight.grad.isfinite().all()
        assert weight.grad.abs().sum() > 0
    assert all(output.dtype == torch.float32 for output in in_float32)


# torch.func.


def test_vmap_different_draws_each_entry_anew(backend, estimator):
    logits = torch.zeros(6, 40, 9)
    one_hot = torch.func.vmap(lambda x: estimator(x)[0], randomness="different")(logits)
    index = torch.func.vmap(sample, randomness="different")(logits)
    for drawn in (one_hot.argmax(-1), index):
        assert drawn.unique(dim=0).shape == (6, 40)
    assert (one_hot.sum(-1) == 1).all()


def test_vmap_same_draws_one_sample_for_all(backend, estimator):
    logits = torch.randn(40, 9).expand(6, 40, 9)
    one_hot = torch.func.vmap(lambda x: estimator(x)[0], randomness="same")(logits)
    index = torch.func.vmap(sample, randomness="same")(logits)
    for drawn in (one_hot.argmax(-1), index):
        assert (drawn == drawn[0]).all()


@pytest.mark.parametrize("randomness", ["different", "same"])
@pytest.mark.parametrize("in_dim", [0, 2])
def test_vmap_over_nothing_gives_nothing(backend, estimator, in_dim, randomness):
    logits = torch.randn(0, 5, 9, requires_grad=True)
    moved, seeds = logits.movedim(0, in_dim), torch.zeros(0, dtype=torch.int64)
    index = torch.func.vmap(sample, in_dim, randomness=randomness)(moved)
    drawn = torch.func.vmap(estimator, in_dim, randomness=randomness)(moved)
    seeded = torch.func.vmap(lambda x, s: estimator(x, seed=s), (in_dim, 0))(moved, seeds)
    nested = torch.func.vmap(torch.func.vmap(estimator, randomness=randomness), in_dim, randomness=randomness)(moved)
    assert (index.shape, index.dtype) == ((0, 5), torch.int64)
    assert {each.shape for each in (*drawn, *seeded, *nested)} == {logits.shape}
    for one_hot, probs in (drawn, seeded, nested):
        (grad,) = torch.autograd.grad((one_hot.sum(), probs.sum()), logits)
        assert grad.shape == logits.shape
    inside = torch.func.vmap(torch.func.grad(lambda x: (estimator(x, seed=1)[0] * x).sum(dim=(0, 1))), in_dim)(moved)
    assert inside.shape == logits.shape


def test_vmap_error_refuses_to_draw(backend, estimator):
    with pytest.raises(RuntimeError, match="randomness"):
        torch.func.vmap(lambda x: estimator(x)[0])(torch.zeros(3, 4))
    assert torch.func.vmap(lambda x: estimator(x, seed=1)[0])(torch.zeros(3, 4)).shape == (3, 4)


@pytest.mark.parametrize("in_dim", [0, 1, 2, -1])
def test_vmapped_seeds_are_seeds_of_groups(backend, estimator, in_dim):
    logits, seeds = torch.randn(4, 5, 7), torch.tensor([3, -1, 3, 2**62])
    moved = logits.movedim(0, in_dim)
    one_hot, probs = torch.func.vmap(lambda x, s: estimator(x, 0.8, seed=s, offset=1, row_offset=2), (in_dim, 0))(
        moved, seeds
    )
    assert equal((one_hot, probs), estimator(logits, 0.8, seed=seeds, offset=1, row_offset=2))
    index = torch.func.vmap(lambda x, s: sample(x, seed=s), (in_dim, 0))(moved, seeds)
    assert torch.equal(index, sample(logits, seed=seeds))


def test_vmapped_seeds_of_one_batch_of_logits(backend, estimator):
    # Many samples of the same logits.
    logits, seeds = torch.randn(5, 7), torch.arange(4)
    one_hot, _ = torch.func.vmap(lambda s: estimator(logits, seed=s))(seeds)
    assert torch.equal(one_hot, torch.stack([estimator(logits, seed=s)[0] for s in range(4)]))
    # Each entry may bring a group of seeds of its own.
    groups = torch.arange(20).view(4, 5)
    index = torch.func.vmap(lambda s: sample(logits, seed=s))(groups)
    assert torch.equal(index, torch.stack([sample(logits, seed=group) for group in groups]))


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("shape", [(5, 7), (7,), (5, 1), (1, 7), ()])
@pytest.mark.parametrize("in_dim", [0, -1])
def test_vmapped_masks(backend, estimator, batched, shape, in_dim):
    logits = torch.randn(4, 5, 7)
    masks = torch.rand(4, *shape) < 0.6
    if shape[-1:] == (7,):
        masks[..., 0] = True
    else:
        masks[...] = True
    if batched:
        expected = [estimator(x, mask=m, seed=s) for s, (x, m) in enumerate(zip(logits, masks, strict=True))]
        dims, masks = (0, in_dim, 0), masks.movedim(0, in_dim)
    else:
        expected = [estimator(x, mask=masks[0], seed=s) for s, x in enumerate(logits)]
        dims, masks = (0, None, 0), masks[0]
    ours = torch.func.vmap(lambda x, m, s: estimator(x, mask=m, seed=s), dims)(logits, masks, torch.arange(4))
    assert equal(ours, [torch.stack(outputs) for outputs in zip(*expected, strict=True)])


@pytest.mark.parametrize("tau", [1.0, 0.6])
def test_grad_inside_vmap(backend, estimator, tau):
    logits, weight, seeds = torch.randn(4, 5, 7), torch.randn(7), torch.arange(4)
    mask = mask_of((4, 1, 7))

    def loss(x, seed, m):
        one_hot, probs = estimator(x, tau, seed=seed, mask=m)
        return (one_hot * weight).sum() ** 2 + (probs * weight.cos()).sum()

    ours = torch.func.vmap(torch.func.grad(loss))(logits, seeds, mask)
    one_by_one = [torch.func.grad(loss)(*entry) for entry in zip(logits, seeds, mask, strict=True)]
    torch.testing.assert_close(ours, torch.stack(one_by_one), rtol=0, atol=1e-6)
    theta = logits.clone().requires_grad_()
    sum(loss(*entry) for entry in zip(theta, seeds, mask, strict=True)).backward()
    torch.testing.assert_close(ours, theta.grad, rtol=0, atol=1e-6)


def test_grad_outside_vmap(backend, estimator):
    logits, weight, seeds = torch.randn(4, 5, 7, requires_grad=True), torch.randn(7), torch.arange(4)
    one_hot, probs = torch.func.vmap(lambda x, s: estimator(x, 0.9, seed=s))(logits, seeds)
    (ours,) = torch.autograd.grad((one_hot * weight + probs * weight.cos()).sum(), logits)
    one_hot, probs = estimator(logits, 0.9, seed=seeds)
    (expected,) = torch.autograd.grad((one_hot * weight + probs * weight.cos()).sum(), logits)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_jacrev(backend, name):
    logits = torch.randn(6, dtype=torch.float64)
    for output in (0, 1):
        ours = torch.func.jacrev(lambda x, output=output: ESTIMATORS[name](x, 0.7, seed=1)[output])(logits)
        index, unit, zero = sample(logits, seed=1).expand(6), torch.eye(6), torch.zeros(6, 6)
        g, h = (unit, zero) if output == 0 else (zero, unit)
        row = logits.unsqueeze(0), index[:1]  # each entry of the vmap is row 0 of its draw
        expected = torch.cat([laws.gradient(name, *row, g[i : i + 1], h[i : i + 1], 0.7, seed=1) for i in range(6)])
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-14)


def test_nested_vmap(backend, estimator):
    logits, seeds = torch.randn(2, 3, 5, 7), torch.arange(6).view(2, 3)
    ours = torch.func.vmap(torch.func.vmap(lambda x, s: estimator(x, 0.8, seed=s)))(logits, seeds)
    expected = estimator(logits, 0.8, seed=seeds.flatten())
    assert equal(ours, expected)
    mask = torch.rand(3, 7) < 0.6
    mask[:, 2] = True
    ours = torch.func.vmap(torch.func.vmap(lambda x, s, m: estimator(x, 0.8, seed=s, mask=m)), in_dims=(0, 0, None))(
        logits, seeds, mask
    )
    assert equal(ours, estimator(logits, 0.8, seed=seeds.flatten(), mask=mask.view(1, 3, 1, 7)))


def test_vmap_inside_compile(backend, estimator):
    def model(logits, seeds):
        return torch.func.vmap(lambda x, s: estimator(x, 0.8, seed=s))(logits, seeds)

    function, _ = compiled(model)
    logits, seeds = torch.randn(4, 5, 7), torch.arange(4)
    assert equal(function(logits, seeds), estimator(logits, 0.8, seed=seeds))


def test_a_tau_for_each_entry_of_a_vmap_is_refused(backend, estimator):
    def loss(x, tau):
        return estimator(x, tau, seed=1)[0].square().sum()

    with pytest.raises((ValueError, RuntimeError)):
        torch.func.vmap(torch.func.grad(loss))(torch.randn(3, 4), torch.tensor([0.5, 1.0, 2.0]))


# Modules.


def test_a_module_survives_copies_and_files(backend):
    model, x = Choice(), torch.randn(6, 5)
    expected = model(x, 3)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(file, weights_only=False)):
        assert equal(other(x, 3), expected)
    assert equal(copy.deepcopy([t.detach() for t in expected]), expected)


def _ddp_rank(rank, file, backend, results):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    torch.manual_seed(0)
    model = nn.parallel.DistributedDataParallel(Layer())
    x = torch.arange(60.0).sin().view(12, 5)[rank * 6 : rank * 6 + 6]
    with reinmax_kernels.backend(backend):
        model(x, row_offset=rank * 6).backward()
    if rank == 0:
        torch.save([weight.grad for weight in model.parameters()], results)
    torch.distributed.barrier()
    os._exit(0)  # tearing down, gloo's thread and the one that joins it can wait for each other


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(5, 7)

    def forward(self, x, row_offset=0):
        one_hot, probs = reinmax(self.linear(x), 0.9, seed=4, row_offset=row_offset)
        weight = torch.arange(7.0)
        return ((one_hot @ weight).square() + (probs @ weight)).mean()


def test_distributed_ranks_continue_each_others_rows(backend, tmp_path):
    torch.multiprocessing.spawn(_ddp_rank, (tmp_path / "init", backend, tmp_path / "grads"), nprocs=2)
    torch.manual_seed(0)
    whole = Layer()
    whole(torch.arange(60.0).sin().view(12, 5)).backward()
    for ours, weight in zip(torch.load(tmp_path / "grads"), whole.parameters(), strict=True):
        torch.testing.assert_close(ours, weight.grad)


# What autograd keeps.


@pytest.mark.parametrize("dim", [-1, 1])
@pytest.mark.parametrize("layout", ["contiguous", "sliced", "transposed"])
@pytest.mark.parametrize("tau", [1.0, 0.5])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_only_small_tensors_are_kept_beside_the_inputs(backend, estimator, dim, layout, tau, masked, dtype):
    logits = torch.randn(8, 6, 16, dtype=dtype)
    logits = {"contiguous": logits, "sliced": logits[:, 1:, ::2], "transposed": logits.mT}[layout].requires_grad_()
    rows = logits.numel() // logits.shape[dim]
    mask = torch.ones(logits.shape[dim], 1, dtype=torch.bool)
    mask = None if not masked else mask if dim == 1 else mask.T
    kept = []

    def keep(tensor):
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        estimator(logits, tau, dim=dim, mask=mask, seed=1)

    inputs = {logits.untyped_storage().data_ptr(): "logits"}
    if masked:
        inputs[mask.untyped_storage().data_ptr()] = "mask"
    shared = [inputs[t.untyped_storage().data_ptr()] for t in kept if t.untyped_storage().data_ptr() in inputs]
    assert sorted(shared) == sorted(inputs.values())
    own = [t for t in kept if t.untyped_storage().data_ptr() not in inputs]
    expected = [(torch.int64, rows), (torch.float64, rows)] + ([(torch.float64, 1)] if tau != 1 else [])
    if estimator in (ESTIMATORS[name] for name in laws.NOISY):
        expected.append((torch.int64, 1))  # the seed
    assert sorted(((t.dtype, t.numel()) for t in own), key=str) == sorted(expected, key=str)
    assert sum(t.untyped_storage().nbytes() for t in own) == 16 * rows + 8 * (len(expected) - 2)


def test_nothing_large_lives_on_after_the_outputs(backend, estimator):
    # The graph holds neither output: when the caller drops them, their memory is free.
    logits = torch.randn(8, 16, requires_grad=True)
    one_hot, probs = estimator(logits)
    loss = one_hot.sum() + probs.sum()
    outputs = [weakref.ref(one_hot), weakref.ref(probs)]
    del one_hot, probs
    assert [output() for output in outputs] == [None, None]
    loss.backward()
    assert logits.grad is not None


def test_logits_changed_in_place_before_the_backward_are_noticed(backend, estimator):
    leaf = torch.randn(3, 4, requires_grad=True)
    logits = leaf * 1
    one_hot, _ = estimator(logits)
    logits.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        one_hot.sum().backward()

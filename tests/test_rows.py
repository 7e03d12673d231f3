"""From what a user passes to what the ops take. (Its errors are tested through the public functions.)"""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reinmax_kernels import rows

CPU = torch.device("cpu")


def same_memory(a, b):
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()


@pytest.mark.parametrize("dim", range(-3, 3))
def test_categories_last_is_a_view(dim):
    logits = torch.randn(2, 3, 4)
    last = rows.categories_last(logits, dim)
    assert torch.equal(last, logits.movedim(dim, -1))
    assert same_memory(last, logits)


def test_categories_last_leaves_the_common_case_alone():
    logits = torch.randn(2, 3)
    assert rows.categories_last(logits, -1) is logits
    assert rows.categories_last(logits, 1) is logits


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.data())
def test_a_mask_broadcasts_against_the_moved_logits_as_it_did_before(shape, data):
    logits = torch.zeros(shape)
    dim = data.draw(st.integers(-len(shape), len(shape) - 1))
    mask_shape = [data.draw(st.sampled_from([1, n])) for n in shape][data.draw(st.integers(0, len(shape))) :]
    mask = torch.rand(mask_shape) < 0.5
    moved = rows.mask_categories_last(mask, logits, dim)
    last = rows.categories_last(logits, dim)
    assert torch.equal(moved.expand(last.shape), mask.expand(shape).movedim(dim, -1))
    assert moved.numel() == mask.numel()
    assert same_memory(moved, mask)


def test_no_mask_stays_none():
    assert rows.mask_categories_last(None, torch.zeros(2, 3), 0) is None


@given(st.integers(-(2**63), 2**64 - 1))
def test_int64_bits_keeps_the_bits(value):
    bits = rows.int64_bits(value, "seed")
    assert -(2**63) <= bits < 2**63
    assert (bits - value) % 2**64 == 0


def test_int64_bits_takes_numpy_integers():
    assert rows.int64_bits(np.int32(-5), "seed") == -5
    assert rows.int64_bits(np.uint64(2**64 - 1), "seed") == -1


def test_a_given_seed_becomes_one_int64():
    for seed in (3, np.uint64(3)):
        tensor = rows.seed_tensor(seed, None, torch.zeros(4, 2))
        assert (tensor.dtype, tensor.tolist()) == (torch.int64, [3])
    seeds = torch.tensor([1, 2])
    assert rows.seed_tensor(seeds, None, torch.zeros(4, 2)) is seeds


def test_drawn_seeds_use_the_whole_range():
    drawn = torch.cat([rows.seed_tensor(None, None, torch.zeros(1, 2)) for _ in range(200)])
    assert drawn.unique().numel() == 200
    assert (drawn >= 0).all()
    for bit in range(63):
        assert 50 < ((drawn >> bit) & 1).sum() < 150


def test_a_drawn_seed_comes_from_the_generator_given():
    generator, logits = torch.Generator().manual_seed(1), torch.zeros(1, 2)
    expected = torch.randint(2**63 - 1, (1,), generator=torch.Generator().manual_seed(1))
    assert torch.equal(rows.seed_tensor(None, generator, logits), expected)
    torch.manual_seed(1)
    assert torch.equal(rows.seed_tensor(None, None, logits), expected)


@pytest.mark.parametrize("one", [1, 1.0, np.float32(1)])
def test_tau_one_as_a_number_is_none(one):
    assert rows.tau_tensor(one, CPU) is None


@pytest.mark.parametrize(
    "tau", [0.3, 2, np.float64(0.3), torch.tensor(0.3, dtype=torch.float64), torch.tensor([[2]])], ids=repr
)
def test_tau_becomes_a_float64_scalar(tau):
    tensor = rows.tau_tensor(tau, CPU)
    assert (tensor.dtype, tensor.shape, tensor.requires_grad) == (torch.float64, (), False)
    assert tensor.item() == float(tau)


def test_tau_in_a_half_type_keeps_the_value_that_it_had():
    tau = torch.tensor(0.3, dtype=torch.bfloat16, requires_grad=True)
    tensor = rows.tau_tensor(tau, CPU)
    assert tensor.item() == tau.item()
    assert not tensor.requires_grad


NAN, INF = torch.nan, torch.inf


@pytest.mark.parametrize(
    ("row", "mask", "held"),
    [
        ([0.0, NAN, INF], None, "NaN at category 1"),
        ([0.0, INF, NAN], None, "+inf at category 1"),
        ([-INF, -INF, -INF], None, "only -inf"),
        ([-INF, 1e39, -INF], None, "1e+39 (beyond float32, in which draws are made) at category 1"),
        ([0.0, 0.0, -1e39], None, "-1e+39 (beyond float32, in which draws are made) at category 2"),
        ([NAN, 0.0, INF], [False, True, True], "+inf at category 2"),
        ([NAN, 0.0, 0.0], [False, False, False], "no category that the mask allows"),
        ([NAN, -INF, 0.0], [False, True, False], "only -inf"),
    ],
    ids=str,
)
def test_what_an_invalid_row_holds(row, mask, held):
    logits = torch.zeros(2, 2, 3, dtype=torch.float64)
    logits[1, 0] = torch.tensor(row, dtype=torch.float64)
    if mask is not None:
        everywhere = torch.ones(2, 2, 3, dtype=torch.bool)
        everywhere[1, 0] = torch.tensor(mask)
        mask = everywhere
    message = str(rows.invalid_row(logits, mask))
    assert f"logits: row 2 of 4 holds {held}; expected numbers or -inf" in message


def test_an_invalid_row_under_a_mask_that_broadcasts():
    logits = torch.zeros(4, 3)
    logits[3, 2] = NAN
    assert "row 3 of 4 holds NaN at category 2" in str(rows.invalid_row(logits, torch.tensor([False, True, True])))
    column = torch.tensor([[True], [False], [True], [True]])
    assert "row 1 of 4 holds no category that the mask allows" in str(rows.invalid_row(logits, column))

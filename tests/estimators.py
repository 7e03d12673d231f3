"""The estimators as users call them, with the settings that `laws.py` knows them by."""

import functools

import laws

from reinmax_kernels import gapped_straight_through, gumbel_rao, gumbel_softmax, reinmax, straight_through

ESTIMATORS = {
    "reinmax": reinmax,
    "straight_through": straight_through,
    "gapped_straight_through": functools.partial(gapped_straight_through, gap=laws.GAP),
    "gumbel_rao": functools.partial(gumbel_rao, num_samples=laws.SAMPLES),
    "gumbel_softmax": gumbel_softmax,
}

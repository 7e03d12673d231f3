"""The same works and cases under pytest-benchmark, which compares commits: `pytest bench --benchmark-autosave`, then
`pytest-benchmark compare`. `-k ours` leaves the peers out, `-k vae` or `-k backward` chooses a case or a work.
"""

import argparse

import pytest
import torch

from bench import cases
from bench.peers import WORKS, Operands, failure


@pytest.fixture(scope="module", params=cases.CASES, ids=lambda case: case.name)
def operands(request):
    parser = argparse.ArgumentParser()
    cases.add_arguments(parser)
    torch.compiler.reset()  # compiled for this shape alone, whatever came before
    return Operands.random(request.param, parser.parse_args([]), torch.Generator().manual_seed(0))


PEERS = [
    pytest.param(work, peer, id=f"{work}-{peer if number else 'ours'}")
    for work in WORKS
    for number, peer in enumerate(WORKS[work].peers)
]


@pytest.mark.parametrize(("work", "peer"), PEERS)
def test_time(benchmark, operands, work, peer):
    call = WORKS[work].calls(operands)[peer]
    if reason := failure(call):
        pytest.skip(reason)
    benchmark.group = f"{work} {'x'.join(map(str, operands.rows.shape))}"
    benchmark(call)

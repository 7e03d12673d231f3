"""What a GPU does without being told each launch anew, or beside something else: graphs and streams."""

import torch

from bench.peers import captured


def assert_replays(step, change):
    """Captures `step`, which returns tensors, and compares replays with calls, after each `change` of what it reads.
    Each must have made a difference.
    """
    results = ()

    def call():
        nonlocal results
        results = step()

    replay = captured(call)
    before = None
    for _ in range(3):
        with torch.no_grad():
            change()
        replay()
        found = [tensor.clone() for tensor in results]
        for replayed, expected in zip(found, step(), strict=True):
            assert torch.equal(replayed, expected)
        assert before is None or not all(map(torch.equal, found, before))
        before = found


def assert_streams_do_not_meet(draw, inputs):
    """Draws from each input on a stream of its own, all at once, and compares with draws one after the other."""
    expected = [draw(x) for x in inputs]
    streams = [torch.cuda.Stream() for _ in inputs]
    torch.cuda.synchronize()
    for _ in range(20):
        drawn = []
        for x, stream in zip(inputs, streams, strict=True):
            with torch.cuda.stream(stream):
                drawn.append(draw(x))
        torch.cuda.synchronize()
        assert all(map(torch.equal, drawn, expected))

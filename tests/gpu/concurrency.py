"""What a GPU does without being told each launch anew, or beside something else: graphs and streams."""

import torch


def assert_replays(step, change):
    """Captures `step`, which returns tensors, and compares replays with calls, after each `change` of what it reads.
    Each must have made a difference.
    """
    side = torch.cuda.Stream()  # compiled, and autograd warmed up, on the stream of a capture
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    before = None
    for _ in range(3):
        with torch.no_grad():
            change()
        graph.replay()
        found = [tensor.clone() for tensor in captured]
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

"""The cases, the peers, and the command that times them."""

import csv
import json

import pytest
import torch

from bench import kernels, peers, timer
from bench.__main__ import _parser, main
from bench.cases import CASES, Case
from bench.peers import FRESH_LIMIT, LIMIT, OURS, SOFTMAX, WORKS, Operands


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    """Short turns, and no compiler: torch.compile takes seconds to fail and more to work."""

    def compiler():
        raise RuntimeError("no compiler here\nand more lines")

    monkeypatch.setattr(timer, "ROUND_SECONDS", 1e-4)
    monkeypatch.setattr(kernels, "QUICK_SECONDS", 1e-3)
    monkeypatch.setattr(peers, "_compiled_package", compiler)


def operands(rows=6, categories=5, *arguments):
    options = _parser().parse_args(["kernels", *arguments])
    return Operands.random(Case("tiny", rows, categories, "nowhere"), options, torch.Generator().manual_seed(0))


def working(table):
    return [name for name in table if not name.startswith("torch.compile") and name != SOFTMAX]


class TestCases:
    def test_names_and_shapes_are_unique(self):
        assert len({case.name for case in CASES}) == len({case.shape for case in CASES}) == len(CASES)

    @pytest.mark.parametrize("arguments", [["--shapes", "vae", "7x3"], ["--shapes", "7x3", "vae", "--quick"]])
    def test_shapes_are_names_or_numbers(self, arguments):
        chosen = kernels.cases.chosen(_parser().parse_args(["kernels", *arguments]))
        assert {(case.rows, case.categories) for case in chosen} == {(3000, 10), (7, 3)}

    def test_quick_has_fewer_cases(self):
        full, quick = (kernels.cases.chosen(_parser().parse_args(["kernels", *how])) for how in ([], ["--quick"]))
        assert full == list(CASES)
        assert 0 < len(quick) < len(full)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--shapes", "vea"], "--shapes: expected ROWSxCATEGORIES"),
            (["--shapes", "0x3"], "--shapes: expected ROWSxCATEGORIES"),
            (["--shapes", "4x-3"], "got '4x-3'"),
            (["--shapes", "1x8388609"], "at most 8388608 categories"),
            (["--shapes"], "--shapes: expected at least one argument"),
            (["--dtype", "int8"], "--dtype: invalid choice: 'int8'"),
            (["--tau", "0"], "--tau: expected a finite number above 0, got '0'"),
            (["--tau", "nan"], "--tau: expected a finite number above 0, got 'nan'"),
            (["--device", "tpu"], "--device: expected cpu or cuda, got 'tpu'"),
            (["--gradients", "none"], "--gradients: invalid choice: 'none'"),
        ],
    )
    def test_bad_values_are_named(self, arguments, message, capsys):
        with pytest.raises(SystemExit, match="2"):
            main(["kernels", *arguments])
        assert message in capsys.readouterr().err

    @pytest.mark.parametrize("command", ["kernels", "routers", "layers"])
    def test_graphs_are_a_gpus(self, command, capsys):
        assert main([command, "--graphs"]) == 1
        assert "--graphs: needs --device cuda" in capsys.readouterr().err

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
    @pytest.mark.parametrize("command", ["kernels", "memory", "scaling", "routers", "layers"])
    def test_cuda_without_a_gpu_is_refused(self, command, capsys):
        with pytest.raises(SystemExit, match="2"):
            main([command, "--device", "cuda"])
        assert "--device: cuda needs a GPU that PyTorch can use" in capsys.readouterr().err


class TestPeers:
    @pytest.mark.parametrize("name", working(peers.ESTIMATORS))
    def test_every_estimator_gives_the_logits_a_gradient(self, name):
        logits = torch.randn(6, 5, requires_grad=True)
        one_hot, *probs = peers.ESTIMATORS[name](logits, 1.3)
        assert torch.equal(one_hot.detach().amax(-1).round(), torch.ones(6))
        assert one_hot.detach().sum(-1).tolist() == pytest.approx([1] * 6)
        for output in (one_hot, *probs):
            (grad,) = torch.autograd.grad(output, logits, torch.randn(6, 5), retain_graph=True)
            assert grad.abs().sum() > 0

    @pytest.mark.parametrize("tau", [1.0, 1.3])
    def test_softmax_is_at_the_temperature(self, tau):
        logits = torch.randn(6, 5)
        torch.testing.assert_close(peers.ESTIMATORS[SOFTMAX](logits, tau)[0], (logits / tau).softmax(-1))

    @pytest.mark.parametrize("name", peers.SAMPLERS)
    def test_every_sampler_draws_the_certain_category(self, name):
        certain = torch.tensor([3, 0, 4])
        logits = torch.full((3, 5), -200.0).scatter_(1, certain.unsqueeze(1), 0.0)
        assert peers.SAMPLERS[name](logits).flatten().tolist() == certain.tolist()

    @pytest.mark.parametrize("arguments", [(), ("--gradients", "both", "--tau", "1.3"), ("--dtype", "bfloat16")])
    def test_every_call_runs(self, arguments):
        given = operands(6, 5, *arguments)
        for work in WORKS.values():
            for peer, call in work.calls(given).items():
                if not peer.startswith("torch.compile"):
                    call()

    @pytest.mark.parametrize("gradients", ["one-hot", "both"])
    def test_backward_alone_is_that_of_the_estimator(self, gradients):
        given = operands(6, 5, "--gradients", gradients, "--tau", "1.3")
        outputs = WORKS["forward"].call(lambda logits, tau: peers.ESTIMATORS[OURS](logits, tau, seed=0), given)
        (expected,) = torch.autograd.grad(outputs[: len(given.grads)], given.logits, given.grads)
        torch.testing.assert_close(WORKS["backward"].calls(given)["reinmax"](), expected)

    def test_a_new_peer_is_one_line(self, monkeypatch):
        monkeypatch.setitem(peers.ESTIMATORS, "softmax", lambda logits, tau: (logits.softmax(-1),))
        for work in ("reinmax", "forward"):
            WORKS[work].calls(operands())["softmax"]()

    @pytest.mark.parametrize(
        ("work", "gradients", "arrays", "row_bytes"),
        [
            ("reinmax", "one-hot", 6, 32),  # logits twice and g; one-hot, probabilities and gradient
            ("reinmax", "both", 7, 32),
            ("forward", "both", 3, 16),
            ("backward", "one-hot", 3, 16),
            ("backward", "both", 4, 16),
            ("sample", "one-hot", 1, 8),
        ],
    )
    def test_traffic(self, work, gradients, arrays, row_bytes):
        given = operands(6, 5, "--gradients", gradients, "--dtype", "float64")
        assert WORKS[work].traffic(given) == arrays * 6 * 5 * 8 + 6 * row_bytes

    @pytest.mark.parametrize("gradients", ["one-hot", "both"])
    @pytest.mark.parametrize("work", [work for work in WORKS.values() if work.writes], ids=lambda work: work.title)
    def test_limit_writes_as_many_arrays_as_the_work(self, work, gradients):
        given = operands(6, 5, "--gradients", gradients)
        for buffer in given.buffers:
            buffer.fill_(torch.nan)
        calls = work.calls(given)
        written = calls[LIMIT]()
        assert [tensor.data_ptr() for tensor in written] == [
            buffer.data_ptr() for buffer in given.buffers[: work.writes]
        ]
        assert not any(tensor.isnan().any() for tensor in written)
        fresh = calls[FRESH_LIMIT]()
        assert not {tensor.data_ptr() for tensor in fresh} & {buffer.data_ptr() for buffer in given.buffers}


class TestCommand:
    @pytest.fixture
    def printed(self, tmp_path, capsys):
        arguments = ["--quick", "--output", str(tmp_path), "--tau", "1.3", "--shapes", "4x3", "small"]
        assert main(["kernels", *arguments]) == 0
        return capsys.readouterr().out

    def test_table_names_cases_peers_and_machine(self, printed):
        for part in ("4x3", "small", "128x10", *peers.ESTIMATORS, *peers.SAMPLERS, *peers.BACKWARDS):
            assert part in printed
        for part in (
            LIMIT,
            FRESH_LIMIT,
            "geometric",
            "page faults",
            torch.__version__,
            "threads",
            "float32",
            "tau 1.3",
        ):
            assert part in printed

    def test_a_peer_that_fails_is_said_not_to_be_available(self, printed, tmp_path):
        assert "torch.compile of it, not available: no compiler here" in printed
        assert "more lines" not in printed
        rows = json.loads((tmp_path / "kernels.json").read_text())["rows"]
        compiled = [row for row in rows if row["peer"].startswith("torch.compile")]
        assert [row["unavailable"] for row in compiled] == ["no compiler here"] * 4  # two works, two cases

    @pytest.mark.parametrize("load", [0.1, 3.0])
    def test_busy_machine_is_told(self, load, monkeypatch, tmp_path, capsys):
        monkeypatch.setattr(kernels.os, "getloadavg", lambda: (load, 0.0, 0.0))
        main(["kernels", "--quick", "--output", str(tmp_path), "--shapes", "4x3"])
        assert ("The machine was busy (load average 3.0)" in capsys.readouterr().out) == (load == 3.0)

    def test_failure_of_our_own_is_not_hidden(self, monkeypatch, tmp_path):
        def broken(logits, tau):
            raise RuntimeError("broken")

        monkeypatch.setitem(peers.ESTIMATORS, OURS, broken)
        with pytest.raises(RuntimeError, match="broken"):
            main(["kernels", "--quick", "--output", str(tmp_path), "--shapes", "4x3"])

    def test_files(self, printed, tmp_path):
        assert sorted(path.name for path in tmp_path.iterdir()) == ["kernels.csv", "kernels.json", "kernels.png"]
        document = json.loads((tmp_path / "kernels.json").read_text())
        assert document["configuration"].keys() >= {"device", "dtype", "tau", "gradients", "quick", "seed", "load"}
        assert document["environment"].keys() >= {"commit", "date", "device", "threads", "torch", "simd"}
        with (tmp_path / "kernels.csv").open() as file:
            lines = list(csv.DictReader(file))
        assert [line["peer"] for line in lines] == [row["peer"] for row in document["rows"]]
        ours = lines[0]
        assert (ours["work"], ours["case"], ours["peer"], float(ours["ratio"])) == ("reinmax", "4x3", OURS, 1)


def test_geometric_means_leave_out_what_is_missing():
    rows = [{"peer": "a", "ratio": 2.0}, {"peer": "a", "ratio": 8.0}, {"peer": "a"}, {"peer": "b", "ratio": None}]
    assert kernels.geometric_means(rows, "ratio") == pytest.approx({"a": 4.0})

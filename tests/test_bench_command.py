"""`python -m bench`: options that all commands share, the main job, and errors."""

import pytest

from bench import __main__ as command
from bench.data import DataError
from bench.paper.training import CheckpointError


@pytest.fixture
def calls(monkeypatch):
    """What the commands are called with, in place of their work."""
    seen = []
    for name, module in command.COMMANDS.items():
        monkeypatch.setattr(module, "run", lambda options, console, name=name: seen.append((name, options)))
    return seen


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seed", "-1"], "--seed: expected a whole number from 0"),
        (["kernels", "--seed", "1.5"], "--seed: expected a whole number from 0"),
        (["scaling", "--seed", str(2**63)], "--seed: expected a whole number from 0"),
        (["--output", __file__], "--output: expected a folder"),
        (["memory", "--output", __file__], "--output: expected a folder"),
        (["speed"], "invalid choice: 'speed'"),
    ],
)
def test_bad_values_are_named(arguments, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        command.main(arguments)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], *([name] for name in command.COMMANDS)])
def test_help(arguments, capsys):
    with pytest.raises(SystemExit, match="0"):
        command.main([*arguments, "--help"])
    printed = capsys.readouterr().out
    assert "--seed" in printed
    assert arguments or all(name in printed for name in command.COMMANDS)


@pytest.mark.parametrize(
    "arguments",
    [
        ["scaling", "--quick", "--seed", "7", "--output", "here"],
        ["--quick", "--seed", "7", "--output", "here", "scaling"],
        ["--quick", "--seed", "8", "scaling", "--seed", "7", "--output", "here"],
    ],
)
def test_common_options_stand_before_or_behind_the_command(arguments, calls):
    assert command.main(arguments) == 0
    ((name, options),) = calls
    assert (name, options.quick, options.seed, str(options.output)) == ("scaling", True, 7, "here")


def test_defaults(calls):
    assert command.main(["kernels"]) == 0
    ((_, options),) = calls
    assert (options.quick, options.seed, options.output.name) == (False, 0, "results")
    assert (options.device, options.dtype, options.tau, options.gradients) == ("cpu", "float32", 1.0, "one-hot")


def test_main_job_is_a_quick_table_and_a_quick_vae(calls, tmp_path):
    assert command.main(["--seed", "3", "--output", str(tmp_path)]) == 0
    assert [name for name, _ in calls] == ["kernels", "paper"]
    assert all(options.quick and options.seed == 3 and options.output == tmp_path for _, options in calls)


@pytest.mark.parametrize("error", [DataError("no data here"), CheckpointError("no checkpoint there")])
def test_known_errors_are_told_without_a_traceback(error, monkeypatch, capsys):
    def fails(options, console):
        raise error

    monkeypatch.setattr(command.kernels, "run", fails)
    assert command.main(["kernels"]) == 1
    assert capsys.readouterr().err == f"{error}\n"

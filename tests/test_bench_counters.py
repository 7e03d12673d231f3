"""What Nsight Compute prints, as rows of a table; and the command where there is nothing to count."""

import pytest

from bench import counters
from bench.__main__ import main
from bench.cases import Case

HEADER = '"ID","Process ID","Kernel Name","Metric Name","Metric Unit","Metric Value"'
VALUES = {
    "gpu__time_duration.sum": "4,096",
    "dram__throughput.avg.pct_of_peak_sustained_elapsed": "10.78",
    "smsp__issue_active.avg.pct_of_peak_sustained_active": "32.10",
    "sm__warps_active.avg.pct_of_peak_sustained_active": "21.11",
    "launch__registers_per_thread": "44",
    "smsp__inst_executed.sum": "1,000",
}


def printed(*kernels):
    yield "==PROF== Connected to process 1"
    yield HEADER
    for number, kernel in enumerate(kernels):
        for metric, value in VALUES.items():
            yield f'"{number}","1","{kernel}","{metric}","unit","{value}"'


def test_kernels_stand_beside_the_work_that_launched_them(monkeypatch):
    monkeypatch.setattr(counters, "names", lambda: ["sample, cuda", "sample, triton"])
    mark = "void at::native::vectorized_elementwise_kernel<4, at::native::FillFunctor<float>>(int)"
    launched = counters.kernels(printed(mark, "one", mark, "parts", "draw", mark, "one", mark, "whole"))
    rows = list(counters.table_rows(launched, [Case("a", 10, 100, ""), Case("b", 20, 100, "")]))
    assert [(row["case"], row["peer"], row["kernel"]) for row in rows] == [
        ("a", "sample, cuda", "one"),
        ("a", "sample, triton", "parts"),
        ("a", "sample, triton", "draw"),
        ("b", "sample, cuda", "one"),
        ("b", "sample, triton", "whole"),
    ]
    assert rows[0]["seconds"] == pytest.approx(4.096e-6)
    assert (rows[0]["memory"], rows[0]["registers"]) == (pytest.approx(0.1078), 44)
    assert [rows[number]["instructions_per_element"] for number in (0, 3)] == [32, 16]


def test_every_op_of_both_kinds_is_counted():
    counted = {name.partition(",")[0] for name in counters.names()}
    assert counted == {*counters.DRAWS, *counters.BACKWARDS}


def test_without_ncu_it_says_what_is_missing(monkeypatch, capsys):
    monkeypatch.setattr(counters.shutil, "which", lambda name: None)
    assert main(["counters"]) == 1
    assert "needs a GPU, and Nsight Compute's ncu" in capsys.readouterr().err

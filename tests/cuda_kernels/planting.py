"""Kernels compiled from a copy of their sources, with a fault planted in it. Only what is launched is compiled."""

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.static.cuda.build import ROOT, Build, namespace, nvcc, split

LAUNCHER = re.compile(r"^void \w+\(const (?:Sample|Backward|Bernoulli)Arguments&", re.MULTILINE)


@dataclass(frozen=True)
class Fault:
    """A text of a file in csrc, and what stands in its place instead."""

    file: str
    text: str
    instead: str


@dataclass
class Planted:
    """In place of a build's kernels those of a copy, as an `edit` of their execution."""

    build: Build
    folder: Path
    faults: Sequence[Fault]
    compiled: dict[str, str] = field(default_factory=dict)

    def __post_init__(self):
        self.source = self.folder / "csrc"
        shutil.copytree(ROOT / "csrc", self.source)
        for fault in self.faults:
            path = self.source / fault.file
            text = path.read_text()
            assert fault.text in text, f"{fault.file} has no {fault.text!r} to put a fault in the place of"
            path.write_text(text.replace(fault.text, fault.instead))

    def __call__(self, name: str, text: str) -> str:
        if name not in self.compiled:
            self.compiled[name] = self._compile(name)
        return self.compiled[name]

    def _compile(self, name: str) -> str:
        """By an explicit instantiation, behind a kernel's file up to the function that would instantiate all."""
        text = (self.source / "cuda" / f"{self.build.files[name]}.cu").read_text()
        launcher = LAUNCHER.search(text)
        signature = subprocess.run(["c++filt", name], capture_output=True, text=True, check=True).stdout.strip()
        path = self.folder / f"kernel{len(self.compiled)}.cu"
        path.write_text(f"{text[: launcher.start()]}}}\ntemplate __global__ {signature};\n")
        include = [f"-I{self.source}", f"-Dreinmax_kernels={namespace(self.build.architecture)}"]
        nvcc(self.build.architecture, *include, "-ptx", path, "-o", path.with_suffix(".ptx"))
        return split(path.with_suffix(".ptx").read_text())[name]

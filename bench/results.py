"""Where results go: CSV and JSON with all that a rerun needs, and a plot, beside each other under one name."""

import csv
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from io import BytesIO, StringIO
from pathlib import Path

import torch
from matplotlib.figure import Figure

import reinmax_kernels

ROOT = Path(__file__).resolve().parents[1]


def save(
    folder: Path,
    name: str,
    configuration: Mapping[str, object],
    rows: Sequence[Mapping[str, object]],
    figure: Figure | None = None,
) -> None:
    """Write `name`.csv, one line a row; `name`.json, the same with configuration and environment; `name`.png."""
    folder.mkdir(parents=True, exist_ok=True)
    document = {
        "name": name,
        "configuration": dict(configuration),
        "environment": environment(configuration.get("device")),
        "rows": list(rows),
    }
    replace(folder / f"{name}.json", json.dumps(document, indent=1).encode() + b"\n")
    table = StringIO()
    writer = csv.DictWriter(table, fieldnames=list(dict.fromkeys(key for row in rows for key in row)))
    writer.writeheader()
    writer.writerows(rows)
    replace(folder / f"{name}.csv", table.getvalue().encode())
    if figure is not None:
        picture = BytesIO()
        figure.savefig(picture, dpi=120)
        replace(folder / f"{name}.png", picture.getvalue())


def replace(path: Path, content: bytes) -> None:
    """Write beside the file and rename: whatever stops this, the old content or the new one is there, whole."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def environment(device: object = "cpu") -> dict[str, object]:
    """What a figure depends on beside its configuration: commit, date, machine and build."""
    return {
        "commit": _commit(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name() if device == "cuda" else _processor(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **reinmax_kernels.build_info(),
    }


def _commit() -> str:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _processor() -> str:
    """The processor's name as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())

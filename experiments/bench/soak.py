"""``soak``: one long run, watched from outside: memory, open files, threads, disk, speed.

The run is real in all its parts: the embedded policy on the local host or on a vLLM server, gepa,
TRL, checkpoints, MLflow on SQLite. Its task is one that the policy never quite solves, so that
every step goes on training.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import tomlkit

from fst_agents.errors import FstError
from fst_agents.json_files import read_lines
from fst_agents.run_dir import RunDir

WARM_UP = 0.1
"""Share of the time after which every part has been used: what grows later is a leak."""

READINGS = 240
"""Readings of a whole soak; not more often than every two seconds."""


def settings(minutes: float, serve: str) -> dict[str, Any]:
    """The run file of a soak."""
    return {
        "task": {"name": "digits", "target": ["sort_ascending", "double"]},
        "serve": {"host": serve},
        "budget": {"cycles": 100_000, "enough": 2.0, "seconds": 60.0 * minutes},
    }


@dataclass(frozen=True)
class Reading:
    """The run's process with all its children, at one moment.

    ``memory`` is the sum of the processes' unique memory in MiB, ``disk`` the run directory in MiB,
    ``rollouts`` those of training so far.
    """

    seconds: float
    memory: float
    files: int
    threads: int
    processes: int
    disk: float
    steps: int
    rollouts: int


def run(minutes: float, serve: str = "local") -> dict[str, Any]:
    """Train for some minutes; how each figure moved from the end of the warm-up to the end.

    Raises:
        FstError: the run failed.
    """
    with tempfile.TemporaryDirectory(prefix="fst-soak-") as name:
        place = Path(name)
        process = _start(place, minutes, serve)
        readings = _watch(process, place / "run", max(2.0, 60.0 * minutes / READINGS))
        if process.returncode:
            last = (place / "stderr.txt").read_text(errors="replace").strip().splitlines()[-1:]
            raise FstError(f"the run ended with code {process.returncode}: {''.join(last)}")
        result = RunDir.open(place / "run").result()
        return {
            "bench": "soak",
            "serve": serve,
            "minutes": minutes,
            "stopped": result["stopped"],
            "cycles": result["cycles"],
            "steps": result["steps"],
            "rollouts": result["rollouts"],
            "mlflow_points": _points(place / "run"),
            **movements(readings),
            "readings": [asdict(r) for r in readings],
        }


def movements(readings: Sequence[Reading]) -> dict[str, Any]:
    """Of each figure: after the warm-up, at the end, at most, and its growth per 1,000 steps.

    The growth is the slope of a least-squares line over the readings behind the warm-up.

    Raises:
        FstError: fewer than two readings are left.
    """
    end = readings[-1].seconds if readings else 0.0
    kept = [r for r in readings if r.seconds >= WARM_UP * end and r.steps]
    if len(kept) < 2 or kept[0].steps == kept[-1].steps:
        raise FstError("the soak was too short to say anything; give it more --minutes")
    steps = [float(r.steps) for r in kept]
    moved: dict[str, Any] = {}
    for name in ("memory", "files", "threads", "processes", "disk"):
        values = [float(getattr(r, name)) for r in kept]
        moved[name] = {
            "first": values[0],
            "last": values[-1],
            "most": max(values),
            "per_1000_steps": 1000 * slope(steps, values),
        }
    middle = kept[len(kept) // 2]
    moved["rollouts_per_second"] = {
        "first_half": _rate(kept[0], middle),
        "second_half": _rate(middle, kept[-1]),
    }
    return moved


def slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Of the least-squares line through some points."""
    import numpy as np

    return float(np.polyfit(xs, ys, 1)[0])


def _rate(a: Reading, b: Reading) -> float:
    return (b.rollouts - a.rollouts) / (b.seconds - a.seconds) if b.seconds > a.seconds else 0.0


def _start(place: Path, minutes: float, serve: str) -> subprocess.Popen[bytes]:
    content = {
        **settings(minutes, serve),
        "run_dir": str(place / "run"),
        "track": {"uri": f"sqlite:///{place}/mlflow.db"},
    }
    (place / "run-file.toml").write_text(tomlkit.dumps(content), encoding="utf-8")
    arguments = ["train", str(place / "run-file.toml"), "--json"]
    code = (
        f"import sys; sys.argv = ['fst', *{arguments!r}]; from experiments.cli import main; main()"
    )
    with (place / "stderr.txt").open("ab") as errors:
        return subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=errors
        )


def _watch(process: subprocess.Popen[bytes], run: Path, every: float) -> list[Reading]:
    """A reading every so many seconds until training is over; the evaluation is not read."""
    started = time.monotonic()
    readings: list[Reading] = []
    try:
        while process.poll() is None:
            if not _training_is_over(run):
                with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError):
                    readings.append(_read(process.pid, run, time.monotonic() - started))
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(every)
    finally:
        process.terminate()
        process.wait()
    return readings


def _training_is_over(run: Path) -> bool:
    file = run / "state.json"
    return file.exists() and json.loads(file.read_text(encoding="utf-8"))["stopped"] is not None


def _read(pid: int, run: Path, seconds: float) -> Reading:
    parent = psutil.Process(pid)
    family = [parent, *parent.children(recursive=True)]
    state: dict[str, Any] = {}
    with contextlib.suppress(FileNotFoundError):
        state = json.loads((run / "state.json").read_text(encoding="utf-8"))
    spend = state.get("spend", {})
    return Reading(
        seconds=seconds,
        memory=sum(p.memory_full_info().uss for p in family) / 2**20,
        files=sum(p.num_fds() for p in family),
        threads=sum(p.num_threads() for p in family),
        processes=len(family),
        disk=sum(f.stat().st_blocks * 512 for f in run.rglob("*") if f.is_file()) / 2**20,
        steps=state.get("step", 0),
        rollouts=spend.get("fast_rollouts", 0) + spend.get("slow_rollouts", 0),
    )


def _points(run: Path) -> int:
    """Metric lines that the run has logged."""
    return sum(1 for _ in read_lines(RunDir.open(run).metrics_log))

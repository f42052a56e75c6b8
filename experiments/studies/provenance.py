"""Where results come from: command, machine, time, commit."""

from __future__ import annotations

import platform
import subprocess
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import psutil

from experiments.studies.cells import Record
from fst_agents import __file__ as package


def run_facts(command: str, started: float, records: Mapping[str, Record]) -> dict[str, str]:
    """How something was made, for its page.

    Args:
        started: when, by :func:`time.monotonic`, the command began, which may have found runs that
            were there already.
    """
    seconds = time.monotonic() - started
    cores = psutil.cpu_count(logical=False) or psutil.cpu_count() or 1
    memory = psutil.virtual_memory().total / 2**30
    done = [record for record in records.values() if record.ok]
    hours = sum(float(record.result["seconds_total"]) for record in done) / 3600
    made_at = sorted({name for record in done for name in (record.commit or "").split(", ")} - {""})
    return {
        "command": f"`{command}`",
        "machine": f"{platform.machine()}, {cores} cores, {memory:.0f} GB, {platform.system()}",
        "runs": f"{len(done)}, which took {hours:.1f} hours one after another",
        "time": f"{seconds / 60:.1f} minutes, for what was missing",
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": commit() or "none: not a checkout",
        "commits of the runs": ", ".join(made_at) or "unknown",
    }


STAMPS = "commits.txt"
"""In a cell's folder: the commits at which it was begun and gone on with, a line each."""


def stamp(folder: Path) -> None:
    """Note in a cell's folder which code runs it now."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / STAMPS).open("a", encoding="utf-8") as file:
        file.write(f"{commit() or 'none'}\n")


def stamped(folder: Path) -> str | None:
    """The commits that :func:`stamp` noted; ``None`` where there were none."""
    file = folder / STAMPS
    lines = file.read_text(encoding="utf-8").split("\n") if file.exists() else []
    return ", ".join(dict.fromkeys(line for line in lines if line not in ("", "none"))) or None


@cache  # of the code as it was loaded: a checkout may move on while its processes run
def commit() -> str | None:
    """The checkout's commit, and whether code was changed since; installed packages have none."""
    git = ["git", "-C", str(Path(str(package)).parent)]
    try:
        name = subprocess.run(
            [*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
        )
        line = [*git, "status", "--porcelain", "--", ":/*.py", ":/*.toml"]
        dirty = subprocess.run(line, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return name.stdout.strip() + (" with changes" if dirty.stdout.strip() else "")

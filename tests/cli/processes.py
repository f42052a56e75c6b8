"""``fst`` in a process of its own, and what it leaves behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
FST = [sys.executable, "-c", "from experiments.cli import main; main()"]


def environment(**more: str) -> dict[str, str]:
    """Ours, without a network, one thread, and with the repository importable."""
    settings = {
        "PYTHONPATH": str(ROOT),
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "200",
        "NO_COLOR": "1",
    }
    return {**os.environ, **settings, **more}


def fst(*arguments: str, cwd: Path, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    """Run to the end."""
    return subprocess.run(
        [*FST, *arguments],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def result(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The JSON object: one line, and nothing else, on standard output."""
    assert done.returncode == 0, done.stderr[-4000:]
    lines = done.stdout.splitlines()
    assert len(lines) == 1, done.stdout
    return json.loads(lines[0])


def interrupted(
    arguments: Sequence[str],
    cwd: Path,
    ready: Callable[[], bool],
    number: signal.Signals,
    timeout: float = 120,
) -> tuple[int, str, list[psutil.Process]]:
    """Start, signal once ``ready()``; exit code, standard error, descendants still alive."""
    error = cwd / "stderr.txt"
    with error.open("w") as file:
        process = subprocess.Popen(
            [*FST, *arguments], cwd=cwd, env=environment(), stdout=subprocess.DEVNULL, stderr=file
        )
        try:
            wait_for(lambda: ready() or process.poll() is not None, timeout)
            assert process.poll() is None, error.read_text()[-3000:]
            children = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(number)
            code = process.wait(timeout=60)
        finally:
            if process.poll() is None:
                process.kill()
    _, alive = psutil.wait_procs(children, timeout=15)
    return code, error.read_text(), alive


def wait_for(condition: Callable[[], bool], timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def mentioning(text: str) -> list[str]:
    """Command lines of running processes with ``text`` in them, this one's tree left out."""
    own = {os.getpid(), *(p.pid for p in psutil.Process().parents())}
    found: list[str] = []
    for process in psutil.process_iter(["pid", "cmdline"]):
        line = " ".join(process.info["cmdline"] or [])
        if text in line and process.info["pid"] not in own:
            found.append(line)
    return found

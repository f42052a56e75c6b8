"""Cells as processes of their own: nothing leaks from one run into the next, and cores are used."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

from experiments.studies.cells import Cell, Record
from experiments.studies.grid import CellStopped, cell_folder
from experiments.studies.harvest import drop_bulk, harvest
from fst_agents.errors import FstError
from fst_agents.run_dir import RunDir

STOPPED = (130, 137, 143)
"""Exit codes of a process that was interrupted, killed or ended."""


class CellFailed(FstError):
    """A cell's process ended without a result."""


class Processes:
    """Runs cells of the grid in ``out``. :meth:`close` ends what is still running.

    A process gets its configuration on standard input, not as a file: it may hold a key.
    """

    def __init__(self, out: Path) -> None:
        self._out = out
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[str]] = set()
        self._closed = False

    def __call__(self, cell: Cell, folder: Path) -> Record:
        """Run a cell, go on with it, or only read it where its process had finished before.

        A run that was stopped, by whatever, is gone on with; one that failed starts again.

        Raises:
            CellFailed: with the last line that the process wrote.
            CellStopped: the process was ended by a signal.
        """
        run_dir = folder / "run"
        if not RunDir(run_dir).finished:
            stopped = (run_dir / "run.toml").exists() and not (folder / "cell.json").exists()
            if not stopped:
                shutil.rmtree(run_dir, ignore_errors=True)
            self._process(folder, {**self.request(cell, folder), "resume": stopped})
        record = harvest(cell, run_dir)
        drop_bulk(run_dir)
        return record

    def request(self, cell: Cell, folder: Path) -> dict[str, Any]:
        """What a cell's process is asked, but for whether it goes on with a stopped run."""
        config = cell.config.model_copy(update={"run_dir": folder / "run"})
        start = None if cell.start is None else cell_folder(self._out, cell.start) / "run"
        return {
            "config": config.model_dump(mode="json"),
            "start": None if start is None else str(start),
            "stages": None if cell.stages is None else asdict(cell.stages),
        }

    def close(self) -> None:
        """End every process that is still running, and start no other."""
        with self._lock:
            self._closed = True
            running = list(self._running)
        for process in running:
            process.terminate()
        for process in running:
            process.wait()

    def _process(self, folder: Path, request: dict[str, Any]) -> None:
        log = folder / "log.txt"
        with log.open("w", encoding="utf-8") as said:
            with self._lock:
                if self._closed:
                    raise CellStopped("stopped before it began")
                process = subprocess.Popen(
                    [sys.executable, "-m", "experiments.studies.cell"],
                    stdin=subprocess.PIPE,
                    stdout=said,
                    stderr=said,
                    text=True,
                    # A second thread on tensors this small only spins, and cells run side by side.
                    env={"OMP_NUM_THREADS": "1", **os.environ},
                )
                self._running.add(process)
            try:
                process.communicate(json.dumps(request))
            finally:
                with self._lock:
                    self._running.discard(process)
        if process.returncode in STOPPED or process.returncode < 0:
            raise CellStopped("stopped; asked again, it goes on where it stood")
        if process.returncode != 0:
            raise CellFailed(f"exit code {process.returncode}: {_last_line(log)} (see {log})")


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    spoken = [line.strip() for line in lines if line.strip()]
    return spoken[-1] if spoken else "it said nothing"

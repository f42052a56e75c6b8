"""A cell's way from request to record, wherever its process is."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from dataclasses import asdict
from pathlib import Path
from typing import Any

from experiments.studies.cells import Cell, Record
from experiments.studies.grid import CellStopped, cell_folder
from experiments.studies.harvest import harvest
from experiments.studies.provenance import STAMPS
from fst_agents.errors import FstError
from fst_agents.run_dir import RunDir

STOPPED = (130, 137, 143, 255)
"""Exit codes of a process that was interrupted, killed or ended, or whose fork server was."""


class CellFailed(FstError):
    """A cell's process ended without a result."""


class CellRuns(ABC):
    """Runs cells of the grid in ``out``: a :class:`experiments.studies.grid.RunCell`.

    Attributes:
        places: cells that it runs at the same time unless told otherwise.
    """

    places: int

    def __init__(self, out: Path) -> None:
        self._out = out

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
                (folder / STAMPS).unlink(missing_ok=True)
            log = folder / "log.txt"
            code = self._work({**self.request(cell, folder), "resume": stopped}, log)
            if code is None or code in STOPPED or code < 0:
                raise CellStopped("stopped; asked again, it goes on where it stood")
            if code != 0:
                raise CellFailed(f"exit code {code}: {_last_line(log)} (see {log})")
        return harvest(cell, run_dir)

    def request(self, cell: Cell, folder: Path) -> dict[str, Any]:
        """What a cell's process is asked, but for whether it goes on with a stopped run."""
        config = cell.config.model_copy(update={"run_dir": folder / "run"})
        start = None if cell.start is None else cell_folder(self._out, cell.start) / "run"
        return {
            "config": config.model_dump(mode="json"),
            "start": None if start is None else str(start),
            "stages": None if cell.stages is None else asdict(cell.stages),
        }

    @abstractmethod
    def close(self) -> None:
        """End every process that is still running, and start no other."""

    @abstractmethod
    def _work(self, request: dict[str, Any], log: Path) -> int | None:
        """Have :func:`experiments.studies.cell.work` done by a process; its exit code, if it has
        one.

        Raises:
            CellFailed: it could not be done.
            CellStopped: :meth:`close` came first.
        """


def _last_line(log: Path) -> str:
    if not log.exists():  # it ended before it could speak
        return "it said nothing"
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    spoken = [line.strip() for line in lines if line.strip()]
    return spoken[-1] if spoken else "it said nothing"

"""Cells as processes of their own: nothing leaks from one run into the next, and cores are used.

Loading the libraries takes longer than a small run's first steps. So they are loaded once, by a
fork server (:mod:`multiprocessing`), and each cell's process is forked from it, which has done
nothing else. Where forking is not safe, every process loads them itself.
"""

from __future__ import annotations

import multiprocessing
import shutil
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from functools import cache
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from experiments.studies.cell import work
from experiments.studies.cells import Cell, Record
from experiments.studies.grid import (
    CellStopped,
    Records,
    RunCell,
    cell_folder,
    claim,
    run_grid,
)
from experiments.studies.harvest import drop_bulk, harvest
from fst_agents.errors import FstError
from fst_agents.run_dir import RunDir

STOPPED = (130, 137, 143, 255)
"""Exit codes of a process that was interrupted, killed or ended, or whose fork server was."""


def run_cells(
    cells: Sequence[Cell],
    out: Path,
    claimed: Mapping[str, Any],
    *,
    jobs: int,
    note: Callable[[str], None],
    run: RunCell | None = None,
) -> Records:
    """Run in ``out`` what is missing of some cells, each in a process unless ``run`` says how.

    Args:
        claimed: what the folder is for; see :func:`experiments.studies.grid.claim`.

    Raises:
        ConfigError: ``out`` is for something else.
    """
    claim(out, claimed)
    with closing(Processes(out)) as processes:
        return run_grid(cells, out, processes if run is None else run, jobs=jobs, note=note)


class CellFailed(FstError):
    """A cell's process ended without a result."""


class Processes:
    """Runs cells of the grid in ``out``. :meth:`close` ends what is still running.

    A process gets its configuration through a pipe, not as a file: it may hold a key.
    """

    def __init__(self, out: Path) -> None:
        self._out = out
        self._changed = threading.Condition()
        self._running: set[BaseProcess] = set()
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
        with self._changed:
            self._closed = True
            for process in self._running:
                process.terminate()
            self._changed.wait_for(lambda: not self._running)

    def _process(self, folder: Path, request: dict[str, Any]) -> None:
        log = folder / "log.txt"
        with self._changed:
            if self._closed:
                raise CellStopped("stopped before it began")
            process = _context().Process(target=work, args=(request, log))
            process.start()
            self._running.add(process)
        try:
            wait([process.sentinel])
        finally:
            # Under the lock: the library looks after all its processes whenever one is started,
            # and an exit code can be read only once.
            with self._changed:
                process.join()
                self._running.discard(process)
                self._changed.notify_all()
        code = process.exitcode
        if code is None or code in STOPPED or code < 0:
            raise CellStopped("stopped; asked again, it goes on where it stood")
        if code != 0:
            raise CellFailed(f"exit code {code}: {_last_line(log)} (see {log})")


@cache
def _context() -> ForkServerContext | SpawnContext:
    """How processes begin. An accelerator's driver does not survive a fork, nor do the system's
    libraries on macOS."""
    import torch

    if sys.platform != "linux" or torch.accelerator.is_available():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["experiments.studies.warm"])
    return context


def _last_line(log: Path) -> str:
    if not log.exists():  # it ended before it could speak
        return "it said nothing"
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    spoken = [line.strip() for line in lines if line.strip()]
    return spoken[-1] if spoken else "it said nothing"

"""Cells as processes of their own: nothing leaks from one run into the next, and cores are used.

Loading the libraries takes longer than a small run's first steps. So they are loaded once, by a
fork server (:mod:`multiprocessing`), and each cell's process is forked from it, which has done
nothing else. Where forking is not safe, every process loads them itself.
"""

from __future__ import annotations

import gc
import multiprocessing
import sys
import threading
from functools import cache
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from experiments.studies.cell import work
from experiments.studies.cell_runs import CellRuns
from experiments.studies.grid import CellStopped


class Processes(CellRuns):
    """Processes of this machine.

    A process gets its configuration through a pipe, not as a file: it may hold a key.
    """

    def __init__(self, out: Path) -> None:
        super().__init__(out)
        self.places = 1 if torch.accelerator.is_available() else 2
        self._changed = threading.Condition()
        self._running: set[BaseProcess] = set()
        self._closed = False

    def close(self) -> None:
        with self._changed:
            self._closed = True
            for process in self._running:
                process.terminate()
            self._changed.wait_for(lambda: not self._running)

    def _work(self, request: dict[str, Any], log: Path) -> int | None:
        with self._changed:
            if self._closed:
                raise CellStopped("stopped before it began")
            process = start_process(request, log)
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
        return process.exitcode


def start_process(request: dict[str, Any], log: Path) -> BaseProcess:
    """A process of this machine that runs one cell."""
    process = context().Process(target=work, args=(request, log))
    process.start()
    return process


@cache
def context() -> ForkServerContext | SpawnContext:
    """How processes that train begin. An accelerator's driver does not survive a fork, nor do the
    system's libraries on macOS."""
    if sys.platform != "linux" or torch.accelerator.is_available():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["experiments.studies.warm"])
    return context


def load_libraries() -> None:
    """Have them in memory, for the next process to begin at once where it is forked."""
    process = context().Process(target=gc.collect)
    process.start()
    process.join()

"""Cells as tasks of a Ray cluster. The one file that knows Ray.

The cluster is the user's: one that is there is joined, none is ever started. Its nodes share the
results folder, so that a cell goes on where it stood whichever node takes it up again.
"""

from __future__ import annotations

import os
import platform
import socket
import threading
from importlib.metadata import version
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any
from uuid import uuid4

from experiments.studies.cell_runs import CellFailed, CellRuns
from experiments.studies.grid import CellStopped
from experiments.studies.processes import start_process
from fst_agents.errors import ConfigError

PACKAGE = "fst-agents"


class RayTasks(CellRuns):
    """Tasks of one CPU each, and of one GPU where the cluster has any.

    Raises:
        ConfigError: Ray is not installed, or there is no cluster.
    """

    def __init__(self, out: Path) -> None:
        super().__init__(out)
        self._ray = _ray()
        try:
            _knock(os.environ.get("RAY_ADDRESS", ""))
            self._ray.init(address="auto", log_to_driver=False, logging_level="ERROR")
        except (OSError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split()).partition(". ")[0]
            raise ConfigError(
                f"--backend ray: no cluster can be joined ({reason}); start one with 'ray start "
                "--head', or name one in RAY_ADDRESS"
            ) from error
        there: dict[str, float] = self._ray.cluster_resources()
        self.places = max(1, int(there.get("CPU", 1)))
        # A task that has failed is not tried again: the grid says so, and may be asked again.
        options = {"num_cpus": 1, "num_gpus": int(there.get("GPU", 0) >= 1), "max_retries": 0}
        self._task = self._ray.remote(**options)(_in_a_process)
        self._lock = threading.Lock()
        self._running: set[Any] = set()
        self._closed = False
        self._stop = out / f".stop-{uuid4().hex}"

    def close(self) -> None:
        with self._lock:
            self._closed = True
            running = list(self._running)
        if running:
            # Ray's own cancellation keeps a task from beginning. In one that has begun it is an
            # exception, which can be lost there; the file in the shared folder cannot.
            self._stop.touch()
            for task in running:
                self._ray.cancel(task)
            self._ray.wait(running, num_returns=len(running))
            self._stop.unlink()
        self._ray.shutdown()

    def _work(self, request: dict[str, Any], log: Path) -> int | None:
        with self._lock:
            if self._closed:
                raise CellStopped("stopped before it began")
            task = self._task.remote(request, str(log), version(PACKAGE), str(self._stop))
            self._running.add(task)
        try:
            answer: int | str | None = self._ray.get(task)
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, self._ray.exceptions.TaskCancelledError):
                return None
            raise CellFailed(f"Ray: {error.cause!r}") from error
        except self._ray.exceptions.RayError:  # cancelled in time, or its worker or node has died
            return None
        finally:
            with self._lock:
                self._running.discard(task)
        if isinstance(answer, str):
            raise CellFailed(answer)
        return answer


def _knock(address: str) -> None:
    """Refuse in seconds an address where nobody listens; Ray itself tries for two minutes.

    Raises:
        OSError: nobody answers there.
    """
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=5).close()


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise ConfigError(
            "--backend ray: Ray is not installed; pip install 'fst-agents[ray]'"
        ) from error
    return ray


def _in_a_process(request: dict[str, Any], log: str, asked: str, stop: str) -> int | str | None:
    """On a node of the cluster: the exit code of a cell's process, or why none was started.

    The process is ended once there is a file ``stop``.
    """
    node = platform.node()
    there = version(PACKAGE)
    if there != asked:
        return f"{node} has {PACKAGE} {there}, expected {asked}; install it on every node"
    if not Path(log).parent.is_dir():
        return (
            f"{Path(log).parent} is not there on {node}; choose an --out that all nodes of the "
            "cluster share"
        )
    process = start_process(request, Path(log))
    try:
        while not wait([process.sentinel], timeout=0.5):
            if Path(stop).exists():
                process.terminate()  # once: a second time would cost the checkpoint
                break
    except BaseException:  # cancelled
        process.terminate()
        raise
    finally:
        process.join()
    return process.exitcode

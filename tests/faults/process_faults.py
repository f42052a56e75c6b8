"""Faults of whole processes: ``fst train`` on the embedded policy, gepa, TRL and MLflow, all real.

A run on one thread goes on to the bit, so what a fault has cost is what differs from the run that
was left alone.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import tomlkit
from disk_faults import newest
from faults import Drive, Fault, Seen, Shared, Workshop
from mlflow import MlflowClient
from processes import ROOT, environment

from experiments.bench.resume import compare
from fst_agents.run_dir import RunDir
from fst_agents.tracking import replay

SETTINGS: dict[str, Any] = {
    "task": {"name": "digits", "train_size": 32, "val_size": 4},
    "serve": {"host": "local"},
    "fast": {"population": 2, "rollouts": 32, "minibatch": 2},
    "slow": {"steps_per_cycle": 2, "batch_size": 4, "group_size": 4},
    "budget": {"cycles": 2, "enough": 2.0},
    "eval": {"samples": 1},
}

MAIN = "from experiments.cli import main; main()"

PATIENCE = 240.0
"""Seconds that a process may take: most of it is the start."""

SLOW = (pytest.mark.faults,)


class Job:
    """The run in ``place``, begun and gone on with by one process after another."""

    def __init__(self, place: Path, uri: str | None = None, **sections: Any) -> None:
        self.place = place
        self.run = RunDir(place / "run")
        place.mkdir()
        uri = f"sqlite:///{place}/mlflow.db" if uri is None else uri
        content = {"run_dir": str(place / "run"), **SETTINGS, "track": {"uri": uri}, **sections}
        (place / "run-file.toml").write_text(tomlkit.dumps(content))

    def start(self, *options: str, before: str = "") -> subprocess.Popen[bytes]:
        """``fst train``; ``before`` is Python that runs first in its process."""
        begun = (self.run.path / "run.toml").exists()
        what = ["--resume", str(self.run.path)] if begun else ["run-file.toml"]
        with (self.place / "stderr.txt").open("wb") as error:
            return subprocess.Popen(
                [sys.executable, "-c", f"{before}\n{MAIN}", "train", *what, *options, "--json"],
                cwd=self.place,
                env=environment(PYTHONPATH=str(ROOT)),
                stdout=subprocess.DEVNULL,
                stderr=error,
            )

    def end(self, *options: str, before: str = "") -> int:
        """Its exit code."""
        return self._wait(self.start(*options, before=before))

    def signal(self, *numbers: signal.Signals, pause: float = 0.3, steps: int = 1) -> int:
        """Start, and send signals once so many RL steps are in the log; the exit code."""
        process = self.start()
        self.until(process, lambda: self.steps() >= steps)
        children = psutil.Process(process.pid).children(recursive=True)
        for number in numbers:
            process.send_signal(number)
            time.sleep(pause)
        code = self._wait(process)
        assert not psutil.wait_procs(children, timeout=15)[1]
        return code

    def until(self, process: subprocess.Popen[bytes], true: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not true():
            assert process.poll() is None, self.said()
            if time.monotonic() > deadline:
                process.kill()
                raise AssertionError("waited in vain")
            time.sleep(0.05)

    def steps(self) -> int:
        return sum(entry["phase"] == "slow" for entry in self.run.metrics())

    def said(self) -> str:
        """What the last process wrote to standard error."""
        return (self.place / "stderr.txt").read_text(errors="replace")

    def error(self) -> str:
        """Its last line, which is all that was said of its end."""
        text = self.said()
        assert "Traceback" not in text, text[-3000:]
        return text.strip().splitlines()[-1]

    def _wait(self, process: subprocess.Popen[bytes]) -> int:
        try:
            return process.wait(PATIENCE)
        finally:
            if process.poll() is None:
                process.kill()


def whole(shared: Shared) -> Path:
    """The place of the run that was left alone."""

    def make() -> Path:
        job = Job(shared.folder / "whole-process")
        assert job.end() == 0, job.said()
        return job.place

    return shared.once("whole-process", make)


def same(workshop: Workshop, job: Job, *, tracked: bool = True) -> None:
    """The same weights, Φ, curve and points of MLflow as without the fault."""
    compared = compare(whole(workshop.shared), job.place)
    figures = ["weights_equal", "population_equal", "curve_equal"]
    assert [compared[name] for name in figures] == [True] * 3, compared
    if tracked:
        assert compared["mlflow_duplicate_points"] == 0
        assert compared["mlflow_missing_points"] == 0


def resumed(workshop: Workshop, job: Job, *options: str, tracked: bool = True) -> None:
    assert not job.run.finished
    assert job.end(*options) == 0, job.said()
    same(workshop, job, tracked=tracked)


# -- signals --------------------------------------------------------------------------------------


def signalled(numbers: Sequence[signal.Signals], code: int, words: str) -> Drive:
    def check(workshop: Workshop) -> Seen:
        job = Job(workshop.folder / "job")
        assert job.signal(*numbers) == code, job.said()
        assert words in (job.error() if words else words)
        resumed(workshop, job)
        told = f"exit code {code}" if code > 0 else "dead"
        return Seen(f"{told}; --resume came to the same end, to the bit", "the step under way")

    return check


SIGNALS = [
    Fault(
        "SIGTERM",
        "behind the 1st RL step",
        signalled([signal.SIGTERM], 130, "interrupted; the run directory keeps what it had"),
        SLOW,
    ),
    Fault(
        "SIGINT",
        "behind the 1st RL step",
        signalled([signal.SIGINT], 130, "interrupted; the run directory keeps what it had"),
        SLOW,
    ),
    Fault(
        "SIGINT twice",
        "behind the 1st RL step, 10 ms apart",
        lambda workshop: twice(workshop),
        SLOW,
    ),
    Fault("SIGKILL", "behind the 1st RL step", signalled([signal.SIGKILL], -9, ""), SLOW),
]


def twice(workshop: Workshop) -> Seen:
    job = Job(workshop.folder / "job")
    code = job.signal(signal.SIGINT, signal.SIGINT, pause=0.01)
    assert code == 130
    assert job.error().startswith("interrupted")
    resumed(workshop, job)
    return Seen("exit code 130, at once; --resume came to the same end", "the step under way")


# -- memory, disk, clock, port --------------------------------------------------------------------

OUT_OF_MEMORY = """
import torch, threading
left = [2]
def exhaust(module, arguments):
    if threading.current_thread().name == "slow-trainer" and module.training:
        left[0] -= type(module).__name__.endswith("ForCausalLM")
        if left[0] == 0:
            raise torch.OutOfMemoryError("out of memory: tried to allocate 2.00 GiB")
torch.nn.modules.module.register_module_forward_pre_hook(exhaust)
"""

SMALL_FILES = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
"""

JUMPING_CLOCK = """
import itertools, time
real, jumps = time.time, itertools.cycle([0.0, 86_400.0, -86_400.0, 3.0, -7_200.0])
time.time = lambda: real() + next(jumps)
time.time_ns = lambda: int(time.time() * 1e9)
"""


def out_of_memory(workshop: Workshop) -> Seen:
    job = Job(workshop.folder / "job")
    assert job.end(before=OUT_OF_MEMORY) == 1, job.said()
    error = job.error()
    assert "ran out of memory at slow.tokens_per_micro_batch = 8192" in error
    assert job.steps() < 4
    resumed(workshop, job, "--set", "slow.tokens_per_micro_batch=4096")
    return Seen("exit code 1, says what to lower; --resume with less came to the same end")


def small_files(workshop: Workshop) -> Seen:
    job = Job(workshop.folder / "job")
    # MLflow does not mend a store whose tables it could only half make.
    MlflowClient(f"sqlite:///{job.place}/mlflow.db").search_experiments()
    assert job.end(before=SMALL_FILES) == 2, job.said()
    assert "could not be written" in job.error()
    resumed(workshop, job)
    return Seen("exit code 2, one line; with room, --resume came to the same end", "the step")


def jumping_clock(workshop: Workshop) -> Seen:
    job = Job(workshop.folder / "job")
    assert job.end(before=JUMPING_CLOCK) == 0, job.said()
    same(workshop, job)
    seconds = [entry["seconds"] for entry in job.run.metrics()]
    assert seconds == sorted(seconds)
    assert 0 < seconds[0] < PATIENCE
    return Seen("nothing: the same run to the bit, its seconds are right")


def port_taken(workshop: Workshop) -> Seen:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        job = Job(workshop.folder / "job", serve={"host": "vllm", "port": port})
        code = job.end()
    assert code == 2, job.said()
    assert f"serve.port: {port} is in use" in job.error()
    assert not job.run.path.exists()
    return Seen(f"exit code 2: {job.error().removeprefix('error: ')}", "nothing had begun")


def flipped_weights(workshop: Workshop) -> Seen:
    job = Job(workshop.folder / "job")
    assert job.signal(signal.SIGKILL, steps=2) == -9  # the checkpoint of the first is there then
    file = newest(job.run.path) / "policy" / "adapter_model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)  # in place: the served weights are the same file, and damaged as well
    resumed(workshop, job, tracked=False)
    assert "damaged checkpoint passed over" in job.said()
    return Seen("named and passed over; --resume came to the same end", "1 RL step more")


MACHINE = [
    Fault("out of memory in the trainer", "forward pass of the 2nd RL step", out_of_memory, SLOW),
    Fault("disk full", "files of at most 300 kB (RLIMIT_FSIZE)", small_files, SLOW),
    Fault("clock jumping", "a day forwards and back, at every look", jumping_clock, SLOW),
    Fault("port taken", "serve.port", port_taken, SLOW),
    Fault("checkpoint bit-flipped", "its weights, after SIGKILL", flipped_weights, SLOW),
]


# -- MLflow ---------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


def delivered_later(workshop: Workshop, job: Job) -> None:
    """What the store missed stands in the spool, and reaches another one whole."""
    assert replay(job.run.tracking_spool, uri=f"sqlite:///{job.place}/mlflow.db") == 0
    same(workshop, job)


def mlflow_absent(workshop: Workshop) -> Seen:
    job = Job(workshop.folder / "job", f"http://127.0.0.1:{free_port()}")
    assert job.end() == 0, job.said()
    assert "did not reach MLflow" in job.said()
    delivered_later(workshop, job)
    return Seen("the run went on; what was logged is delivered later by replay()")


def mlflow_dies(workshop: Workshop) -> Seen:
    place, port = workshop.folder / "store", free_port()
    place.mkdir()
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{place}/store.db"]
    with (place / "log.txt").open("wb") as log:
        server = subprocess.Popen(
            [*command, "--default-artifact-root", str(place / "files")],
            cwd=place,
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        job = Job(workshop.folder / "job", f"http://127.0.0.1:{port}")
        deadline = time.monotonic() + PATIENCE
        while not _listens(port):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        process = job.start()
        job.until(process, lambda: job.steps() >= 1)
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
    assert process.wait(PATIENCE) == 0, job.said()
    assert "did not reach MLflow" in job.said()
    delivered_later(workshop, job)
    return Seen("the run went on; what was logged is delivered later by replay()")


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


MLFLOW = [
    Fault("MLflow down", "from the start (nothing listens)", mlflow_absent, SLOW),
    Fault("MLflow down", "its server is killed behind the 1st RL step", mlflow_dies, SLOW),
]

PROCESS = [*SIGNALS, *MACHINE, *MLFLOW]

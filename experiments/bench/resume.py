"""``resume``: a run that is killed again and again against the same run left alone.

Both are a small digits run on the local host with one thread, so they have to agree to the bit.
SIGKILL comes at moments drawn from a seed, most of them while the run works and every fourth while
it starts; each time the run is gone on with. Every request to the policy is counted as it is made.
"""

from __future__ import annotations

import json
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import tomlkit
from rich.console import Console

from experiments.studies.processes import context, load_libraries
from fst_agents.errors import FstError
from fst_agents.run_dir import RunDir

SETTINGS: dict[str, Any] = {
    "task": {
        "name": "digits",
        "target": ["sort_ascending", "increment"],
        "train_size": 64,
        "val_size": 16,
    },
    "serve": {"host": "local"},
    "fast": {"population": 2, "rollouts": 128, "minibatch": 4},
    "slow": {"steps_per_cycle": 4, "batch_size": 8, "group_size": 8},
    "budget": {"cycles": 3, "enough": 2.0},  # more than can be reached: every cycle is run
    "eval": {"samples": 1},
}

PATIENCE = 300.0
"""Seconds that a process may take to come to its first request, or to its end from there."""


def run(kills: int, seed: int = 0) -> dict[str, Any]:
    """Kill a run ``kills`` times at moments drawn from ``seed``, and compare what it comes to.

    ``rollouts_paid_twice`` counts those of training, ``evaluation_paid_twice`` the others.

    Raises:
        FstError: a process ended by itself, or did nothing.
    """
    with tempfile.TemporaryDirectory(prefix="fst-resume-") as name:
        whole, broken = Path(name) / "whole", Path(name) / "broken"
        load_libraries()  # or the whole run would seem to take longer to start than the others
        started = time.monotonic()
        end(whole, start(whole))
        seconds = time.monotonic() - started
        training = float(RunDir.open(whole / "run").result()["seconds"])
        done = _kill_often(broken, kills, seconds, training, random.Random(f"resume/{seed}"))
        return {
            "bench": "resume",
            "kills": done,
            **compare(whole, broken),
            "seconds": seconds,
            "seconds_killed": time.monotonic() - started - seconds,
        }


def compare(whole: Path, broken: Path) -> dict[str, Any]:
    """Whether two runs came to the same, and what the second one paid twice for it."""
    paid, due = requests(broken), requests(whole)
    points, wanted = _points(broken), _points(whole)
    return {
        "weights_equal": _weights(whole) == _weights(broken),
        "population_equal": _population(whole) == _population(broken),
        "curve_equal": _curve(whole) == _curve(broken),
        "rollouts": due["t"],
        "rollouts_paid_twice": paid["t"] - due["t"],
        "evaluation_paid_twice": paid["e"] - due["e"],
        "mlflow_points": wanted.total(),
        "mlflow_duplicate_points": (points - wanted).total(),
        "mlflow_missing_points": (wanted - points).total(),
    }


def _kill_often(
    place: Path, kills: int, seconds: float, training: float, rng: random.Random
) -> int:
    """Kill, go on, and so forth, then run to the end; how many kills there was time for."""
    for number in range(kills):
        process = start(place)
        if number % 4 == 3:
            time.sleep(rng.uniform(0.0, seconds - training))
        else:
            _wait_for_a_request(place, process)
            time.sleep(rng.uniform(0.0, 1.2 * training / kills))
        process.kill()
        process.join()
        if RunDir(place / "run").finished:
            return number
    end(place, start(place))
    return kills


def start(place: Path) -> BaseProcess:
    """A process that begins the run in ``place``, or goes on with it."""
    place.mkdir(exist_ok=True)
    (place / "run-file.toml").write_text(tomlkit.dumps(SETTINGS))
    process = context().Process(target=_work, args=(place,))
    process.start()
    return process


def _work(place: Path) -> None:
    """What such a process does: ``fst train``, and one byte in a file for each request."""
    from experiments.check import check
    from experiments.command import quiet_libraries, speak_to
    from experiments.train import resume, train
    from fst_agents.run_file import read

    speak_to(place / "output.txt", "ab")
    quiet_libraries()
    console = Console(quiet=True)
    _count_requests(place / "requests")
    run_dir, uri = place / "run", f"sqlite:///{place}/mlflow.db"
    if (run_dir / "run.toml").exists():
        resume(run_dir, [], console)
        return
    data = {**read(place / "run-file.toml"), "run_dir": str(run_dir), "track": {"uri": uri}}
    train(check(data), console)


def _count_requests(file: Path) -> None:
    """Have the local host write ``t`` for each request of training, ``e`` for each of evaluation,
    before it is sampled: whatever kills the process, what was paid stands there."""
    from fst_agents.serving.local_host import LocalHost

    log = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    rollouts, submit = LocalHost.rollouts, LocalHost.submit
    kind = b"t"

    def labelled(self: LocalHost, jobs: int, at_once: int, label: str) -> Any:
        nonlocal kind
        kind = b"e" if label.startswith("evaluation") else b"t"
        return rollouts(self, jobs, at_once, label)

    def counted(
        self: LocalHost, prompt_ids: Any, sampling: Any, order: tuple[int, ...] = ()
    ) -> Any:
        if order:  # the others prove that weights have arrived
            os.write(log, kind)
        return submit(self, prompt_ids, sampling, order)

    LocalHost.rollouts, LocalHost.submit = labelled, counted


def end(place: Path, process: BaseProcess) -> None:
    """Wait for a run to end well."""
    process.join(PATIENCE)
    if process.exitcode is None:
        process.kill()
        raise FstError(f"a run came to no end within {PATIENCE:g} s")
    _refuse_failure(place, process)


def _refuse_failure(place: Path, process: BaseProcess) -> None:
    if process.exitcode not in (None, 0):
        last = (place / "output.txt").read_text(errors="replace").strip().splitlines()[-1:]
        raise FstError(f"a run ended with exit code {process.exitcode}: {''.join(last)}")


def wait_until(there: Callable[[], bool], place: Path, process: BaseProcess) -> None:
    """Until something is there, or the process has ended well."""
    deadline = time.monotonic() + PATIENCE
    while not there() and process.exitcode is None:
        if time.monotonic() > deadline:
            process.kill()
            raise FstError(f"a run came no further within {PATIENCE:g} s")
        time.sleep(0.02)
    _refuse_failure(place, process)


def _wait_for_a_request(place: Path, process: BaseProcess) -> None:
    before = requests(place).total()
    wait_until(lambda: requests(place).total() > before, place, process)


# -- what a run has come to -----------------------------------------------------------------------


def requests(place: Path) -> Counter[str]:
    """Requests to the policy over all processes, by kind: see :func:`_count_requests`."""
    file = place / "requests"
    return Counter(file.read_text() if file.exists() else "")


def _weights(place: Path) -> bytes:
    return (place / "run" / "result" / "adapter" / "adapter_model.safetensors").read_bytes()


def _population(place: Path) -> Any:
    """Φ with its scores, and how every fast phase came to it."""
    return _timeless([RunDir.open(place / "run").populations(), _result(place)["population"]])


def _curve(place: Path) -> Any:
    return _timeless([RunDir.open(place / "run").metrics(), _result(place)["scores"]])


def _result(place: Path) -> dict[str, Any]:
    return RunDir.open(place / "run").result()


def _timeless(value: Any) -> Any:
    """The same without anything that was measured with a clock."""
    if isinstance(value, list):
        return [_timeless(item) for item in value]
    if isinstance(value, dict):
        return {k: _timeless(v) for k, v in value.items() if "seconds" not in k}
    return value


def _points(place: Path) -> Counter[str]:
    """Every metric point that MLflow holds, by run, name and step; times and values aside."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{place}/mlflow.db")
    found = Counter[str]()
    for experiment in client.search_experiments():
        for one in client.search_runs([experiment.experiment_id]):
            name = one.info.run_name if "mlflow.parentRunId" in one.data.tags else "main"
            for key in one.data.metrics:
                history = client.get_metric_history(one.info.run_id, key)
                found.update(json.dumps([name, key, point.step]) for point in history)
    return found

"""A run of many steps on the scripted host, and what it holds on to while it goes on.

Everything but the policy and its trainer is real: the loop, gepa, DSPy, checkpoints, the run
directory, and MLflow on SQLite.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from fakes import (  # pyright: ignore[reportMissingImports]  # of tests/loop
    SEED,
    Ask,
    RecordingSlow,
    questions,
    right,
    tiny,
)

from fst_agents.checkpoint import Checkpoints
from fst_agents.rollouts import Limits, Runner
from fst_agents.run_dir import RunDir
from fst_agents.serving.scripted_host import ScriptedHost
from fst_agents.stream import ProblemStream
from fst_agents.tracking import MlflowTracker
from fst_agents.types import Policy, StepReport, TrainingSample
from optimizers.books import Ledgers
from optimizers.fast_gepa import GepaFast
from optimizers.loop import Loop, Parts, Silence
from optimizers.plan import plan
from optimizers.reflection import RecordedReflection

IO = Path("/proc/thread-self/io")
"""What the calling thread has read and written so far; Linux only."""

STEPS_PER_CYCLE = 20


def guess(prompt: str, sampling: Any, rng: random.Random) -> str:
    """Right more often the more often the prompt says yes, and never always."""
    answer = "yes" if rng.random() < min(0.9, 0.02 * prompt.count("yes")) else "no"
    return f"[[ ## answer ## ]]\n{answer}\n\n[[ ## completed ## ]]"


class Reflection:
    """Another instruction of thirty words each time it is asked."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, prompt: str) -> str:
        words = random.Random(self.calls).choices(("yes", "no", "maybe", "never"), k=30)
        self.calls += 1
        return f"```\nAnswer {' '.join(words)}.\n```"


class Host(ScriptedHost):
    """A scripted host that knows the policy it serves and none before."""

    def __init__(self) -> None:
        super().__init__(guess)

    def update(self, policy: Policy) -> None:
        super().update(policy)
        del self.updates[:-1]


class Slow(RecordingSlow):
    """Learns nothing and remembers nothing."""

    def __init__(self) -> None:
        super().__init__([])

    def update(self, samples: Sequence[TrainingSample]) -> StepReport:
        report = super().update(samples)
        self._log.clear()
        return report


@dataclass(frozen=True)
class Reading:
    """What the process holds after a step, and what the loop's thread has used until then."""

    step: int
    objects: int
    memory: int
    descriptors: int
    threads: int
    read: int
    written: int
    seconds: float


class Gauge(Silence):
    """Reads off the process at the end of every cycle; ``leak`` is called after every step."""

    def __init__(self, leak: Callable[[int], None]) -> None:
        self.readings: list[Reading] = []
        self._leak = leak
        self._process = psutil.Process()

    def slow(self, step: int, report: StepReport) -> None:
        self._leak(step)
        if step % STEPS_PER_CYCLE:
            return
        gc.collect()
        process = self._process
        counters = dict(line.split(": ") for line in IO.read_text().splitlines())
        self.readings.append(
            Reading(
                step,
                objects=len(gc.get_objects()),
                memory=process.memory_info().rss,
                descriptors=process.num_fds(),
                threads=process.num_threads(),
                read=int(counters["rchar"]),
                written=int(counters["wchar"]),
                seconds=time.thread_time(),
            )
        )


def long_run(
    folder: Path, steps: int, leak: Callable[[int], None] = lambda step: None
) -> list[Reading]:
    """Run ``steps`` RL steps in ``folder/run``, with a fast phase before every 20."""
    config = tiny(
        slow={"steps_per_cycle": STEPS_PER_CYCLE, "batch_size": 2, "group_size": 2},
        fast={"population": 2, "rollouts": 120, "minibatch": 2},
        budget={"cycles": steps // STEPS_PER_CYCLE},
    )
    run_dir = RunDir.create(folder / "run", config)
    database = f"sqlite:///{folder}/mlflow.db"
    tracker = MlflowTracker.start(database, "long", "long", {}, {}, run_dir.tracking_spool)
    reflect = RecordedReflection(Reflection(), run_dir.reflections_log)
    host, gauge = Host(), Gauge(leak)
    runner = Runner(Ask(), right, host, limits=Limits(concurrency=2, timeout=30, retries=0))
    checkpoints = Checkpoints(run_dir.checkpoint_folder, config.checkpoint.keep)
    parts = Parts(
        config,
        host,
        runner,
        ProblemStream(questions(8), config.slow.batch_size, seed=0),
        Ledgers(run_dir, tracker, checkpoints, reflect, {}),
        gauge,
        GepaFast(config.fast, reflect),
        Slow(),
    )
    gc.collect()
    gc.freeze()  # what is there already is neither counted nor looked through each time
    try:
        Loop(parts, SEED).run(plan(config))
    finally:
        gc.unfreeze()
        runner.close()
        assert tracker.finish() == 0
    return gauge.readings


# -- what is too much -----------------------------------------------------------------------------

NOISE = {"objects": 800, "memory": 1_000_000, "descriptors": 3, "threads": 2}
"""What comes and goes: MLflow's thread is somewhere else at each reading."""

MOST_PER_STEP = {"objects": 2.0, "memory": 2000, "descriptors": 0.0, "threads": 0.0}
"""Growth for each further step that is put up with. MLflow keeps some 25 objects of each of the
last 1024 child runs, which is 1.25 for each step here. A report that is kept is two more."""

MOST_DEARER = {"read": 1.15, "written": 1.15, "seconds": 1.5}
"""By how much a late step may cost more than an early one. Bytes hardly vary, seconds do."""


def growth(readings: Sequence[Reading]) -> dict[str, float]:
    """What is held more in the last third than in the first, at the least."""
    first, last = _ends(readings)
    return {
        name: min(getattr(r, name) for r in last) - min(getattr(r, name) for r in first)
        for name in NOISE
    }


def dearer(readings: Sequence[Reading]) -> dict[str, float]:
    """What a step of the last third costs, as a multiple of one of the first."""
    first, last = _ends(readings)
    return {
        name: (getattr(last[-1], name) - getattr(last[0], name))
        / (getattr(first[-1], name) - getattr(first[0], name))
        for name in MOST_DEARER
    }


def too_much(readings: Sequence[Reading]) -> dict[str, float]:
    """Of :func:`growth` and :func:`dearer`, what is beyond the limits."""
    grown, cost = growth(readings), dearer(readings)
    first, last = _ends(readings)
    steps = last[0].step - first[0].step
    limits = {name: NOISE[name] + steps * MOST_PER_STEP[name] for name in NOISE}
    over = {name: value for name, value in grown.items() if value > limits[name]}
    return over | {name: value for name, value in cost.items() if value > MOST_DEARER[name]}


def _ends(readings: Sequence[Reading]) -> tuple[Sequence[Reading], Sequence[Reading]]:
    """The first and the last third, without the start, in which caches fill."""
    settled = readings[len(readings) // 5 :]
    third = len(settled) // 3
    return settled[:third], settled[-third:]

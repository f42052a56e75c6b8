"""A loop on fakes that can be stopped at any call of its parts, and gone on with.

Everything random depends on labels and counters, as on the local host, so that a run with stops can
be compared with one without, exactly.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import dspy
from fakes import (  # pyright: ignore[reportMissingImports]  # of tests/loop
    SEED,
    Ask,
    LoggedHost,
    RecordingSlow,
    guess,
    questions,
    right,
    tiny,
)

from fst_agents.checkpoint import Checkpoints
from fst_agents.config import RunConfig
from fst_agents.json_files import read_lines
from fst_agents.rollouts import Limits, Runner
from fst_agents.run_dir import RunDir
from fst_agents.serving.host import PolicyHost
from fst_agents.stream import ProblemStream
from fst_agents.tracking.spool import Cursor, Spool
from fst_agents.tracking.tracker import EventTracker
from fst_agents.types import Policy, StepReport, TrainingSample
from optimizers.books import Ledgers
from optimizers.fast_gepa import GepaFast
from optimizers.loop import Loop, Parts, Silence
from optimizers.plan import plan
from optimizers.reflection import RecordedReflection, StandInReflection
from optimizers.resume import Resumed, history, rollouts_seen, run_identity, take_back

TIMINGS = {"fast/seconds", "serve/sync_seconds", "budget/seconds", "seconds"}


LIMITS = Limits(concurrency=2, timeout=30, retries=0)
SCRIPTED = Policy("scripted")


class Stop(BaseException):
    """What ends a run that is stopped on purpose."""


class Fuse:
    """Blows at the n-th place a run comes to.

    ``kill``: like SIGKILL, nothing can be done afterwards: every later place raises as well.
    Otherwise only that place fails, and the run can still tidy up.
    """

    def __init__(self, at: int | None = None, *, kill: bool = True) -> None:
        self.places = 0
        self.blown = False
        self._at, self.kills = at, kill
        self._lock = threading.Lock()

    def place(self) -> None:
        with self._lock:
            self.places += 1
            if self._at is not None and self.places > self._at and not self.blown:
                self.blown = True
                raise Stop(f"at place {self._at}")
            if self.blown and self.kills:
                raise Stop("dead")

    def guard(self, thing: Any, *names: str) -> None:
        """Before and behind each call of these methods is a place."""
        for name in names:
            setattr(thing, name, self.guarded(getattr(thing, name)))

    def guarded(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def place_call_place(*args: Any, **kwargs: Any) -> Any:
            self.place()
            value = call(*args, **kwargs)
            self.place()
            return value

        return place_call_place


class SpoolTracker(EventTracker):
    """A tracker whose store has everything as soon as it is committed."""

    def __init__(self, path: Path) -> None:
        self.spool = Spool(path)
        super().__init__(lambda event: self.put(event))

    def put(self, event: dict[str, Any]) -> None:
        self.spool.put(event)

    def mark(self) -> int:
        return self.spool.end

    def forget(self, mark: int) -> None:
        self.spool.rewind(mark)

    def commit(self) -> None:
        self.spool.commit()
        self.spool.save(Cursor(offset=self.spool.end))


class ChainedSlow(RecordingSlow):
    """A trainer whose weights are a hash of all that it was ever trained on."""

    def __init__(self, policy: Policy, saved: Path | None = None) -> None:
        super().__init__([])
        self.policy = policy
        self.weights = "" if saved is None else (saved / "chain.txt").read_text()

    def update(self, samples: Sequence[TrainingSample]) -> StepReport:
        self.weights = hashlib.sha256(f"{self.weights}{samples!r}".encode()).hexdigest()
        return super().update(samples)

    def publish(self, folder: Path) -> Policy:
        policy = super().publish(folder)
        (folder / "weights.txt").write_text(self.weights)
        return policy

    def save(self, folder: Path) -> None:
        (folder / "chain.txt").write_text(self.weights)


class PaidHost(LoggedHost):
    """Counts the completions of announced rollouts: what has to be paid for."""

    def __init__(self) -> None:
        super().__init__(guess, [])
        self.paid = 0

    def _answer(self, new: Any) -> Any:
        self.paid += bool(new.order)
        return super()._answer(new)


@dataclass(frozen=True)
class Cast:
    """Who plays in an attempt; what is not named is healthy."""

    program: Callable[[], dspy.Module] = Ask
    metric: Callable[..., Any] = right
    host: Callable[[], PolicyHost] = PaidHost
    slow: Callable[[Policy, Path | None], ChainedSlow] = ChainedSlow
    reflection: Callable[[], Callable[[str], str]] = StandInReflection
    limits: Limits = LIMITS
    policy: Policy = SCRIPTED


@dataclass
class Run:
    """One attempt at a run."""

    loop: Loop
    parts: Parts
    config: RunConfig
    tracker: SpoolTracker
    host: Any
    slow: ChainedSlow
    resumed: Resumed | None
    asked: list[str] = field(default_factory=list[str])

    @property
    def run_dir(self) -> RunDir:
        return self.parts.ledgers.run_dir


def small(**sections: Any) -> RunConfig:
    """Two cycles of a fast phase of 14 rollouts and 2 steps of 2 × 2."""
    sizes: dict[str, dict[str, Any]] = {
        "slow": {"steps_per_cycle": 2, "batch_size": 2, "group_size": 2},
        "fast": {"population": 2, "rollouts": 14, "minibatch": 2},
    }
    merged = {name: {**values, **sections.pop(name, {})} for name, values in sizes.items()}
    return tiny(**merged, **sections)


def attempt(path: Path, config: RunConfig, fuse: Fuse, cast: Cast | None = None) -> Run:
    """Begin the run in ``path``, or go on with it."""
    phases, found = plan(config), questions(4)
    identity = run_identity(phases, found)
    cast = Cast() if cast is None else cast
    began = cast.policy
    fresh = not (path / "run.toml").exists()
    run_dir = RunDir.create(path, config) if fresh else RunDir.open(path)
    checkpoints = Checkpoints(run_dir.checkpoint_folder, config.checkpoint.keep)
    resumed = None if fresh else take_back(run_dir, checkpoints, phases, identity, began)
    tracker = SpoolTracker(run_dir.tracking_spool)
    tracker.spool.rewind(0 if resumed is None else resumed.state.marks.tracker)
    tracker.commit()
    host = cast.host()
    policy = began if resumed is None else resumed.policy
    if resumed is not None:
        host.update(policy)
    slow = cast.slow(policy, None if resumed is None else resumed.trainer)
    asked: list[str] = []
    source = cast.reflection()

    def ask(prompt: str) -> str:
        asked.append(prompt)
        return source(prompt)

    reflect = RecordedReflection(
        fuse.guarded(ask),
        run_dir.reflections_log,
        0 if resumed is None else resumed.state.marks.reflections,
        source=source,
    )
    fast = GepaFast(config.fast, reflect, config.seed)
    runner = Runner(cast.program(), cast.metric, host, limits=cast.limits)
    stream = ProblemStream(found, config.slow.batch_size, seed=config.seed)
    ledgers = Ledgers(run_dir, tracker, checkpoints, reflect, identity)
    parts = Parts(config, host, runner, stream, ledgers, Silence(), fast, slow)
    loop = Loop(parts, SEED)
    if resumed is not None:
        seen = rollouts_seen(run_dir, phases, resumed.state, config.fast.max_staleness)
        loop.take_up(resumed.state, seen)
    fuse.guard(run_dir, "add_metrics", "add_rollouts", "write_population", "write_state")
    fuse.guard(run_dir, "prune_policies")
    fuse.guard(checkpoints, "save")
    fuse.guard(tracker, "commit", "put")
    fuse.guard(host, "submit", "update")
    fuse.guard(slow, "update", "publish", "save", "logprobs")
    fuse.guard(fast, "evolve")
    return Run(loop, parts, config, tracker, host, slow, resumed, asked)


def finish(run: Run) -> bool:
    """Run on; whether the run came to its end."""
    ended = False
    with suppress(Stop):
        run.loop.run(plan(run.config))
        ended = True
    run.parts.runner.close()
    return ended


def outcome(run: Run) -> dict[str, Any]:
    """All that a run has come to, but for the time it took."""
    books, path = run.loop.books, run.run_dir.path
    lines = [json.loads(line) for line in run.run_dir.metrics_log.read_text().splitlines()]
    events = [event for event in _events(run.tracker.spool) if event["kind"] == "metrics"]
    return {
        "population": run.loop.population,
        "scores": run.loop.population.scores,
        "parents": [c.parents for c in run.loop.population.candidates],
        "weights": run.slow.weights,
        "version": run.loop.policy.version,
        "stopped": run.loop.stopped,
        "cursor": run.parts.stream.cursor,
        "pace": run.run_dir.state().pace,
        "spend": _timeless(asdict(books.spend)),
        "predictors": books.predictors,
        "history": [(r.step, _timeless(r.metrics)) for r in history(run.run_dir, plan(run.config))],
        "metrics": [_timeless({**line, "metrics": _timeless(line["metrics"])}) for line in lines],
        "tracked": [(e["run"], e["step"], _timeless(e["values"])) for e in events],
        "rollouts": {
            file.name: [_timeless(json.loads(line)) for line in file.read_text().splitlines()]
            for file in run.run_dir.rollout_files()
        },
        "reflections": [line["prompt"] for line in read_lines(run.run_dir.reflections_log)],
        "populations": [_timeless(_with_timeless_record(r)) for r in run.run_dir.populations()],
        "policies": sorted(f.name for f in (path / "policy").iterdir()),
        "served": (path / "policy" / f"v{run.loop.policy.version:05d}" / "weights.txt").read_text(),
    }


def _with_timeless_record(record: dict[str, Any]) -> dict[str, Any]:
    inner = record["record"]
    return {**record, "record": {**inner, "metrics": _timeless(inner["metrics"])}}


def _timeless(values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in TIMINGS}


def _events(spool: Spool) -> list[dict[str, Any]]:
    place, events = 0, list[dict[str, Any]]()
    while (found := spool.read(place)) is not None:
        event, place = found
        events.append(event)
    return events

"""A whole run on a policy that is a script: what plays in it, and what faults in it lead to."""

# pyright: reportMissingImports=false

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fakes import LoggedHost
from faults import Drive, Seen, Shared, Workshop, outcomes, refuse_wrong_gradient
from stops import Cast, ChainedSlow, Fuse, PaidHost, Run, attempt, finish, outcome, small

from fst_agents.config import RunConfig
from fst_agents.errors import (
    FstError,
)
from fst_agents.types import Outcome, Policy, Sampling, StepReport, TrainingSample
from optimizers.plan import plan

CONFIG = small(
    slow={"group_size": 4}, fast={"rollouts": 24}, sampling={"retries": 0, "max_infra_share": 0.25}
)
"""Two cycles: a fast phase of 24 rollouts on 4 problems, then 2 steps of 2 problems × 4."""

PATIENT = CONFIG.model_copy(
    update={"sampling": CONFIG.sampling.model_copy(update={"max_infra_share": 0.6})}
)


def unlike(prompt: str, sampling: Sampling, rng: random.Random) -> str:
    """Right half of the time, and no two answers alike."""
    thought = f"Thought {rng.getrandbits(64)}.\n\n"
    answer = rng.choice(["yes", "no"])
    return f"{thought}[[ ## answer ## ]]\n{answer}\n\n[[ ## completed ## ]]"


class Host(PaidHost):
    """A scripted host that counts what is paid; ``unlike`` is its script."""

    def __init__(self) -> None:
        LoggedHost.__init__(self, unlike, [])
        self.paid = 0


class RecordingTrainer(ChainedSlow):
    """Keeps every batch that it was handed, and says how far off the sampler is."""

    def __init__(self, policy: Policy, saved: Path | None = None) -> None:
        super().__init__(policy, saved)
        self.batches: list[Sequence[TrainingSample]] = []

    def update(self, samples: Sequence[TrainingSample]) -> StepReport:
        self.batches.append(samples)
        report = super().update(samples)
        return StepReport(report.step, {**report.metrics, "slow/logp_gap": self.gap()})

    def gap(self) -> float:
        return 0.0


def cast(**others: Any) -> Cast:
    """Healthy but for ``others``."""
    return Cast(**{"host": Host, "slow": RecordingTrainer, **others})


class Sometimes:
    """Is true at every ``every``-th call, at most ``most`` times."""

    def __init__(self, every: int, most: int = 1_000_000) -> None:
        self._every, self._left = every, most
        self._calls = 0
        self._lock = threading.Lock()

    def __call__(self) -> bool:
        with self._lock:
            self._calls += 1
            due = self._calls % self._every == 0 and self._left > 0
            self._left -= due
            return due


class From(Sometimes):
    """Is true at its ``first``-th call and ever after."""

    def __init__(self, first: int) -> None:
        super().__init__(1)
        self._first = first

    def __call__(self) -> bool:
        super().__call__()
        return self._calls >= self._first


def whole(shared: Shared) -> Run:
    """The undisturbed run."""

    def make() -> Run:
        run = attempt(shared.folder / "whole-loop", CONFIG, Fuse(), cast())
        assert finish(run)
        return run

    return shared.once("whole-loop", make)


def drive(run: Run) -> FstError | None:
    """Run on; the deliberate error that ended it, if one did."""
    try:
        with run.run_dir.writing():
            run.loop.run(plan(run.config))
    except FstError as error:
        return error
    finally:
        run.parts.runner.close()
    return None


def first_line(error: BaseException, most: int = 90) -> str:
    line = str(error).partition("\n")[0]
    return line if len(line) <= most else f"{line[: most - 1]}…"


def lives(
    faulty: Callable[[], Cast],
    kind: Outcome | None,
    told: str,
    config: RunConfig = PATIENT,
    also: Callable[[Run], None] = lambda run: None,
) -> Drive:
    """The run comes to its end; rollouts of outcome ``kind`` are there, and trained on only if that
    outcome counts."""

    def check(workshop: Workshop) -> Seen:
        run = attempt(workshop.folder / "run", config, Fuse(), faulty())
        error = drive(run)
        assert error is None, error
        assert run.loop.stopped == "done"
        counts = outcomes(run.run_dir)
        assert isinstance(run.slow, RecordingTrainer)
        assert len(run.slow.batches) == 4
        assert any(run.slow.batches)
        refuse_wrong_gradient(run.run_dir, run.slow.batches)
        also(run)
        if kind is None:
            assert set(counts) == {"all", "ok"}
            return Seen(f"{told}; the run went on")
        hit = counts[kind.value]
        assert hit
        lost = f"{hit} of {counts['all']} rollouts" if kind.masked else "nothing"
        return Seen(f"{told}: {hit} rollouts {kind.value}; the run went on", lost)

    return check


def stops(
    faulty: Callable[[], Cast], kind: type[FstError], words: str, config: RunConfig = CONFIG
) -> Drive:
    """The run stops with one clear error; mended, it comes to what the undisturbed one comes to."""

    def check(workshop: Workshop) -> Seen:
        reference, path = whole(workshop.shared), workshop.folder / "run"
        first = attempt(path, config, Fuse(), faulty())
        error = drive(first)
        assert isinstance(error, kind), error
        assert words in str(error), error
        second = attempt(path, config, Fuse(), cast())
        assert drive(second) is None
        return Seen(
            f"stopped, {kind.__name__}: {first_line(error)}; mended, --resume came to the same end",
            same_end(reference, [first, second]),
        )

    return check


def same_end(reference: Run, runs: Sequence[Run], *, but: str = "", most: int = 8) -> str:
    """What was lost: the rollouts that were paid twice, at most a step or a request of a fast phase
    unless told otherwise. All else is equal, ``but`` for one."""
    wanted, got = outcome(reference), outcome(runs[-1])
    wanted.pop(but, None)
    got.pop(but, None)
    differing = [name for name in wanted if got[name] != wanted[name]]
    assert not differing, differing
    again = sum(run.host.paid for run in runs) - reference.host.paid
    assert again <= most
    return f"{again} rollouts paid again" if again > 0 else "nothing"

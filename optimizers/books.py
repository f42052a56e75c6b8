"""The books of a run: what has been paid and measured, and the checkpoints it can go on from.

Order matters. What is measured goes to the logs first, then the checkpoint is written, and only
then may the tracker deliver: a run that goes on from a checkpoint repeats nothing that has been
delivered. A checkpoint holds ``state.json``, ``trainer/`` (what :meth:`Trainer.save` writes) and
``policy/`` (the weights that were served, unless they are those the run began with).
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol

from fst_agents.bridge_report import PredictorCounts
from fst_agents.checkpoint import Checkpoints
from fst_agents.json_files import write_json
from fst_agents.run_dir import Phase, RunDir
from fst_agents.tracking import Tracker
from fst_agents.types import Marks, Policy, RunState, Spend, StepReport
from optimizers.protocols import SlowOptimizer
from optimizers.reflection import RecordedReflection

STATE, TRAINER, POLICY = "state.json", "trainer", "policy"


class Trainer(SlowOptimizer, Protocol):
    """A slow optimizer that can be gone on with after a stop."""

    def save(self, folder: Path) -> None:
        """Write into an existing folder what is needed beside the published weights."""
        ...


@dataclass(frozen=True)
class Ledgers:
    """Where a run is written down. ``identity`` says which data and plan it belongs to."""

    run_dir: RunDir
    tracker: Tracker
    checkpoints: Checkpoints
    reflection: RecordedReflection | None
    identity: Mapping[str, str]


class Books:
    """Counts what a run spends and writes down what it has reached.

    What has been written down is not kept in memory: a run may have many thousand steps.
    """

    def __init__(self, ledgers: Ledgers, predictors: Iterable[str]) -> None:
        """``predictors``: names of those that run on the policy."""
        self.spend = Spend()
        self.predictors = {name: PredictorCounts() for name in predictors}
        """What each predictor of the policy has done so far, in both phases."""
        self.checkpoint = 0
        """Number of the last checkpoint, 0 before there is one."""
        self._ledgers = ledgers
        self._started = time.monotonic()

    def take_up(self, state: RunState) -> None:
        """Go on from where a checkpoint stands."""
        self.spend, self.checkpoint = state.spend, state.checkpoint
        self.predictors = {
            name: PredictorCounts(**counts) for name, counts in state.predictors.items()
        }
        self._started = time.monotonic() - state.spend.seconds

    @property
    def seconds(self) -> float:
        """Time spent on the run, without that between a stop and going on."""
        return time.monotonic() - self._started

    def pay(self, spend: Spend) -> None:
        self.spend += spend

    def count(self, counts: Mapping[str, PredictorCounts]) -> None:
        for name, new in counts.items():
            self.predictors[name] = self.predictors.get(name, PredictorCounts()) + new

    def enter(
        self,
        phase: Phase,
        step: int,
        report: StepReport,
        private: Mapping[str, float] | None = None,
    ) -> None:
        """Log a report. ``private`` figures are for the run directory, not for the tracker."""
        self.spend = replace(self.spend, seconds=self.seconds)
        rollouts = self.spend.fast_rollouts + self.spend.slow_rollouts
        self._ledgers.run_dir.add_metrics(
            step,
            phase,
            {**report.metrics, **(private or {})},
            rollouts=rollouts,
            seconds=self.spend.seconds,
        )
        budget = {f"budget/{name}": float(v) for name, v in asdict(self.spend).items()}
        self._ledgers.tracker.log_metrics(
            {**report.metrics, **budget}, step=step, rollouts=rollouts
        )

    def close(self, state: RunState, slow: Trainer | None) -> None:
        """Write a checkpoint; from now on the run does not fall back behind it.

        Of ``state``, what the books know is filled in here.

        Raises:
            RunDirError: there is no room; the checkpoint before is intact.
        """
        to = self._ledgers
        state = replace(
            state,
            spend=self.spend,
            predictors={name: asdict(counts) for name, counts in self.predictors.items()},
            mlflow_run_id=to.tracker.run_id,
            marks=self._marks(),
            identity=to.identity,
            checkpoint=self.checkpoint + 1,
        )

        def write(folder: Path) -> None:
            write_json(folder / STATE, state)
            if slow is not None:
                (folder / TRAINER).mkdir()
                slow.save(folder / TRAINER)
            weights = weights_of(state.policy)
            own = to.run_dir.policy_folder(state.policy.version)
            if weights is not None and weights == own:
                copy_weights(weights, folder / POLICY)

        with to.run_dir.writing():
            to.checkpoints.save(state.checkpoint, write)
            self.checkpoint = state.checkpoint
            to.run_dir.write_state(state)
        to.tracker.commit()

    def _marks(self) -> Marks:
        to = self._ledgers
        reflections = 0 if to.reflection is None else to.reflection.mark()
        for log in (to.run_dir.metrics_log, to.run_dir.reflections_log, to.run_dir.tracking_spool):
            _flush(log)
        return Marks(_size(to.run_dir.metrics_log), reflections, to.tracker.mark())


def weights_of(policy: Policy) -> Path | None:
    """The folder with what training has added to the base model."""
    return policy.weights if policy.adapter is None else policy.adapter


def copy_weights(source: Path, target: Path) -> None:
    """A new folder with the same files, which nobody ever writes to: linked where that can be."""
    shutil.copytree(source, target, copy_function=_link)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        shutil.copyfile(source, target)


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _flush(file: Path) -> None:
    """A checkpoint must not outlive the lines that it counts on, whatever happens to the power."""
    if file.exists():
        handle = os.open(file, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

"""A run that is open: its directory, checkpoints and tracker, and how far it had come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from fst_agents.checkpoint import Checkpoints
from fst_agents.config import RunConfig
from fst_agents.redaction import public_config
from fst_agents.run_dir import RunDir, default_name
from fst_agents.tracking import MlflowTracker, NullTracker, Tracker
from fst_agents.types import Policy
from optimizers.outcome import ends
from optimizers.plan import Phase
from optimizers.resume import Resumed, refuse_changes, reopen_tracker, take_back


@dataclass(frozen=True)
class OpenRun:
    """Where a run is written down, and how far it had come. ``stack`` closes what was opened."""

    stack: ExitStack
    run_dir: RunDir
    checkpoints: Checkpoints
    tracker: Tracker
    resumed: Resumed | None


def open_run(
    config: RunConfig,
    stack: ExitStack,
    *,
    phases: Sequence[Phase],
    identity: Mapping[str, str],
    policy: Policy,
    resume: Path | None,
) -> OpenRun:
    """Open the books, at the newest checkpoint if there is one to go on from.

    Args:
        identity: which data and plan the run belongs to.
        policy: what the run begins with.
        resume: the directory of a stopped run to go on with.

    Raises:
        FstError: the directory cannot be used, or the run in it is another one.
    """
    run_dir = _run_dir(config, resume, stack)
    checkpoints = Checkpoints(run_dir.checkpoint_folder, config.checkpoint.keep)
    resumed = None
    if resume is not None:
        resumed = take_back(run_dir, checkpoints, phases, identity, policy)
    stack.enter_context(run_dir.writing())
    tracker = _tracker(config, run_dir, resume, resumed)
    stack.push(ends(tracker))
    return OpenRun(stack, run_dir, checkpoints, tracker, resumed)


def _run_dir(config: RunConfig, resume: Path | None, stack: ExitStack) -> RunDir:
    """The run directory, new or to go on in; nobody else writes there until the end."""
    if resume is None:
        run_dir = RunDir.create(config.run_dir or default_name(config), config)
        stack.enter_context(run_dir.lock())
        return run_dir
    run_dir = RunDir.open(resume)
    stack.enter_context(run_dir.lock())
    run_dir.refuse_finished()
    refuse_changes(config, run_dir)
    return run_dir


def _tracker(
    config: RunConfig, run_dir: RunDir, resume: Path | None, resumed: Resumed | None
) -> Tracker:
    track = config.track
    if not track.enabled:
        return NullTracker()
    if resume is not None:
        mark = 0 if resumed is None else resumed.state.marks.tracker
        tracker = reopen_tracker(track.uri, run_dir.tracking_spool, mark)
        if tracker is not None:
            return tracker
    return MlflowTracker.start(
        track.uri,
        track.experiment,
        run_dir.path.name,
        public_config(config),
        {"arm": config.arm, "task": config.task.name, "seed": config.seed},
        run_dir.tracking_spool,
    )

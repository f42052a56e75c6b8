"""Going on with a stopped run: its directory is taken back to the newest intact checkpoint.

What stands behind the checkpoint is removed, with one exception: the rollouts and reflections of a
fast phase that was under way are paid for and are read back when it runs again. Doing this twice
is the same as doing it once, so a stop in the middle of it does no harm.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fst_agents.checkpoint import Checkpoints
from fst_agents.config import RunConfig
from fst_agents.errors import ConfigError, RunDirError
from fst_agents.json_files import read_json, to_json
from fst_agents.redaction import public_config, redact_url, secrets_lacking
from fst_agents.run_dir import RunDir, from_json
from fst_agents.tracking import MlflowTracker
from fst_agents.tracking.delivery import store_uri
from fst_agents.tracking.spool import Cursor, Spool
from fst_agents.tracking.tracker import flatten
from fst_agents.types import Policy, Problem, Rollout, RunState, StepReport
from optimizers.books import POLICY, STATE, TRAINER, copy_weights, weights_of
from optimizers.distill_stage import answers_name
from optimizers.fast_rollouts import file_name
from optimizers.plan import FastPhase, Phase

FORMAT = "1"
"""Of a checkpoint's content; goes up whenever an older checkpoint would be misread."""

FREE = (
    "serve.*",
    "track.*",
    "checkpoint.*",
    "fast.reflection_args.*",
    "budget.seconds",
    "slow.tokens_per_micro_batch",
    "fixed.<predictor>.args.*",
)
"""What may differ when a run is gone on with: the machine, how much of it is used, how the run is
kept, secrets and the time there is."""

_FREE = re.compile(
    r"(serve|track|checkpoint|fast\.reflection_args|fixed\..+?\.args)(\.|$)|budget\.seconds$"
    r"|slow\.tokens_per_micro_batch$|run_dir$"
)
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_PRIVATE = "slow/candidate/"


@dataclass(frozen=True)
class Resumed:
    """A run directory that has been taken back. ``faults`` name damaged checkpoints."""

    state: RunState
    policy: Policy
    trainer: Path
    faults: list[str]


def run_identity(phases: Sequence[Phase], problems: Sequence[Problem]) -> dict[str, str]:
    """What a checkpoint and whoever goes on from it must agree on: digests of data and plan."""
    data = hashlib.sha256()
    for problem in problems:
        text = json.dumps([problem.id, to_json(problem.example.toDict())], sort_keys=True)
        data.update(_ADDRESS.sub("", text).encode())
    plan = json.dumps([[type(phase).__name__, asdict(phase)] for phase in phases])
    return {
        "format": FORMAT,
        "data": data.hexdigest(),
        "plan": hashlib.sha256(plan.encode()).hexdigest(),
    }


# -- the configuration --------------------------------------------------------------------------


def may_change(key: str) -> bool:
    """Whether a key of the run file may differ when a run is gone on with."""
    return _FREE.match(key) is not None


def refuse_changes(config: RunConfig, run_dir: RunDir) -> None:
    """Settings are those the run began with, and secrets have been given again.

    Raises:
        ConfigError: a line for each key that is wrong.
    """
    before, now = flatten(public_config(run_dir.config())), flatten(public_config(config))
    lines = [
        f"{key}: the run has {before.get(key, 'none')}, got {now.get(key, 'none')}; a run goes on "
        f"as it began, only {', '.join(FREE)} may differ"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and not may_change(key)
    ]
    lines += secrets_lacking(config)
    if lines:
        raise ConfigError(lines)


# -- the run directory --------------------------------------------------------------------------


def take_back(
    run_dir: RunDir,
    checkpoints: Checkpoints,
    phases: Sequence[Phase],
    identity: Mapping[str, str],
    policy: Policy,
) -> Resumed | None:
    """Take a run directory back to its newest intact checkpoint; ``policy`` is where it began.

    Returns ``None`` where the run never came to its first checkpoint: nothing has been paid yet.

    Raises:
        RunDirError: the checkpoints are all damaged or gone, or a log is shorter than it was.
        ConfigError: the checkpoint is of another run, or of another version of this project.
    """
    if not any(checkpoints.folder.glob("[0-9]*")):
        if run_dir.metrics_log.exists() or run_dir.has_state:
            raise RunDirError(
                f"{run_dir.path}: has results but no checkpoints; it cannot be gone on with"
            )
        return None
    place, faults = checkpoints.newest()
    data = read_json(place / STATE)
    _refuse_foreign(place, data, identity, policy)
    state = from_json(RunState, data)
    with run_dir.writing():
        _cut(run_dir.metrics_log, state.marks.metrics)
        _remove_later(run_dir, state, phases)
        restored = _restore(run_dir, place, state.policy, policy)
        checkpoints.drop_after(place)
        run_dir.write_state(replace(state, policy=restored))
    return Resumed(
        replace(state, policy=restored),
        restored,
        place / TRAINER,
        faults,
    )


def _refuse_foreign(place: Path, data: Any, identity: Mapping[str, str], policy: Policy) -> None:
    stored = data.get("identity", {}) if isinstance(data, dict) else {}
    if stored.get("format") != identity["format"]:
        raise ConfigError(
            f"{place}: written by another version (format {stored.get('format')}, this one has "
            f"{identity['format']}); go on with the version that began the run"
        )
    lines: list[str] = []
    if stored["data"] != identity["data"]:
        lines.append(
            f"{place}: belongs to other training data; the same examples with the same content "
            "are needed to go on"
        )
    if stored["plan"] != identity["plan"]:
        lines.append(f"{place}: belongs to another plan of phases; go on with the run it is of")
    model = str(data["policy"]["model"])
    if Path(model).name != Path(policy.model).name:
        lines.append(f"{place}: belongs to a policy on {model!r}, got {policy.model!r}")
    if lines:
        raise ConfigError(lines)


def _cut(log: Path, size: int) -> None:
    found = log.stat().st_size if log.exists() else 0
    if found < size:
        raise RunDirError(
            f"{log}: has {found} bytes, but had {size} when the checkpoint was written; it has "
            "been changed since. Put it back to go on"
        )
    if found > size:
        os.truncate(log, size)


def _remove_later(run_dir: RunDir, state: RunState, phases: Sequence[Phase]) -> None:
    kept = {run_dir.rollout_file(step) for step in range(1, state.step + 1)}
    for index, phase in enumerate(phases):
        if isinstance(phase, FastPhase):
            if index <= state.phase:  # the last of them may be under way: see FastRollouts
                kept.add(run_dir.rollout_file(file_name(phase.cycle)))
            if index >= state.phase:
                run_dir.population_file(phase.cycle).unlink(missing_ok=True)
    kept |= {run_dir.rollout_file(answers_name(n)) for n in range(1, state.distilled + 1)}
    for file in set(run_dir.rollout_files()) - kept:
        file.unlink()
    under_way = state.phase < len(phases) and isinstance(phases[state.phase], FastPhase)
    if run_dir.reflections_log.exists() and not under_way:
        _cut(run_dir.reflections_log, state.marks.reflections)
    for folder in (run_dir.path / "policy").glob("*"):
        if folder.name.startswith(".") or folder >= run_dir.policy_folder(state.policy.version):
            shutil.rmtree(folder)
    shutil.rmtree(run_dir.path / "result", ignore_errors=True)


def _restore(run_dir: RunDir, place: Path, saved: Policy, began: Policy) -> Policy:
    """The policy of the checkpoint, its weights where the run keeps them."""
    if not (place / POLICY).is_dir():
        return began
    folder = run_dir.policy_folder(saved.version)
    copy_weights(place / POLICY, folder)
    kind = "weights" if saved.adapter is None else "adapter"
    assert weights_of(saved) is not None
    return Policy(began.model, version=saved.version, **{kind: folder})


def history(run_dir: RunDir, phases: Sequence[Phase]) -> Iterator[StepReport]:
    """The reports that ``metrics.jsonl`` was written from."""
    cycles = (phase.cycle for phase in phases if isinstance(phase, FastPhase))
    for line in run_dir.metrics():
        step = next(cycles) if line["phase"] == "fast" else line["step"]
        numbers = {k: float(v) for k, v in line["metrics"].items() if not k.startswith(_PRIVATE)}
        yield StepReport(step, numbers)


def rollouts_seen(
    run_dir: RunDir, phases: Sequence[Phase], state: RunState, max_staleness: int
) -> list[Rollout]:
    """The rollouts before a checkpoint that a ledger may still answer with, oldest first."""
    names: list[int | str] = []
    for phase in phases[: state.phase + 1]:
        if isinstance(phase, FastPhase):
            names.append(file_name(phase.cycle))
        else:
            taken = sum(isinstance(name, int) for name in names)
            names += range(taken + 1, min(taken + phase.steps, state.step) + 1)
    if state.phase < len(phases) and isinstance(phases[state.phase], FastPhase):
        names.pop()  # under way
    oldest = state.policy.version - max_staleness
    found: list[list[Rollout]] = []
    for name in reversed(names):
        rollouts = [*run_dir.rollouts(run_dir.rollout_file(name))]
        if rollouts and all(r.policy_version < oldest for r in rollouts):
            break
        found.append(rollouts)
    return [rollout for rollouts in reversed(found) for rollout in rollouts]


# -- the tracker --------------------------------------------------------------------------------


def reopen_tracker(uri: str | None, spool: Path, mark: int) -> MlflowTracker | None:
    """The tracker of a run, taken back to ``mark``; ``None`` where it had not come to start.

    Given another store than before, that one gets the whole run.
    """
    file = Spool(spool)
    begins = _own_begin(file)
    first = file.read(0)
    if begins is None and not file.cursor().offset:
        # Never committed, so never delivered: the run starts anew there.
        spool.unlink(missing_ok=True)
        return None
    if begins is None or first is None:
        raise RunDirError(f"{spool}: has been changed; it is not the log of this run any more")
    known = file.cursor().uri
    if first[0]["attach"] is None and known:
        asked = redact_url(store_uri(uri, Path(first[0]["runs"])))
        if asked != known:
            file.save(Cursor())
    return MlflowTracker.resume(uri, spool, max(mark, begins))


def _own_begin(spool: Spool) -> int | None:
    """Where the events of training begin: behind the run's start, its parameters and its tags."""
    place = 0
    for kind in ("start", "params", "tags"):
        found = spool.read(place)
        if found is None or found[0]["kind"] != kind:
            return None
        place = found[1]
    return place

"""``fst compare``: arms × seeds of one run file, on equal rollouts, as a table with intervals."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from experiments.check import check
from experiments.studies.cells import FINAL, Cell, Record, claimed, kept_by_the_grid
from experiments.studies.comparison_page import comparison_page
from experiments.studies.curves import smooth
from experiments.studies.grid import Records
from experiments.studies.inference import Difference, Estimate, bootstrap, paired
from experiments.studies.page import write_page
from experiments.studies.provenance import run_facts
from experiments.studies.track import track
from experiments.studies.workers import Workers
from fst_agents.config import ARMS, Arm, RunConfig
from fst_agents.errors import ConfigError
from fst_agents.redaction import public_config
from optimizers.plan import total_rollouts

OF_A_CELL = ("arm", "seed", "distill")
"""What a results folder holds several of."""


@dataclass(frozen=True)
class Comparison:
    """What ``fst compare`` is asked for; every cell's configuration is checked before any runs."""

    cells: Mapping[tuple[Arm, int], Cell]
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    base: RunConfig


def plan_comparison(
    data: Mapping[str, Any], overrides: Sequence[str], arms: Sequence[str], seeds: int
) -> Comparison:
    """The cells of a comparison; seeds count up from the run file's own.

    ``[distill]`` is for the distill arm: the other arms are compared without that stage.

    Raises:
        ConfigError: everything wrong with the arms, the seeds or the run file, of any arm.
    """
    problems = [
        f"--arms: no arm {arm!r}; there are {', '.join(ARMS)}" for arm in arms if arm not in ARMS
    ]
    if len(set(arms)) != len(arms) or not arms:
        problems.append(f"--arms: expected each arm once, got {','.join(arms) or 'none'}")
    if seeds < 1:
        problems.append(f"--seeds: got {seeds}, expected at least 1")
    if problems:
        raise ConfigError(problems)
    known: tuple[Arm, ...] = tuple(arm for name in arms for arm in ARMS if arm == name)
    found: list[str] = []
    cells: dict[tuple[Arm, int], Cell] = {}
    given = {key: value for key, value in data.items() if key != "run_dir"}
    base: RunConfig | None = None
    for arm in known:
        try:
            own = [] if arm == "distill" else ["distill.steps=0"]
            config = check(given, [*overrides, f"arm={arm}", *own])
        except ConfigError as error:
            found += [f"{line} (arm {arm})" for line in error.problems]
            continue
        base = config if base is None else base
        for seed in range(config.seed, config.seed + seeds):
            cells[arm, seed] = Cell(kept_by_the_grid(config.model_copy(update={"seed": seed})))
    if found:
        raise ConfigError(found)
    assert base is not None
    return Comparison(cells, known, tuple(range(base.seed, base.seed + seeds)), base)


def compare(
    comparison: Comparison,
    out: Path,
    *,
    command: str,
    workers: Workers,
) -> dict[str, Any]:
    """Run what is missing of a comparison and write ``index.html`` and ``README.md`` into ``out``.

    Args:
        workers: who runs the cells.

    Raises:
        ConfigError: ``out`` holds something else.
        FstError: every cell of an arm failed.
    """
    started = time.monotonic()
    base = claimed(comparison.base)
    own = {key: value for key, value in base.items() if key not in OF_A_CELL}
    records = workers(list(comparison.cells.values()), out, own)
    result = summarize(comparison, records)
    window = comparison.base.slow.steps_per_cycle
    curves = {
        arm: [smooth(r.curve, window) for r in _done(comparison, records, arm).values()]
        for arm in comparison.arms
    }
    page = comparison_page(_title(comparison), result, curves, window)
    facts = run_facts(command, started, records)
    result["report"] = str(write_page(replace(page, facts=facts), out, "fst compare"))
    public = public_config(comparison.base)
    result["mlflow"] = track(out, f"compare {out.name}", records, public, comparison.base.track)
    return result


def summarize(comparison: Comparison, records: Records) -> dict[str, Any]:
    """The JSON object of a comparison. Arms and pairs are judged on the seeds that did not fail."""
    arms: dict[str, Any] = {}
    for arm in comparison.arms:
        done = _done(comparison, records, arm)
        failed = [records[c.key].error for c in _cells(comparison, arm) if not records[c.key].ok]
        arms[arm] = {
            "score": _estimate(done),
            "cell": FINAL[arm],
            "kl": _mean(r.result.get("kl") for r in done.values()),
            "retention_change": _mean(r.retention_change for r in done.values()),
            "rollouts": _mean(_rollouts(r) for r in done.values()),
            "seconds": _mean(r.result.get("seconds") for r in done.values()),
            "seeds": len(done),
            "failed": failed,
        }
    pairs = [
        {"first": a, "second": b, **_difference(comparison, records, a, b)}
        for i, a in enumerate(comparison.arms)
        for b in comparison.arms[i + 1 :]
    ]
    return {
        "rollouts_limit": total_rollouts(comparison.base),
        "seeds": list(comparison.seeds),
        "arms": arms,
        "pairs": pairs,
        "cells": [record.summary for record in records.values()],
    }


def _cells(comparison: Comparison, arm: Arm) -> list[Cell]:
    return [cell for (own, _), cell in comparison.cells.items() if own == arm]


def _done(comparison: Comparison, records: Records, arm: Arm) -> dict[int, Record]:
    found = ((c.config.seed, records[c.key]) for c in _cells(comparison, arm))
    return {seed: record for seed, record in found if record.ok and record.problems}


def _estimate(done: Mapping[int, Record]) -> dict[str, float] | None:
    if not done:
        return None
    return _as_json(bootstrap([[*record.problems.values()] for record in done.values()]))


def _difference(comparison: Comparison, records: Records, a: Arm, b: Arm) -> dict[str, Any]:
    first, second = (_done(comparison, records, arm) for arm in (a, b))
    seeds = sorted(first.keys() & second.keys())
    if not seeds:
        return {"difference": None, "p": None, "seeds": 0}
    found: Difference = paired(
        [_scores(first[s]) for s in seeds], [_scores(second[s]) for s in seeds]
    )
    return {"difference": _as_json(found.estimate), "p": found.p, "seeds": found.n}


def _scores(record: Record) -> list[float]:
    return [record.problems[name] for name in sorted(record.problems)]


def _as_json(estimate: Estimate) -> dict[str, float]:
    return {"estimate": estimate.mean, "low": estimate.low, "high": estimate.high}


def _rollouts(record: Record) -> float:
    spent = record.result["rollouts"]
    return float(spent["fast"] + spent["slow"])


def _mean(values: Any) -> float | None:
    found = [float(v) for v in values if v is not None]
    return fmean(found) if found else None


def _title(comparison: Comparison) -> str:
    target = comparison.base.task.options.get("target")
    task = comparison.base.task.name if target is None else " → ".join(target)
    return f"{', '.join(comparison.arms)} on {task}"

"""The part of the report that counts: how rollouts ended, by phase, predictor and candidate."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from experiments.charts import number
from fst_agents.bridge_report import PredictorCounts, count_predictors
from fst_agents.run_dir import RunDir
from fst_agents.types import Outcome, Rollout

CANDIDATES_SHOWN = 12
"""The candidates with the most rollouts; a long run tries thousands."""
PHASES = {"step": "slow", "eval": "evaluation"}
OUTCOME_MEANING = {
    Outcome.OK: "answered and scored",
    Outcome.PARSE_FAILURE: "the answer could not be read; counts as a failure",
    Outcome.TRUNCATED: "cut off at the token limit; counts as a failure",
    Outcome.PROGRAM_ERROR: "the program raised an error; counts as a failure",
    Outcome.METRIC_ERROR: "the metric raised an error; left out of training",
    Outcome.TIMEOUT: "took too long; left out of training",
    Outcome.INFRA_ERROR: "the server or a fixed model failed; left out of training",
}


@dataclass
class Tally:
    """Rollouts, counted as they go by: a run's files need not fit into memory."""

    phases: dict[str, Counter[Outcome]] = field(default_factory=dict[str, Counter[Outcome]])
    candidates: dict[str, Counter[Outcome]] = field(default_factory=dict[str, Counter[Outcome]])
    scores: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    predictors: dict[str, PredictorCounts] = field(default_factory=dict[str, PredictorCounts])
    own_scores: dict[str, list[float]] = field(default_factory=dict[str, list[float]])

    def add(self, phase: str, rollout: Rollout) -> None:
        """Count one rollout of a phase."""
        self.phases.setdefault(phase, Counter())[rollout.outcome] += 1
        self.candidates.setdefault(rollout.candidate_id, Counter())[rollout.outcome] += 1
        for name, new in count_predictors([rollout]).items():
            self.predictors[name] = self.predictors.get(name, PredictorCounts()) + new
        if rollout.score is None:
            return
        self.scores.setdefault(rollout.candidate_id, []).append(rollout.score)
        for name, score in rollout.feedback.predictor_scores.items():
            self.own_scores.setdefault(name, []).append(score)


def tally(run: RunDir, files: Iterable[Path]) -> Tally:
    """Count the rollouts of a run's files."""
    counted = Tally()
    for file in files:
        phase = PHASES.get(re.split(r"[-.]", file.name)[0], "fast")
        for rollout in run.rollouts(file):
            counted.add(phase, rollout)
    return counted


def outcomes(counted: Tally) -> dict[str, Any]:
    """Rows (outcome, its meaning, [count and share per phase])."""
    seen = [o for o in Outcome if any(counter[o] for counter in counted.phases.values())]
    rows = [
        (o.value, OUTCOME_MEANING[o], [_share(c[o], c.total()) for c in counted.phases.values()])
        for o in seen
    ]
    return {"phases": list(counted.phases), "rows": rows}


def predictors(counted: Tally, lines: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """Rows (predictor, [calls, of them trained on, tokens per call, unreadable, cut off, own
    score]); ``lines`` are those of ``metrics.jsonl``, which know what was trained on."""
    return [
        (
            name,
            [
                number(counts.calls),
                number(_total(lines, f"slow/predictor/{name}/trained_calls")),
                number(round(counts.tokens / counts.calls, 1)),
                _share(counts.parse_failures, counts.calls),
                _share(counts.truncated, counts.calls),
                _mean(counted.own_scores.get(name, [])),
            ],
        )
        for name, counts in sorted(counted.predictors.items())
    ]


def candidates(counted: Tally) -> dict[str, Any]:
    """Rows (candidate, [rollouts, mean score, count and share per outcome]), most rollouts first.

    ``hidden`` is how many more candidates there are.
    """
    seen = [o for o in Outcome if any(c[o] for c in counted.candidates.values())]
    ranked = sorted(counted.candidates.items(), key=lambda item: -item[1].total())
    rows = [
        (
            name,
            [
                number(c.total()),
                _mean(counted.scores.get(name, [])),
                *(_share(c[o], c.total()) for o in seen),
            ],
        )
        for name, c in ranked[:CANDIDATES_SHOWN]
    ]
    return {"outcomes": [o.value for o in seen], "rows": rows, "hidden": len(ranked) - len(rows)}


def _total(lines: Iterable[Mapping[str, Any]], name: str) -> float:
    return sum(float(line["metrics"].get(name, 0)) for line in lines)


def _mean(scores: Sequence[float]) -> str:
    return f"{fmean(scores):.3f}" if scores else "—"


def _share(part: int, whole: int) -> str:
    return f"{number(part)} ({100 * part / whole:.1f}%)" if part else "0"

"""What a metric makes of an example's own labels, before any rollout."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import dspy

from fst_agents.scoring import Metric, MetricError, Scorer
from fst_agents.types import Problem

PROBES = 4
"""Examples whose labels the metric is asked about; a metric may be costly."""


def metric_faults(
    metric: Metric,
    known: Sequence[Problem],
    predictors: dict[str, Any],
    score_range: tuple[float, float] | None,
) -> list[str]:
    """Each different fault of the metric once, on a few of the examples.

    The metric is asked as if a program had answered the labels exactly, with a trace in which each
    predictor was called once. What it says is held against it unless it looked at something that
    labels do not have: a field that only the program makes, all fields at once, or the trace.

    Args:
        known: examples with declared inputs.
        predictors: the program's, by name.
        score_range: the least and the most that the metric may return.
    """
    try:
        scorer = Scorer(metric, score_range=score_range, predictors=predictors)
    except MetricError as error:
        return [str(error)]
    except (TypeError, ValueError) as error:  # it is not callable, or has no signature
        return [
            f"metric {metric!r:.80} cannot be called: {error}; expected a function of (gold, "
            "prediction), or of DSPy's three or GEPA's five arguments"
        ]
    raised: dict[str, str] = {}
    scores: dict[str, float | None] = {}
    for problem in known[:: max(1, len(known) // PROBES)][:PROBES]:
        gaze = _Gaze()
        labels = _Labels(dict(problem.example.labels()), gaze)
        inputs = dict(problem.example.inputs())
        trace = [_Step((p, inputs, labels), gaze) for p in predictors.values()]
        try:
            score = scorer(problem.example.copy(), labels, trace).score
        except MetricError as error:
            if not gaze.beyond:
                raised.setdefault(" ".join(str(error).split()), problem.id)
        else:
            if score is not None or not gaze.beyond:
                scores[problem.id] = score
    faults = [f"example {name!r}: on its own labels {text}" for text, name in raised.items()]
    # A metric may leave single rollouts unscored, but one that never scores lacks a `return`.
    if scores and all(score is None for score in scores.values()):
        faults.append(
            f"example {next(iter(scores))!r}: on its own labels the metric returned no score; it "
            "must return a number, or a dspy.Prediction with `score`"
        )
    return faults


@dataclass
class _Gaze:
    """Whether a metric has looked at something that labels do not have."""

    beyond: bool = False


class _Labels(dspy.Prediction):
    """Labels as a prediction that notices when more is wanted of it."""

    def __init__(self, labels: dict[str, Any], gaze: _Gaze) -> None:
        super().__init__(labels)
        self._gaze = gaze

    def __getattr__(self, key: str) -> Any:
        if not key.startswith("_"):
            self._look(key)
        return super().__getattr__(key)

    def __getitem__(self, key: str) -> Any:
        self._look(key)
        return super().__getitem__(key)

    def __contains__(self, key: str) -> bool:
        self._look(key)
        return super().__contains__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self._look(key)
        return super().get(key, default)

    def keys(self, include_dspy: bool = False) -> Any:
        self._gaze.beyond = True
        return super().keys(include_dspy)

    def values(self, include_dspy: bool = False) -> Any:
        self._gaze.beyond = True
        return super().values(include_dspy)

    def items(self, include_dspy: bool = False) -> Any:
        self._gaze.beyond = True
        return super().items(include_dspy)

    def toDict(self) -> Any:
        self._gaze.beyond = True
        return super().toDict()

    def __iter__(self) -> Iterator[Any]:
        self._gaze.beyond = True
        return super().__iter__()

    def _look(self, key: object) -> None:
        self._gaze.beyond |= key not in self._store


class _Step(tuple[Any, ...]):
    """An entry of a trace that notices when it is read."""

    _gaze: _Gaze

    def __new__(cls, entry: tuple[Any, ...], gaze: _Gaze) -> _Step:
        step = super().__new__(cls, entry)
        step._gaze = gaze
        return step

    def __getitem__(self, index: Any) -> Any:
        self._gaze.beyond = True
        return super().__getitem__(index)

    def __iter__(self) -> Iterator[Any]:
        self._gaze.beyond = True
        return super().__iter__()

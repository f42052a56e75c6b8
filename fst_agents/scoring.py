"""A user's metric becomes :class:`~fst_agents.types.Feedback`, strictly.

Metrics are DSPy's: two arguments (gold, prediction), three (and a trace), or GEPA's five (and a
predictor's name and trace). They return a number, or a ``dspy.Prediction``/dict with ``score`` and
optionally ``feedback``, ``objective_scores`` and ``predictor_scores``. Whatever is not a finite
number is an error of the metric, never a zero.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from fst_agents.errors import FstError
from fst_agents.types import Feedback

Metric = Callable[..., Any]


class MetricError(FstError):
    """A metric raised, or returned something that is no score."""


RANGE_SLACK = 1e-9
"""How far outside its range a score may lie by rounding: 0.1 + 0.2 + 0.7 is above 1."""


class Scorer:
    """Calls a metric with as many arguments as it takes.

    Args:
        score_range: the least and the most it may return, for predictors too; ``None``: any
            finite number.
        predictors: names that ``predictor_scores`` may speak of; ``None``: any.

    Raises:
        MetricError: at construction, for a callable that takes neither two arguments, three nor
            five.
    """

    def __init__(
        self,
        metric: Metric,
        *,
        score_range: tuple[float, float] | None = None,
        predictors: Collection[str] | None = None,
    ) -> None:
        self.metric = metric
        self._arity = _arity(metric)
        self._range = score_range
        self._predictors = predictors

    @property
    def per_predictor(self) -> bool:
        """Whether the metric speaks of single predictors (GEPA's five arguments)."""
        return self._arity >= 5

    def __call__(self, gold: Any, prediction: Any, trace: Sequence[Any]) -> Feedback:
        """Score one finished program run.

        Raises:
            MetricError: from whatever the metric raised, or naming what it returned instead.
        """
        arguments = [gold, prediction]
        if self._arity >= 5:
            arguments += [list(trace), None, None]
        elif self._arity >= 3:
            arguments.append(None)  # DSPy: a trace means bootstrapping, where scores turn boolean
        return self._checked(read_feedback(self._call(arguments)))

    def of_predictor(
        self, gold: Any, prediction: Any, trace: Sequence[Any], name: str, own: Sequence[Any]
    ) -> Feedback:
        """What the metric says of one predictor, ``own`` being its part of the trace.

        Raises:
            MetricError: as :meth:`__call__`.
        """
        said = self._call([gold, prediction, list(trace), name, list(own)])
        return self._checked(read_feedback(said))

    def _call(self, arguments: Sequence[Any]) -> Any:
        try:
            return self.metric(*arguments)
        except Exception as error:
            raise MetricError(f"the metric raised {type(error).__name__}: {error}") from error

    def _checked(self, feedback: Feedback) -> Feedback:
        own = feedback.predictor_scores
        strangers = [] if self._predictors is None else sorted(set(own) - set(self._predictors))
        if strangers:
            raise MetricError(
                f"the metric's predictor_scores name {', '.join(map(repr, strangers))}; expected "
                f"predictors of the program: {', '.join(map(repr, self._predictors or ()))}"
            )
        self._check_range(feedback.score, "score")
        for name, score in own.items():
            self._check_range(score, f"predictor_scores[{name!r}]")
        return feedback

    def _check_range(self, score: float | None, what: str) -> None:
        if score is None or self._range is None:
            return
        least, most = self._range
        if not least - RANGE_SLACK <= score <= most + RANGE_SLACK:
            raise MetricError(
                f"the metric's {what} is {score:g}; expected {least:g} to {most:g}, the range it "
                "declares (task.score_range); mend the metric or the range"
            )


def read_feedback(value: Any) -> Feedback:
    """Read a metric's answer. ``None`` (or a ``score`` of ``None``) leaves the run unscored."""
    if value is None or isinstance(value, bool | int | float):
        return Feedback(_number(value, "score"))
    fields = _fields(value)
    if "score" not in fields:
        raise MetricError(
            f"the metric returned {type(value).__name__} with {sorted(fields)}; expected a number, "
            "or a dspy.Prediction with at least `score`"
        )
    text = fields.get("feedback")
    return Feedback(
        score=_number(fields["score"], "score"),
        text="" if text is None else str(text),
        objectives=_numbers(fields.get("objective_scores"), "objective_scores"),
        predictor_scores=_numbers(fields.get("predictor_scores"), "predictor_scores"),
    )


def _fields(value: Any) -> Mapping[str, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    to_dict = getattr(value, "toDict", None)
    if to_dict is None:
        raise MetricError(
            f"the metric returned {value!r:.80} of type {type(value).__name__}; expected a number, "
            "or a dspy.Prediction with `score` and `feedback`"
        )
    return dict(to_dict())


def _number(value: Any, what: str) -> float | None:
    if value is None:
        return None
    item = getattr(value, "item", None)  # a NumPy or torch scalar
    plain = value if item is None else item()
    if not isinstance(plain, bool | int | float):
        raise MetricError(f"the metric's {what} is {value!r:.80}; expected a number")
    try:
        number = float(plain)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise MetricError(f"the metric's {what} is {number}; expected a finite number")
    return number


def _numbers(values: Any, what: str) -> dict[str, float]:
    if values is None:
        return {}
    if not isinstance(values, Mapping):
        raise MetricError(f"the metric's {what} is {values!r:.80}; expected a mapping to numbers")
    read = {str(name): _number(value, f"{what}[{name!r}]") for name, value in values.items()}
    return {name: value for name, value in read.items() if value is not None}


def _arity(metric: Metric) -> int:
    """With how many positional arguments the metric can be called: 5, 3 or 2, the most it takes."""
    signature = inspect.signature(metric)
    for count in (5, 3, 2):
        try:
            signature.bind(*range(count))
        except TypeError:
            continue
        return count
    raise MetricError(
        f"metric {metric!r} takes {signature}; expected (gold, prediction), (gold, prediction, "
        "trace) or GEPA's (gold, pred, trace, pred_name, pred_trace); give what else it takes a "
        "default"
    )

"""What is wrong between a program, its examples and its metric, before anything is spent."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import dspy

from fst_agents.dspy_bridge import named_predictors, problems
from fst_agents.dspy_fixed import fixed_names
from fst_agents.errors import ProgramError
from fst_agents.preflight_metric import metric_faults
from fst_agents.preflight_prompts import Ruler
from fst_agents.scoring import Metric
from fst_agents.serving.host import ChatTokenizer
from fst_agents.types import Problem

MOST_LINES = 20
"""Lines for one kind of fault; the rest is a count."""


@dataclass(frozen=True)
class Parameters:
    """What a program's ``forward`` takes by name.

    Attributes:
        required, optional: parameters without and with a default, in order.
        others: what becomes of inputs with other names. They are ``"refused"`` (a ``TypeError``),
            ``"ignored"`` (by DSPy's own Predict and ChainOfThought, with a warning) or
            ``"taken"`` (by ``**kwargs``).
    """

    required: tuple[str, ...]
    optional: tuple[str, ...]
    others: Literal["refused", "ignored", "taken"]

    @property
    def names(self) -> tuple[str, ...]:
        """All of them, the required ones first."""
        return self.required + self.optional

    def __str__(self) -> str:
        return ", ".join(self.names) or "nothing"


def forward_parameters(program: dspy.Module) -> Parameters:
    """What the program is called with.

    Raises:
        ProgramError: there is no ``forward`` (nor ``aforward``), or it has a parameter that
            inputs, which come by name, cannot reach.
    """
    kind = type(program)
    # As a rollout does: the asynchronous half runs only where there is no other.
    name = "forward" if hasattr(kind, "forward") else "aforward"
    forward: Any = getattr(kind, name, None)
    if forward is None:
        raise ProgramError(
            f"{kind.__name__} has neither forward nor aforward, so it cannot be run; define one, "
            "with the inputs as its parameters"
        )
    if forward in (dspy.Predict.forward, dspy.ChainOfThought.forward):
        [predictor] = named_predictors(program).values()
        fields: dict[str, Any] = predictor.signature.input_fields
        required = tuple(name for name, field in fields.items() if field.is_required())
        return Parameters(required, tuple(n for n in fields if n not in required), "ignored")
    bound = inspect.getattr_static(kind, name).__get__(program)  # program.forward makes DSPy warn
    parameters = list(inspect.signature(bound).parameters.values())
    by_position = [p.name for p in parameters if p.kind is p.POSITIONAL_ONLY]
    if by_position:
        raise ProgramError(
            f"{kind.__name__}.{name} takes {', '.join(by_position)} by position only, but inputs "
            "are given by name; remove the '/' from its parameters"
        )
    by_name = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return Parameters(
        tuple(p.name for p in by_name if p.default is p.empty),
        tuple(p.name for p in by_name if p.default is not p.empty),
        "taken" if any(p.kind is p.VAR_KEYWORD for p in parameters) else "refused",
    )


def capped(lines: Sequence[str], what: str) -> list[str]:
    """The first :data:`MOST_LINES` lines; one more says how many of ``what`` are left out."""
    more = len(lines) - MOST_LINES
    return [*lines[:MOST_LINES], *([f"and {more} more {what}"] if more > 0 else [])]


def preflight(
    program: dspy.Module,
    examples: Sequence[dspy.Example],
    metric: Metric,
    *,
    adapter: dspy.Adapter | None,
    fixed: Mapping[str, Any] | None = None,
    tokenizer: ChatTokenizer | None = None,
    context_length: int | None = None,
    score_range: tuple[float, float] | None = None,
) -> list[str]:
    """Every fault between a program, all of its examples and its metric, one line each.

    Args:
        program: the program with its seed instructions.
        examples: of all splits, since ids must be unique over them.
        metric: as :class:`~fst_agents.scoring.Scorer` takes it; asked about the labels of a few
            examples (:func:`~fst_agents.preflight_metric.metric_faults` says what counts).
        adapter: of the policy's calls; ``None`` as in :class:`~fst_agents.rollouts.Runner`.
        fixed: predictors with a model of their own by name; their prompts are not the policy's.
        tokenizer, context_length: the policy's, in tokens. Without both, prompts are not measured
            (:class:`~fst_agents.preflight_prompts.Ruler` says which are).
        score_range: the least and the most that the metric may return.

    Returns:
        The faults, none if all is well: at most :data:`MOST_LINES` of a kind, then a count.
    """
    try:
        predictors = named_predictors(program)
        parameters = forward_parameters(program)
    except ProgramError as error:
        return [str(error)]
    given: Sequence[Any] = examples
    known = [problems([e])[0] for e in given if isinstance(e, dspy.Example)]
    ready = [problem for problem in known if _declares(problem.example)]
    faults = [
        *capped(_strangers(given), "that are no dspy.Example"),
        *capped(_repeated(known), "ids that occur more than once"),
        *capped(_undeclared(known, parameters), "examples without declared inputs"),
        *capped(_missing(ready, parameters), "inputs that examples lack"),
        *capped(_not_taken(ready, parameters), "inputs that forward does not take"),
        *metric_faults(metric, ready, predictors, score_range),
    ]
    if tokenizer is not None and context_length is not None:
        ruler = Ruler(_adapter(adapter), tokenizer, context_length)
        own = fixed_names(program, {} if fixed is None else fixed)
        for name, predictor in predictors.items():
            if name not in own:
                lines = ruler.faults(name, predictor, ready)
                faults += capped(lines, f"prompts for predictor {name!r} that are too long")
    return faults


def _adapter(adapter: dspy.Adapter | None) -> dspy.Adapter:
    own = dspy.settings.get("adapter") if adapter is None else adapter
    return dspy.ChatAdapter() if own is None else own


def _declares(example: dspy.Example) -> bool:
    try:
        example.inputs()
    except ValueError:  # how DSPy says that there are none
        return False
    return True


def _strangers(examples: Sequence[Any]) -> list[str]:
    return [
        f"example number {number} is of type {type(example).__name__}; expected a dspy.Example "
        "with declared inputs"
        for number, example in enumerate(examples, start=1)
        if not isinstance(example, dspy.Example)
    ]


def _repeated(known: Sequence[Problem]) -> list[str]:
    own_id = {problem.id: "id" in problem.example for problem in known}
    return [
        f"example {name!r}: {count} examples have this id; give each its own, or drop the repeats"
        if own_id[name]
        else f"example {name!r}: {count} examples have the same content (without an `id`, a hash "
        "of it stands for one); drop the repeats, or give each an `id`"
        for name, count in Counter(problem.id for problem in known).items()
        if count > 1
    ]


def _undeclared(known: Sequence[Problem], parameters: Parameters) -> list[str]:
    call = ", ".join(map(repr, parameters.names))
    return [
        f"example {problem.id!r}: no inputs are declared; call .with_inputs({call}) on it"
        for problem in known
        if not _declares(problem.example)
    ]


def _missing(known: Sequence[Problem], parameters: Parameters) -> list[str]:
    def line(problem: Problem, name: str) -> str:
        if name in problem.example:
            fault = "is not among its inputs; name it in with_inputs"
        else:
            fault = "is missing"
        takes = f"the program's forward takes {parameters}"
        return f"example {problem.id!r}: field {name!r} {fault}; {takes}"

    return [
        line(problem, name)
        for problem in known
        for name in parameters.required
        if name not in problem.example.inputs()
    ]


def _not_taken(known: Sequence[Problem], parameters: Parameters) -> list[str]:
    if parameters.others != "refused":
        return []
    return [
        f"example {problem.id!r}: input {name!r} is not taken; the program's forward takes "
        f"{parameters}; leave it out of with_inputs"
        for problem in known
        for name in problem.example.inputs().keys()  # noqa: SIM118 - iterating gives no fields
        if name not in parameters.names
    ]

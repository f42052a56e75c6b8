"""Where DSPy ends: candidates go into a program, exact tokens come out of it.

Contract. A rollout runs a program inside ``dspy.context`` with three things of ours: an LM whose
engine samples from a :class:`~fst_agents.serving.host.PolicyHost` (:mod:`fst_agents.dspy_engine`),
one :class:`~fst_agents.dspy_recorder.RolloutRecorder`, and no history or cache. Each LM call is
attributed to its predictor *by name*, never by signature: an evolved instruction changes it.
Predictors on a model of their own: :mod:`fst_agents.dspy_fixed`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Generator, Mapping, Sequence
from typing import Any

import dspy

from fst_agents.dspy_recorder import RECORDER, RolloutRecorder, StrayWatch
from fst_agents.errors import ProgramError
from fst_agents.types import Candidate, Problem, Sampling


def problems(examples: Sequence[dspy.Example]) -> list[Problem]:
    """Give every example a stable id: its own ``id`` field, else a hash of its content.

    Raises:
        ProgramError: naming ids that occur twice, or examples without declared inputs.
    """
    made = [Problem(_example_id(example), example) for example in examples]
    seen: set[str] = set()
    twice = sorted({p.id for p in made if p.id in seen or seen.add(p.id)})
    if twice:
        raise ProgramError(
            f"{len(twice)} example id(s) occur more than once: {', '.join(twice[:5])}; "
            "give each example its own `id`, or drop the repeats"
        )
    return made


def _example_id(example: dspy.Example) -> str:
    if "id" in example:
        return str(example["id"])
    text = json.dumps(example.toDict(), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def named_predictors(program: dspy.Module) -> dict[str, Any]:
    """The program's predictors by name, in the program's order.

    Raises:
        ProgramError: it has none, two share a name, one has two, or one has no instruction.
    """
    kind = type(program).__name__
    found: list[tuple[str, Any]] = program.named_predictors()
    if not found:
        raise ProgramError(
            f"{kind} has no predictors: keep each dspy.Predict (or a module that holds one) as an "
            "attribute set in __init__"
        )
    names = [name for name, _ in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ProgramError(
            f"{kind} has more than one predictor under the name {', '.join(map(repr, twice))}; "
            "instructions, scores and calls go by name: give each predictor an attribute (or a "
            "key) of its own"
        )
    first = {id(p): name for name, p in reversed(found)}
    again = [f"{name!r} is {first[id(p)]!r}" for name, p in found if first[id(p)] != name]
    if again:
        raise ProgramError(
            f"{kind} gives one predictor two names ({', '.join(again)}); its calls could belong to "
            "either: list each predictor once in named_predictors()"
        )
    empty = [name for name, p in found if not (p.signature.instructions or "").strip()]
    if empty:
        raise ProgramError(
            f"{kind}: no instruction for predictor {', '.join(map(repr, empty))}; give its "
            "signature a docstring, or use signature.with_instructions('…')"
        )
    return dict(found)


def seed_candidate(program: dspy.Module) -> Candidate:
    """The instructions the program was written with.

    Raises:
        ProgramError: as :func:`named_predictors`.
    """
    named = named_predictors(program)
    return Candidate({name: p.signature.instructions for name, p in named.items()})


def apply(program: dspy.Module, candidate: Candidate) -> dspy.Module:
    """A copy of the program that runs the candidate's instructions.

    A predictor's own LM is shared with the copy: it is a connection, not a part of the program.

    Raises:
        ProgramError: the candidate and the program do not name the same predictors, or as
            :func:`named_predictors`.
    """
    original = named_predictors(program)
    if set(original) != set(candidate.instructions):
        raise ProgramError(
            f"candidate {candidate.id} has instructions for {sorted(candidate.instructions)}, "
            f"the program's predictors are {sorted(original)}; the names must be the same"
        )
    copy = program.deepcopy()
    for name, predictor in named_predictors(copy).items():
        predictor.signature = predictor.signature.with_instructions(candidate.instructions[name])
        predictor.lm = original[name].lm
    return copy


class RunnableProgram:
    """A program under one candidate, ready to be run many times at once.

    ``fixed`` gives predictors an LM of their own, by name.
    """

    def __init__(
        self, program: dspy.Module, candidate: Candidate, fixed: Mapping[str, dspy.BaseLM]
    ) -> None:
        self.candidate = candidate
        self.module = apply(program, candidate)
        self._watch = StrayWatch()
        self.names: dict[int, str] = {}
        for name, predictor in named_predictors(self.module).items():
            self.names[id(predictor)] = name
            predictor.lm = fixed.get(name, predictor.lm)
            predictor.callbacks = [*predictor.callbacks, self._watch]

    @contextlib.contextmanager
    def recording(
        self, lm: dspy.LM, adapter: Any, sampling: Sampling, timeout: float, number: int = 0
    ) -> Generator[tuple[RolloutRecorder, list[Any]]]:
        """Everything DSPy needs to run one rollout; yields the recorder and DSPy's trace."""
        recorder = RolloutRecorder(self.names, sampling, timeout, number)
        trace: list[Any] = []
        callbacks = [*(dspy.settings.get("callbacks") or []), recorder]
        with dspy.context(
            **{RECORDER: recorder},
            lm=lm,
            adapter=adapter,
            callbacks=callbacks,
            trace=trace,
            disable_history=True,
        ):
            yield recorder, trace

    def refuse_strays(self) -> None:
        """Raise if a predictor ran outside every rollout: its tokens would be lost in silence."""
        if self._watch.strays:
            raise ProgramError(
                "a predictor ran in a thread without the rollout's context, so its calls cannot "
                "be attributed; start threads with dspy.Parallel or contextvars.copy_context().run"
            )

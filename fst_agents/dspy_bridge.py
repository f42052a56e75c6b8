"""Where DSPy ends: candidates go into a program, exact tokens come out of it.

Contract. A rollout runs a program inside ``dspy.context`` with three things of ours: an LM whose
engine samples from a :class:`~fst_agents.serving.host.PolicyHost` (:mod:`fst_agents.dspy_engine`),
one :class:`~fst_agents.dspy_recorder.RolloutRecorder`, and no history or cache. Each LM call is
attributed to its predictor *by name*, never by signature: an evolved instruction changes it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Generator, Sequence
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


def seed_candidate(program: dspy.Module) -> Candidate:
    """The instructions the program was written with."""
    named: list[tuple[str, Any]] = program.named_predictors()
    if not named:
        raise ProgramError(
            f"{type(program).__name__} has no predictors: keep each dspy.Predict (or a module that "
            "holds one) as an attribute set in __init__"
        )
    return Candidate({name: p.signature.instructions for name, p in named})


def apply(program: dspy.Module, candidate: Candidate) -> dspy.Module:
    """A copy of the program that runs the candidate's instructions.

    Raises:
        ProgramError: the candidate and the program do not name the same predictors.
    """
    copy = program.deepcopy()
    named: dict[str, Any] = dict(copy.named_predictors())
    if set(named) != set(candidate.instructions):
        raise ProgramError(
            f"candidate {candidate.id} has instructions for {sorted(candidate.instructions)}, "
            f"the program's predictors are {sorted(named)}; the names must be the same"
        )
    for name, predictor in named.items():
        predictor.signature = predictor.signature.with_instructions(candidate.instructions[name])
    return copy


class RunnableProgram:
    """A program under one candidate, ready to be run many times at once."""

    def __init__(self, program: dspy.Module, candidate: Candidate) -> None:
        self.candidate = candidate
        self.module = apply(program, candidate)
        self._watch = StrayWatch()
        self.names: dict[int, str] = {}
        predictors: list[tuple[str, Any]] = self.module.named_predictors()
        for name, predictor in predictors:
            self.names[id(predictor)] = name
            predictor.callbacks = [*predictor.callbacks, self._watch]

    @contextlib.contextmanager
    def recording(
        self, lm: dspy.LM, adapter: dspy.Adapter, sampling: Sampling, timeout: float
    ) -> Generator[tuple[RolloutRecorder, list[Any]]]:
        """Everything DSPy needs to run one rollout; yields the recorder and DSPy's trace."""
        recorder = RolloutRecorder(self.names, sampling, timeout)
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
                "a predictor ran in a thread without the rollout's context, so its tokens cannot "
                "be attributed; start threads with dspy.Parallel or contextvars.copy_context().run"
            )

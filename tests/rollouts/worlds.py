"""Programs, scripts and hosts of these tests. A script answers in ChatAdapter's format."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import dspy

from fst_agents.rollouts import Limits, Runner
from fst_agents.serving.scripted_host import Script, ScriptedHost
from fst_agents.types import Candidate, Completion, Problem, Sampling

SAMPLING = Sampling(max_tokens=400)


def chat(**fields: str) -> str:
    """An answer that ChatAdapter can read."""
    return "".join(f"[[ ## {k} ## ]]\n{v}\n\n" for k, v in fields.items()) + "[[ ## completed ## ]]"


def field(prompt: str, name: str) -> str:
    """The value of an input field in the user's last turn."""
    turn = prompt.rsplit("<user>\n", 1)[1]
    found = re.search(rf"\[\[ ## {name} ## \]\]\n(.*?)\n", turn)
    assert found is not None, turn
    return found.group(1)


def echo(prompt: str, sampling: Sampling, rng: random.Random) -> str:
    """Answers with the question and the instruction's first word in capitals."""
    return chat(answer=f"{field(prompt, 'question')}!")


class Answer(dspy.Signature):
    """Answer."""

    question: str = dspy.InputField()
    answer: str = dspy.OutputField()


class Single(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.solve = dspy.Predict(Answer)

    def forward(self, question: str) -> Any:
        return self.solve(question=question)


def problem(question: str = "q", identity: str | None = None) -> Problem:
    example = dspy.Example(question=question).with_inputs("question")
    return Problem(question if identity is None else identity, example)


def full_marks(gold: Any, prediction: Any) -> float:
    return 1.0


def runner(
    program: dspy.Module,
    script: Script | ScriptedHost = echo,
    metric: Any = full_marks,
    **limits: Any,
) -> Runner:
    host = script if isinstance(script, ScriptedHost) else ScriptedHost(script)
    return Runner(program, metric, host, limits=Limits(**{"concurrency": 8, "retries": 0} | limits))


def one(
    program: dspy.Module,
    script: Script | ScriptedHost = echo,
    metric: Any = full_marks,
    *,
    question: str = "q",
    sampling: Sampling = SAMPLING,
    reflect: bool = False,
    **limits: Any,
) -> Any:
    """The rollout of one question under the program's own instructions."""
    from fst_agents.dspy_bridge import seed_candidate

    room = runner(program, script, metric, **limits)
    try:
        job = (problem(question), seed_candidate(program))
        return room.collect([job], sampling, reflect=reflect)[0]
    finally:
        room.close()


class SilentHost(ScriptedHost):
    """A host that has hung: its futures never end."""

    def submit(
        self, prompt_ids: Sequence[int], sampling: Sampling, order: tuple[int, ...] = ()
    ) -> Future[Completion]:
        return Future[Completion]()


def candidate(**instructions: str) -> Candidate:
    return Candidate(instructions)

"""Predictors on a model of their own: no tokens, no training, and never the policy's fault."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import Callable, Sequence
from typing import Any

import dspy
import pytest
from dspy.lm15 import Message, Request, Response, TextPart, Usage
from worlds import SAMPLING, Answer, Single, candidate, chat, echo, full_marks, problem

from fst_agents.dspy_bridge import apply, seed_candidate
from fst_agents.dspy_fixed import (
    AdapterByModel,
    fixed_models,
    learning_faults,
    learning_predictors,
)
from fst_agents.errors import ConfigError, ProgramError
from fst_agents.rollouts import Limits, Runner
from fst_agents.run_file import parse
from fst_agents.serving.scripted_host import ScriptedHost
from fst_agents.types import Outcome, Sampling
from programs.micro.adapter import CompactAdapter


class Script:
    """An engine that answers as it is told and keeps what it was asked. Not to be copied."""

    def __init__(self, answer: Callable[[int], str | Exception]) -> None:
        self.requests: list[Request] = []
        self._answer = answer
        self._lock = threading.Lock()

    def complete(self, request: Request) -> Response:
        with self._lock:
            self.requests.append(request)
            said = self._answer(len(self.requests))
        if isinstance(said, Exception):
            raise said
        return Response(
            id=None,
            model=request.model,
            message=Message.assistant([TextPart(said)]),
            finish_reason="stop",
            usage=Usage(input_tokens=1, output_tokens=1),
        )


class AsyncScript:
    def __init__(self, script: Script) -> None:
        self._script = script

    async def complete(self, request: Request) -> Response:
        return self._script.complete(request)


def model(answer: Callable[[int], str | Exception], **options: Any) -> tuple[dspy.LM, Script]:
    script = Script(answer)
    settings: dict[str, Any] = {"cache": False, "num_retries": 0, **options}
    lm = dspy.LM("other/judge", engine=script, async_engine=AsyncScript(script), **settings)
    return lm, script


def verdict(count: int) -> str:
    return chat(verdict="good")


class Judged(dspy.Module):
    """The policy answers, another model judges."""

    def __init__(self, judge: dspy.LM | None = None) -> None:
        super().__init__()
        self.solve = dspy.Predict(Answer)
        self.judge = dspy.Predict("question, answer -> verdict")
        self.judge.lm = judge

    def forward(self, question: str) -> Any:
        answer = self.solve(question=question).answer
        return dspy.Prediction(
            answer=answer, verdict=self.judge(question=question, answer=answer).verdict
        )


def collect(
    program: dspy.Module,
    *,
    fixed: dict[str, dspy.LM] | None = None,
    script: Any = echo,
    metric: Any = full_marks,
    adapter: dspy.Adapter | None = None,
    retries: int = 0,
    count: int = 1,
    reflect: bool = False,
) -> list[Any]:
    limits = Limits(concurrency=8, timeout=30, retries=retries)
    room = Runner(
        program, metric, ScriptedHost(script), adapter=adapter, limits=limits, fixed=fixed
    )
    try:
        jobs = [(problem(f"q{k}"), seed_candidate(program)) for k in range(count)]
        return room.collect(jobs, SAMPLING, reflect=reflect)
    finally:
        room.close()


@pytest.mark.parametrize("owner", ["author", "run file"])
def test_calls_of_a_fixed_model_are_no_calls_of_the_policy(owner: str) -> None:
    lm, engine = model(verdict)
    program = Judged(lm if owner == "author" else None)
    [rollout] = collect(program, fixed={} if owner == "author" else {"judge": lm})
    assert (rollout.outcome, rollout.score) == (Outcome.OK, 1.0)
    assert [call.predictor for call in rollout.calls] == ["solve"]
    assert rollout.prediction == {"answer": "q0!", "verdict": "good"}
    assert len(engine.requests) == 1


def test_the_run_file_wins_over_the_author() -> None:
    authors, unused = model(verdict)
    other, asked = model(verdict)
    collect(Judged(authors), fixed={"judge": other})
    assert (len(unused.requests), len(asked.requests)) == (0, 1)


def test_the_original_program_is_left_as_it_was() -> None:
    lm, _ = model(verdict)
    program = Judged()
    collect(program, fixed={"judge": lm})
    assert program.judge.lm is None
    own = Judged(lm)
    copy: Any = apply(own, seed_candidate(own))
    assert copy.judge.lm is lm  # a connection is shared, not copied


def test_a_fixed_model_is_spoken_to_in_dspys_own_format() -> None:
    """The policy reads CompactAdapter's bare text, the judge ChatAdapter's headers."""
    lm, engine = model(verdict)
    asked: list[str] = []

    def bare(prompt: str, sampling: Sampling, rng: random.Random) -> str:
        asked.append(prompt)
        return "an answer"

    [rollout] = collect(Judged(lm), script=bare, adapter=CompactAdapter())
    assert rollout.prediction == {"answer": "an answer", "verdict": "good"}
    assert "[[ ##" not in asked[0]
    assert "[[ ## verdict ## ]]" in str(engine.requests[0].system)


def test_a_fixed_model_keeps_the_adapter_that_the_user_has_configured() -> None:
    lm, _ = model(lambda count: '{"verdict": "in JSON"}')
    with dspy.context(adapter=dspy.JSONAdapter()):
        [rollout] = collect(Judged(lm), script=lambda *_: "an answer", adapter=CompactAdapter())
    assert rollout.prediction["verdict"] == "in JSON"


def test_a_fixed_model_may_be_asked_again_in_json_and_that_is_no_failure() -> None:
    lm, engine = model(lambda count: "prose" if count == 1 else '{"verdict": "good"}')
    [rollout] = collect(Judged(lm))
    assert (rollout.outcome, len(engine.requests)) == (Outcome.OK, 2)


@pytest.mark.parametrize("answer", ["prose", ConnectionError("connection lost")])
def test_a_failing_fixed_model_is_tried_again_then_masked(answer: Any) -> None:
    """Prose is asked for twice in each attempt: ChatAdapter's format, then JSON."""
    lm, engine = model(lambda count: answer)
    [rollout] = collect(Judged(lm), retries=2)
    assert (rollout.outcome, rollout.score) == (Outcome.INFRA_ERROR, None)
    assert "the model 'other/judge' of predictor 'judge' failed" in rollout.error
    assert len(engine.requests) == (6 if answer == "prose" else 3)


def test_a_fixed_model_that_recovers_is_no_failure() -> None:
    lm, _ = model(lambda count: ConnectionError("lost") if count == 1 else verdict(count))
    [rollout] = collect(Judged(lm), retries=1)
    assert rollout.outcome is Outcome.OK


class Swallowing(Judged):
    def forward(self, question: str) -> Any:
        with contextlib.suppress(Exception):
            return super().forward(question=question)
        return dspy.Prediction(answer="fallback", verdict="bad")


@pytest.mark.parametrize("answer", ["prose", ConnectionError("connection lost")])
def test_a_failure_that_the_program_swallows_is_masked_all_the_same(answer: Any) -> None:
    [rollout] = collect(Swallowing(model(lambda count: answer)[0]))
    assert (rollout.outcome, rollout.score) == (Outcome.INFRA_ERROR, None)
    assert [call.predictor for call in rollout.calls] == ["solve"]


def test_a_programs_own_mistake_before_the_model_was_asked_is_not_the_models() -> None:
    class Careless(Judged):
        def forward(self, question: str) -> Any:
            self.solve(question=question)
            judge: Any = self.judge
            return judge("positional")

    lm, engine = model(verdict)
    [rollout] = collect(Careless(lm))
    assert (rollout.outcome, rollout.score) == (Outcome.PROGRAM_ERROR, 0.0)
    assert engine.requests == []


def test_an_unreadable_answer_of_the_policy_stays_the_policys_fault() -> None:
    lm, engine = model(verdict)
    [rollout] = collect(Judged(lm), script=lambda *_: "garbled")
    assert (rollout.outcome, rollout.score) == (Outcome.PARSE_FAILURE, 0.0)
    assert engine.requests == []


def test_a_model_that_the_program_asks_itself_is_followed_too() -> None:
    class Direct(Single):
        def forward(self, question: str) -> Any:
            answer = self.solve(question=question).answer
            with contextlib.suppress(Exception):
                judge(f"Is {answer} good?")
            return dspy.Prediction(answer=answer)

    judge, _ = model(lambda count: ConnectionError("lost"))
    [rollout] = collect(Direct())
    assert rollout.outcome is Outcome.INFRA_ERROR
    assert "'other/judge', which the program asks itself, failed" in rollout.error


def test_a_fixed_model_works_under_asyncio_and_in_many_rollouts_at_once() -> None:
    class Gathered(Judged):
        def forward(self, question: str) -> Any:
            async def both() -> Any:
                solved, judged = await asyncio.gather(
                    self.solve.acall(question=question),
                    self.judge.acall(question=question, answer="a"),
                )
                return dspy.Prediction(answer=solved.answer, verdict=judged.verdict)

            return asyncio.run(both())

    lm, engine = model(verdict)
    rollouts = collect(Gathered(lm), count=16)
    assert {r.outcome for r in rollouts} == {Outcome.OK}
    assert [r.prediction["answer"] for r in rollouts] == [f"q{k}!" for k in range(16)]
    assert [len(r.calls) for r in rollouts] == [1] * 16
    assert len(engine.requests) == 16


@pytest.fixture
def memory_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    from dspy.clients.cache import Cache

    cache = Cache(False, True, "", memory_max_entries=100)
    monkeypatch.setattr(dspy, "cache", cache)


@pytest.mark.usefixtures("memory_cache")
def test_what_could_not_be_read_does_not_come_back_from_the_cache() -> None:
    """The author's LM has a cache: prose twice (chat, then JSON), and good answers after."""
    lm, engine = model(lambda n: "prose" if n < 3 else verdict(n), cache=True, temperature=0.0)
    assert collect(Judged(lm))[0].outcome is Outcome.INFRA_ERROR
    assert collect(Judged(lm))[0].outcome is Outcome.INFRA_ERROR
    assert len(engine.requests) == 2  # the second rollout's answers came from the cache
    [rollout] = collect(Judged(lm), retries=1)
    assert (rollout.outcome, len(engine.requests)) == (Outcome.OK, 3)


def test_reflection_asks_the_metric_about_learning_predictors_only() -> None:
    asked: list[str | None] = []

    def metric(gold: Any, pred: Any, trace: Any, pred_name: Any, pred_trace: Any) -> Any:
        asked.append(pred_name)
        return dspy.Prediction(score=1.0, feedback="fine")

    [rollout] = collect(Judged(model(verdict)[0]), metric=metric, reflect=True)
    assert asked == [None, "solve"]
    assert rollout.feedback.predictor_text == {"solve": "fine"}


def test_the_instruction_of_a_fixed_predictor_stands_in_every_candidate() -> None:
    lm, engine = model(verdict)
    program = Judged(lm)
    seed = seed_candidate(program)
    evolved = candidate(**{**seed.instructions, "solve": "Answer well."})
    room = Runner(program, full_marks, ScriptedHost(echo))
    room.collect([(problem(), evolved)], SAMPLING)
    room.close()
    assert seed.instructions["judge"] in str(engine.requests[0].system)


# -- which predictors learn, and what a run file may ask for --------------------------------------


def test_those_without_a_model_of_their_own_learn() -> None:
    lm, _ = model(verdict)
    assert learning_predictors(Judged(), {}) == ("solve", "judge")
    assert learning_predictors(Judged(lm), {}) == ("solve",)
    assert learning_predictors(Judged(), {"judge": lm}) == ("solve",)
    with pytest.raises(ProgramError, match=r"fixed models for 'jugde'.*'solve', 'judge'"):
        learning_predictors(Judged(), {"jugde": lm})


def faults(program: dspy.Module, **sections: Any) -> list[str]:
    return learning_faults(program, parse(sections))


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        (
            {"fixed": {"jugde": {"model": "openai/gpt-5-mini"}}},
            ["fixed.jugde: the program has no predictor 'jugde'; it has 'solve', 'judge'"],
        ),
        (
            {
                "fixed": {"judge": {"model": "openai/gpt-5-mini"}},
                "fast": {"evolve": ["judge"]},
                "slow": {"train": ["solve", "judge"]},
            },
            [
                "fast.evolve: predictor 'judge' has a model of its own",
                "slow.train: predictor 'judge' has a model of its own",
            ],
        ),
        (
            {"fixed": {name: {"model": "openai/gpt-5-mini"} for name in ("solve", "judge")}},
            ["every predictor of the program ('solve', 'judge') has a model of its own"],
        ),
        (
            {"fast": {"evolve": ["plan"]}},
            ["fast.evolve: the program has no predictor 'plan'; it has 'solve', 'judge'"],
        ),
        (
            {"fixed": {"judge": {"model": "openai/gpt-5-mini", "args": {"engine": "steam"}}}},
            ["fixed.judge: 'openai/gpt-5-mini' with {'engine': 'steam'}: engine must be"],
        ),
        ({"fixed": {"judge": {"model": "openai/gpt-5-mini"}}}, []),
    ],
)
def test_a_run_file_that_cannot_work_is_refused_line_by_line(
    sections: dict[str, Any], said: Sequence[str]
) -> None:
    found = faults(Judged(), **sections)
    assert len(found) == len(said)
    assert all(line.startswith(begin) for line, begin in zip(found, said, strict=True)), found


def test_a_program_whose_author_gave_every_predictor_an_lm_has_nothing_to_learn() -> None:
    program = Judged()
    program.set_lm(model(verdict)[0])
    assert "call program.set_lm(None)" in faults(program)[0]


def sampled_with(**options: Any) -> Judged:
    program = Judged()
    program.judge.config = options
    return program


@pytest.mark.parametrize(
    ("options", "sections", "said"),
    [
        ({"top_p": 0.9}, {}, "predictor 'judge' has a top_p of its own, 0.9; "),
        ({"top_p": 0.9}, {"slow": {"train": ["solve"]}}, "predictor 'judge' has a top_p"),
        (
            {"temperature": 0.5},
            {"sampling": {"temperature": 0.7}},
            "predictor 'judge' has a temperature of its own, 0.5, but is trained at "
            "sampling.temperature, 0.7; ",
        ),
    ],
)
def test_sampling_that_a_trainer_could_not_follow_is_refused_before_a_run(
    options: dict[str, Any], sections: dict[str, Any], said: str
) -> None:
    [line] = faults(sampled_with(**options), **sections)
    assert line.startswith(said)


@pytest.mark.parametrize(
    ("options", "sections"),
    [
        ({"top_p": 1.0, "temperature": 1}, {}),
        ({"top_p": None, "temperature": None}, {}),
        ({"temperature": 0.5}, {"sampling": {"temperature": 0.5}}),
        ({"temperature": 0.5}, {"slow": {"train": ["solve"]}}),
        ({"temperature": 0.5}, {"arm": "gepa"}),
        (
            {"temperature": 0.5, "top_p": 0.9},
            {"fixed": {"judge": {"model": "openai/gpt-5-mini"}}},
        ),
    ],
)
def test_sampling_that_nothing_is_trained_on_is_the_programs_own_affair(
    options: dict[str, Any], sections: dict[str, Any]
) -> None:
    assert faults(sampled_with(**options), **sections) == []


def test_models_of_the_run_file_get_their_arguments_and_no_cache() -> None:
    asked = {"model": "openai/x", "args": {"api_base": "http://127.0.0.1:1/v1", "temperature": 0.5}}
    made = fixed_models(parse({"fixed": {"judge": asked}, "sampling": {"timeout": 9.0}}))["judge"]
    assert (made.model, made.cache, made.kwargs["timeout"]) == ("openai/x", False, 9.0)
    assert (made.kwargs["temperature"], made.kwargs["api_base"]) == (0.5, "http://127.0.0.1:1/v1")
    asked["args"] = {"cache": True, "timeout": 2.0}
    made = fixed_models(parse({"fixed": {"judge": asked}}))["judge"]
    assert (made.cache, made.kwargs["timeout"]) == (True, 2.0)


def test_models_that_dspy_refuses_are_named_all_at_once() -> None:
    bad = {"model": "openai/x", "args": {"engine": "steam"}}
    with pytest.raises(ConfigError) as caught:
        fixed_models(parse({"fixed": {"a": bad, "b": bad}}))
    assert [line[:8] for line in caught.value.problems] == ["fixed.a:", "fixed.b:"]


def test_what_modules_ask_of_the_adapter_goes_to_the_policys() -> None:
    adapter = AdapterByModel(CompactAdapter())
    signature: Any = dspy.make_signature("note -> x")
    assert adapter.format_user_message_content(signature, {"note": "n"}) == "n"
    assert adapter.use_native_function_calling is False

"""Zero or mask: each failure has its outcome, its score and a text that says what happened."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import dspy
import pytest
from worlds import SAMPLING, SilentHost, Single, chat, echo, one, problem

from fst_agents.dspy_bridge import seed_candidate
from fst_agents.errors import ProgramError
from fst_agents.rollouts import Runner
from fst_agents.scoring import MetricError, Scorer
from fst_agents.serving.scripted_host import ScriptedHost
from fst_agents.types import Completion, Outcome, Sampling


def garbage(prompt: str, sampling: Sampling, rng: random.Random) -> str:
    return "no fields here"


def broken(prompt: str, sampling: Sampling, rng: random.Random) -> str:
    raise ConnectionError("connection lost")


def test_an_unreadable_answer_scores_zero_and_says_so() -> None:
    rollout = one(Single(), garbage)
    assert (rollout.outcome, rollout.score) == (Outcome.PARSE_FAILURE, 0.0)
    assert "could not be read" in rollout.feedback.text
    assert "no fields here" in rollout.feedback.text
    assert rollout.feedback.predictor_text == {"solve": rollout.feedback.text}
    assert [call.parsed for call in rollout.calls] == [False]


def test_an_unreadable_answer_is_sampled_once() -> None:
    asked: list[str] = []

    def counted(prompt: str, sampling: Sampling, rng: random.Random) -> str:
        asked.append(prompt)
        return "nonsense"

    one(Single(), counted)
    assert len(asked) == 1


def test_a_truncated_answer_scores_zero_and_says_so() -> None:
    rollout = one(Single(), sampling=Sampling(max_tokens=5))
    assert (rollout.outcome, rollout.score) == (Outcome.TRUNCATED, 0.0)
    assert "cut off at the token limit" in rollout.feedback.text
    assert rollout.calls[0].finish_reason == "length"


def test_the_unreadable_call_is_blamed_not_the_last_one() -> None:
    class Careful(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = dspy.Predict("question -> one")
            self.second = dspy.Predict("question -> two")

        def forward(self, question: str) -> Any:
            try:
                return self.first(question=question)
            except Exception:
                self.second(question=question)
                raise

    def script(prompt: str, sampling: Sampling, rng: random.Random) -> str:
        return chat(two="2") if "`two`" in prompt else "garbled"

    rollout = one(Careful(), script)
    assert rollout.outcome is Outcome.PARSE_FAILURE
    assert list(rollout.feedback.predictor_text) == ["first"]
    assert "garbled" in rollout.feedback.text


def test_a_program_that_raises_scores_zero() -> None:
    class Crashing(Single):
        def forward(self, question: str) -> Any:
            self.solve(question=question)
            raise KeyError("lost")

    rollout = one(Crashing())
    assert (rollout.outcome, rollout.score) == (Outcome.PROGRAM_ERROR, 0.0)
    assert "lost" in rollout.feedback.text
    assert rollout.error == "KeyError: 'lost'"
    assert len(rollout.calls) == 1


def test_a_program_that_returns_no_prediction_is_a_program_error() -> None:
    class Bare(Single):
        def forward(self, question: str) -> Any:
            return self.solve(question=question).answer

    rollout = one(Bare())
    assert rollout.outcome is Outcome.PROGRAM_ERROR
    assert "returned str; expected a dspy.Prediction" in rollout.feedback.text


def test_a_failing_host_is_tried_again_then_masked() -> None:
    asked: list[int] = []

    def failing(prompt: str, sampling: Sampling, rng: random.Random) -> str:
        asked.append(1)
        raise ConnectionError("connection lost")

    rollout = one(Single(), failing, retries=2)
    assert len(asked) == 3
    assert (rollout.outcome, rollout.score, rollout.calls) == (Outcome.INFRA_ERROR, None, ())
    assert "connection lost" in str(rollout.error)


def test_a_host_that_recovers_is_no_failure() -> None:
    asked: list[int] = []

    def flaky(prompt: str, sampling: Sampling, rng: random.Random) -> str:
        asked.append(1)
        return echo(prompt, sampling, rng) if len(asked) > 1 else broken(prompt, sampling, rng)

    assert one(Single(), flaky, retries=1).outcome is Outcome.OK


class Swallowing(Single):
    def forward(self, question: str) -> Any:
        with contextlib.suppress(Exception):
            return self.solve(question=question)
        return dspy.Prediction(answer="fallback")


def test_a_host_failure_that_the_program_swallows_is_masked_all_the_same() -> None:
    rollout = one(Swallowing(), broken)
    assert (rollout.outcome, rollout.score) == (Outcome.INFRA_ERROR, None)


def test_a_host_failure_inside_dspy_parallel_is_masked() -> None:
    class Forked(Single):
        def forward(self, question: str) -> Any:
            pairs = [(self.solve, {"question": question}) for _ in range(2)]
            dspy.Parallel(num_threads=2, disable_progress_bar=True, max_errors=9)(pairs)
            return dspy.Prediction(answer="whatever")

    assert one(Forked(), broken).outcome is Outcome.INFRA_ERROR


def test_an_unreadable_answer_that_the_program_handles_is_scored_as_the_metric_says() -> None:
    rollout = one(Swallowing(), garbage)
    assert (rollout.outcome, rollout.score) == (Outcome.OK, 1.0)
    assert [call.parsed for call in rollout.calls] == [False]


def test_a_hung_host_times_out_without_hanging() -> None:
    started = time.monotonic()
    rollout = one(Single(), SilentHost(echo), timeout=0.2, retries=1)
    assert (rollout.outcome, rollout.score) == (Outcome.TIMEOUT, None)
    assert "0.2 s" in str(rollout.error)
    assert time.monotonic() - started < 5


def test_a_hung_host_times_out_under_asyncio_too() -> None:
    class Asynchronous(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.solve = dspy.Predict("question -> answer")

        async def aforward(self, question: str) -> Any:
            return await self.solve.acall(question=question)

    rollout = one(Asynchronous(), SilentHost(echo), timeout=0.2)
    assert rollout.outcome is Outcome.TIMEOUT


class Racing(Single):
    """Asks twice, takes the first answer, and cancels the other call."""

    async def aforward(self, question: str) -> Any:
        asked = [asyncio.ensure_future(self.solve.acall(question=q)) for q in (question, "slow")]
        await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        asked[1].cancel()
        await asyncio.wait(asked)
        return await asked[0]

    def forward(self, question: str) -> Any:
        return asyncio.run(self.aforward(question))


class HalfSilentHost(ScriptedHost):
    """Has hung for one question."""

    def submit(
        self, prompt_ids: Sequence[int], sampling: Sampling, order: tuple[int, ...] = ()
    ) -> Future[Completion]:
        if "slow" in self.tokenizer.decode(prompt_ids):
            return Future[Completion]()
        return super().submit(prompt_ids, sampling, order)


def test_a_call_that_the_program_cancels_is_none() -> None:
    rollout = one(Racing(), HalfSilentHost(echo), timeout=5)
    assert (rollout.outcome, rollout.score) == (Outcome.OK, 1.0)
    assert [call.inputs["question"] for call in rollout.calls] == ["q"]


def test_a_cancellation_that_gets_out_is_the_programs_error() -> None:
    class Careless(Racing):
        async def aforward(self, question: str) -> Any:
            asked = asyncio.ensure_future(self.solve.acall(question="slow"))
            await asyncio.sleep(0)
            asked.cancel()
            return await asked

    rollout = one(Careless(), HalfSilentHost(echo), timeout=5)
    assert (rollout.outcome, rollout.calls) == (Outcome.PROGRAM_ERROR, ())
    assert "cancellation of one of its own tasks" in str(rollout.error)


@pytest.mark.parametrize(
    ("script", "outcome"),
    [(garbage, Outcome.PARSE_FAILURE), (broken, Outcome.INFRA_ERROR)],
)
def test_what_goes_wrong_in_a_task_group_keeps_its_outcome(script: Any, outcome: Outcome) -> None:
    class Grouped(Single):
        async def both(self, question: str) -> Any:
            async with asyncio.TaskGroup() as group:
                asked = [group.create_task(self.solve.acall(question=question)) for _ in range(2)]
            return asked[0].result()

        def forward(self, question: str) -> Any:
            return asyncio.run(self.both(question))

    assert one(Grouped(), script).outcome is outcome


def test_a_program_that_calls_for_ever_ends_at_its_deadline() -> None:
    class Endless(Single):
        def forward(self, question: str) -> Any:
            while True:
                self.solve(question=question)

    rollout = one(Endless(), timeout=0.3)
    assert rollout.outcome is Outcome.TIMEOUT


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        (lambda gold, pred: 1 / 0, "the metric raised ZeroDivisionError"),
        (lambda gold, pred: float("nan"), "expected a finite number"),
        (lambda gold, pred: "high", "'high'"),
        (lambda gold, pred: {"feedback": "no score"}, "with at least `score`"),
        (lambda gold, pred: {"score": "1"}, "score is '1'; expected a number"),
    ],
)
def test_a_metric_without_a_number_is_an_error_never_a_zero(metric: Any, said: str) -> None:
    rollout = one(Single(), metric=metric)
    assert (rollout.outcome, rollout.score) == (Outcome.METRIC_ERROR, None)
    assert said in str(rollout.error)
    assert len(rollout.calls) == 1


def test_a_metric_that_returns_none_leaves_the_rollout_unscored() -> None:
    rollout = one(Single(), metric=lambda gold, pred: None)
    assert (rollout.outcome, rollout.score) == (Outcome.OK, None)


def test_a_prompt_that_does_not_fit_is_the_rollouts_fault_not_the_servers() -> None:
    rollout = one(Single(), ScriptedHost(echo, context_length=64))
    assert (rollout.outcome, rollout.score) == (Outcome.PROGRAM_ERROR, 0.0)
    assert "shorten the input or the instruction" in rollout.feedback.text


def test_max_tokens_shrinks_to_the_room_there_is() -> None:
    [call] = one(Single()).calls
    host = ScriptedHost(echo, context_length=len(call.prompt_ids) + 3)
    rollout = one(Single(), host)
    assert rollout.outcome is Outcome.TRUNCATED
    assert len(rollout.calls[0].completion_ids) == 3


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"top_p": 0.9}, "top_p"),
        ({"seed": 1}, "seed"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
    ],
)
def test_options_that_the_trainer_could_not_follow_are_refused(
    options: dict[str, Any], named: str
) -> None:
    class Particular(Single):
        def __init__(self) -> None:
            super().__init__()
            self.solve = dspy.Predict("question -> answer", **options)

    with pytest.raises(ProgramError, match=named):
        one(Particular())


def test_a_top_p_that_leaves_all_tokens_in_is_no_fault() -> None:
    class Whole(Single):
        def __init__(self) -> None:
            super().__init__()
            self.solve = dspy.Predict("question -> answer", top_p=1)

    assert one(Whole()).outcome is Outcome.OK


def test_an_adapter_that_wants_native_tools_gets_them_as_text() -> None:
    def lookup(word: str) -> str:
        """Look up."""
        return word

    class Tooled(Single):
        def forward(self, question: str) -> Any:
            adapter = dspy.ChatAdapter(use_native_function_calling=True)
            with dspy.context(adapter=adapter):
                return self.solve(question=question, tools=[dspy.Tool(lookup)])

        def __init__(self) -> None:
            super().__init__()
            signature = "question, tools: list[dspy.Tool] -> answer, calls: dspy.ToolCalls"
            self.solve = dspy.Predict(signature)

    rollout = one(Tooled())
    assert rollout.outcome is Outcome.PARSE_FAILURE  # asked for in text, and echo does not comply
    assert "`calls`" in rollout.calls[0].messages[0]["content"]


def test_a_predictors_own_temperature_is_what_is_recorded() -> None:
    class Cool(Single):
        def __init__(self) -> None:
            super().__init__()
            self.solve = dspy.Predict("question -> answer", temperature=0.5)

    assert one(Cool()).calls[0].temperature == 0.5
    assert one(Single(), sampling=Sampling(0.7, max_tokens=400)).calls[0].temperature == 0.7


def test_a_five_argument_metric_speaks_of_each_predictor() -> None:
    class Pair(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.plan = dspy.Predict("question -> answer")
            self.solve = dspy.Predict("question -> answer")
            self.unused = dspy.Predict("question -> answer")

        def forward(self, question: str) -> Any:
            return self.solve(question=self.plan(question=question).answer)

    def metric(gold: Any, pred: Any, trace: Any, pred_name: Any, pred_trace: Any) -> Any:
        if pred_name is None:
            return dspy.Prediction(score=0.5, feedback=f"{len(trace)} calls")
        [(_, inputs, _)] = pred_trace
        return dspy.Prediction(score=0.5, feedback=f"{pred_name} got {inputs['question']}")

    rollout = one(Pair(), metric=metric, reflect=True)
    assert (rollout.score, rollout.feedback.text) == (0.5, "2 calls")
    assert rollout.feedback.predictor_text == {"plan": "plan got q", "solve": "solve got q!"}
    assert one(Pair(), metric=metric).feedback.predictor_text == {}


def test_objectives_and_predictor_scores_are_kept() -> None:
    def metric(gold: Any, pred: Any) -> Any:
        scores = {
            "score": 1,
            "objective_scores": {"brief": 0.5},
            "predictor_scores": {"solve": 0.25},
        }
        return dspy.Prediction(**scores)

    feedback = one(Single(), metric=metric).feedback
    assert (feedback.objectives, feedback.predictor_scores) == ({"brief": 0.5}, {"solve": 0.25})


def scorer(answer: Any, **options: Any) -> Any:
    return Scorer(lambda gold, pred: answer, **options)(None, None, [])


@pytest.mark.parametrize("score", [0, 1, 0.5, True, 0.1 + 0.2 + 0.7, -1e-12])
def test_scores_inside_the_declared_range_pass(score: float) -> None:
    assert scorer(score, score_range=(0.0, 1.0)).score == float(score)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (1.5, "the metric's score is 1.5; expected 0 to 1"),
        (-0.01, "the metric's score is -0.01; expected 0 to 1"),
        (
            {"score": 1, "predictor_scores": {"solve": 20}},
            r"predictor_scores\['solve'\] is 20; expected 0 to 1",
        ),
    ],
)
def test_scores_outside_the_declared_range_are_errors_that_name_it(answer: Any, said: str) -> None:
    with pytest.raises(MetricError, match=said):
        scorer(answer, score_range=(0.0, 1.0))
    scorer(answer)  # no range, no complaint


def test_a_range_need_not_be_from_zero_to_one() -> None:
    assert scorer(-3, score_range=(-5, 5)).score == -3.0


def test_a_score_for_a_predictor_that_the_program_does_not_have_is_an_error() -> None:
    """A typo here would lose the predictor's credit in silence."""
    answer = {"score": 1, "predictor_scores": {"sovle": 1, "plan": 0}}
    with pytest.raises(MetricError, match=r"name 'sovle'; expected .*: 'plan', 'solve'"):
        scorer(answer, predictors=("plan", "solve"))
    rollout = one(Single(), metric=lambda gold, pred: answer)
    assert (rollout.outcome, rollout.score) == (Outcome.METRIC_ERROR, None)
    assert "'plan', 'sovle'" in str(rollout.error)


def test_what_is_said_of_a_single_predictor_is_checked_too() -> None:
    asked = Scorer(lambda gold, pred, trace, name, own: 7, score_range=(0, 1))
    with pytest.raises(MetricError, match="score is 7"):
        asked.of_predictor(None, None, [], "solve", [])


def test_the_runner_holds_the_metric_to_its_range() -> None:
    room = Runner(Single(), lambda gold, pred: 2, ScriptedHost(echo), score_range=(0, 1))
    [rollout] = room.collect([(problem(), seed_candidate(Single()))], SAMPLING)
    room.close()
    assert rollout.outcome is Outcome.METRIC_ERROR


def test_stop_strings_and_sampling_reach_the_host() -> None:
    seen: list[Sampling] = []

    def watching(prompt: str, sampling: Sampling, rng: random.Random) -> str:
        seen.append(sampling)
        return echo(prompt, sampling, rng)

    one(Single(), watching)
    assert seen == [SAMPLING]

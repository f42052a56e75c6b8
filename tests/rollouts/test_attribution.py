"""Every completion that was sampled belongs to one predictor, by name; nothing is lost."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import random
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import dspy
import pytest
from worlds import SAMPLING, Answer, Single, candidate, chat, echo, one, problem, runner

from fst_agents.dspy_bridge import apply, problems, seed_candidate
from fst_agents.errors import ProgramError
from fst_agents.serving.scripted_host import ScriptedHost
from fst_agents.types import Completion, Outcome, Population, Sampling


class Twins(dspy.Module):
    """Two predictors of one and the same signature class."""

    def __init__(self) -> None:
        super().__init__()
        self.draft = dspy.Predict(Answer)
        self.final = dspy.Predict(Answer)

    def forward(self, question: str) -> Any:
        return self.final(question=self.draft(question=question).answer)


def names(rollout: Any) -> list[str]:
    return [call.predictor for call in rollout.calls]


def test_predictors_that_share_a_signature_are_told_apart_by_name() -> None:
    rollout = one(Twins())
    assert rollout.outcome is Outcome.OK
    assert names(rollout) == ["draft", "final"]
    assert rollout.calls[1].inputs == {"question": "q!"}
    assert rollout.calls[1].outputs == {"answer": "q!!"}


def test_each_predictor_runs_the_candidates_own_instruction() -> None:
    room = runner(Twins())
    member = candidate(draft="Be brief.", final="Be bold.")
    [rollout] = room.collect([(problem(), member)], SAMPLING)
    room.close()
    systems = [call.messages[0]["content"] for call in rollout.calls]
    assert "Be brief." in systems[0]
    assert "Be bold." not in systems[0]
    assert "Be bold." in systems[1]


class Looped(Single):
    def forward(self, question: str) -> Any:
        for _ in range(3):
            question = self.solve(question=question).answer
        return dspy.Prediction(answer=question)


def test_a_loop_records_every_turn_in_order() -> None:
    rollout = one(Looped())
    assert [call.inputs["question"] for call in rollout.calls] == ["q", "q!", "q!!"]
    assert rollout.prediction == {"answer": "q!!!"}


class Forked(Single):
    def forward(self, question: str) -> Any:
        pairs = [(self.solve, {"question": f"{question}{k}"}) for k in range(4)]
        answers = dspy.Parallel(num_threads=4, disable_progress_bar=True)(pairs)
        return dspy.Prediction(answer=" ".join(a.answer for a in answers))


def test_dspy_parallel_keeps_its_calls() -> None:
    rollout = one(Forked())
    assert rollout.prediction == {"answer": "q0! q1! q2! q3!"}
    assert names(rollout) == ["solve"] * 4
    for call in rollout.calls:
        assert call.outputs == {"answer": f"{call.inputs['question']}!"}


def test_chain_of_thought_is_recorded_under_its_inner_predictor() -> None:
    class Thinking(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.solve = dspy.ChainOfThought(Answer)

        def forward(self, question: str) -> Any:
            return self.solve(question=question)

    rollout = one(Thinking(), lambda *_: chat(reasoning="because", answer="a"))
    assert names(rollout) == ["solve.predict"]
    assert rollout.prediction == {"reasoning": "because", "answer": "a"}


def test_react_with_a_tool_records_turns_and_extraction() -> None:
    def add(a: int, b: int) -> int:
        """Add."""
        return a + b

    class Agent(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.agent = dspy.ReAct(Answer, tools=[add], max_iters=3)

        def forward(self, question: str) -> Any:
            return self.agent(question=question)

    def script(prompt: str, sampling: Sampling, rng: random.Random) -> str:
        if "next_tool_name" not in prompt.split("<user>")[0]:
            return chat(reasoning="the tool said so", answer="5")
        name, arguments = (
            ("finish", "{}") if "observation_0" in prompt else ("add", '{"a":2,"b":3}')
        )
        return chat(next_thought="t", next_tool_name=name, next_tool_args=arguments)

    rollout = one(Agent(), script)
    assert rollout.outcome is Outcome.OK, rollout.error
    assert names(rollout) == ["agent.react", "agent.react", "agent.extract.predict"]
    assert rollout.prediction["answer"] == "5"
    assert rollout.prediction["trajectory"]["observation_0"] == 5


class Gathered(Single):
    def forward(self, question: str) -> Any:
        async def both() -> list[Any]:
            return await asyncio.gather(
                *(self.solve.acall(question=f"{question}{k}") for k in range(3))
            )

        return dspy.Prediction(answer=" ".join(p.answer for p in asyncio.run(both())))


class AsyncOnly(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.solve = dspy.Predict(Answer)

    async def aforward(self, question: str) -> Any:
        return await self.solve.acall(question=question)


def test_asyncio_inside_a_program_keeps_its_calls() -> None:
    rollout = one(Gathered())
    assert rollout.prediction == {"answer": "q0! q1! q2!"}
    assert names(rollout) == ["solve"] * 3


class BackwardsHost(ScriptedHost):
    """Answers three requests at once, the last one first."""

    def __init__(self) -> None:
        super().__init__(echo)
        self._waiting: list[tuple[Future[Completion], Future[Completion]]] = []

    def submit(
        self, prompt_ids: Sequence[int], sampling: Sampling, order: tuple[int, ...] = ()
    ) -> Future[Completion]:
        later = Future[Completion]()
        self._waiting.append((later, super().submit(prompt_ids, sampling, order)))
        if len(self._waiting) == 3:
            for promised, made in reversed(self._waiting):
                promised.set_result(made.result())
        return later


def test_calls_stand_in_the_order_asked_whichever_is_answered_first() -> None:
    rollout = one(Gathered(), BackwardsHost())
    assert [call.inputs["question"] for call in rollout.calls] == ["q0", "q1", "q2"]
    assert [call.outputs for call in rollout.calls] == [{"answer": f"q{k}!"} for k in range(3)]


def test_a_program_that_is_asynchronous_only_runs() -> None:
    rollout = one(AsyncOnly())
    assert (rollout.outcome, rollout.prediction) == (Outcome.OK, {"answer": "q!"})


def test_sixty_four_concurrent_rollouts_keep_their_calls_apart() -> None:
    room = runner(Looped(), concurrency=64)
    seed = seed_candidate(Looped())
    rollouts = room.collect([(problem(f"p{k}"), seed) for k in range(64)], SAMPLING)
    room.close()
    for k, rollout in enumerate(rollouts):
        asked = [call.inputs["question"] for call in rollout.calls]
        assert asked == [f"p{k}", f"p{k}!", f"p{k}!!"]


def test_tokens_and_logprobs_are_the_hosts_own() -> None:
    host = ScriptedHost(echo, logprob=-0.25)
    [call] = one(Single(), host).calls
    assert host.tokenizer.decode(call.completion_ids) == call.text == chat(answer="q!")
    assert host.tokenizer.render(call.messages) == call.prompt_ids
    assert call.logprobs == (-0.25,) * len(call.completion_ids)
    assert (call.finish_reason, call.policy_version, call.temperature) == ("stop", 0, 1.0)


def test_a_predictor_made_inside_forward_is_refused() -> None:
    class Improvised(Single):
        def forward(self, question: str) -> Any:
            return dspy.Predict(Answer)(question=question)

    with pytest.raises(ProgramError, match="outside the program's own predictors"):
        one(Improvised())


def test_a_raw_thread_is_refused_never_lost() -> None:
    class Threaded(Single):
        def forward(self, question: str) -> Any:
            def work() -> None:
                with contextlib.suppress(Exception):
                    self.solve(question=question)

            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
            return dspy.Prediction(answer="done")

    with pytest.raises(ProgramError, match=r"dspy\.Parallel or contextvars"):
        one(Threaded())


def test_calls_that_outlive_their_rollout_are_refused() -> None:
    release = threading.Event()

    class Hasty(Single):
        def forward(self, question: str) -> Any:
            context = contextvars.copy_context()
            thread = threading.Thread(
                target=lambda: context.run(self.solve, question=question), daemon=True
            )
            thread.start()
            asked.wait(5)
            return dspy.Prediction(answer="too early")

    asked = threading.Event()

    def slow(prompt: str, sampling: Sampling, rng: random.Random) -> str:
        asked.set()
        release.wait(5)
        return echo(prompt, sampling, rng)

    try:
        with pytest.raises(ProgramError, match="came back outside the rollout"):
            one(Hasty(), slow)
    finally:
        release.set()


def test_a_candidate_for_other_predictors_is_refused() -> None:
    with pytest.raises(ProgramError, match=r"has instructions for \['other'\]"):
        apply(Single(), candidate(other="x"))


def test_a_program_without_predictors_is_refused() -> None:
    with pytest.raises(ProgramError, match="has no predictors"):
        seed_candidate(dspy.Module())


def test_predictors_that_collide_under_one_name_are_refused() -> None:
    """DSPy names dictionary entries by their key's text: 1 and "1" are one name."""

    class Numbered(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.steps = {1: dspy.Predict(Answer), "1": dspy.Predict(Answer)}

    with pytest.raises(
        ProgramError, match=r"more than one predictor under the name .*steps\['1'\]"
    ):
        seed_candidate(Numbered())


def test_a_predictor_under_two_names_is_refused() -> None:
    class Doubled(Single):
        def named_predictors(self) -> list[tuple[str, Any]]:
            return [("solve", self.solve), ("answer", self.solve)]

    with pytest.raises(ProgramError, match=r"gives one predictor two names .*'answer' is 'solve'"):
        seed_candidate(Doubled())


def test_a_predictor_without_an_instruction_is_refused() -> None:
    class Silent(Single):
        def __init__(self) -> None:
            super().__init__()
            self.solve.signature = Answer.with_instructions("  ")

    for attempt in (seed_candidate, lambda p: apply(p, candidate(solve="x"))):
        with pytest.raises(ProgramError, match="Silent: no instruction for predictor 'solve'"):
            attempt(Silent())


def test_examples_need_distinct_ids() -> None:
    twins = [dspy.Example(question="a", id="1"), dspy.Example(question="b", id="1")]
    with pytest.raises(ProgramError, match=r"1 example id\(s\) occur more than once: 1"):
        problems(twins)
    same = [dspy.Example(question="a"), dspy.Example(question="a")]
    with pytest.raises(ProgramError, match="occur more than once"):
        problems(same)


@pytest.mark.parametrize("members", [1, 2, 3, 4])
def test_groups_deal_g_rollouts_over_the_population(members: int) -> None:
    population = Population(tuple(candidate(solve=f"v{k}") for k in range(members)))
    room = runner(Single())
    groups = room.collect_groups(
        [problem(f"p{k}") for k in range(members)], population, 4, SAMPLING
    )
    room.close()
    assert [g.problem_id for g in groups] == [f"p{k}" for k in range(members)]
    totals = dict.fromkeys([c.id for c in population.candidates], 0)
    for group in groups:
        shares = [sum(r.candidate_id == c for r in group.rollouts_G) for c in totals]
        assert sum(shares) == 4
        assert max(shares) - min(shares) <= 1
        totals = {c: totals[c] + s for c, s in zip(totals, shares, strict=True)}
    assert set(totals.values()) == {4}

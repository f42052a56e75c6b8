"""Building the reflection model: offline, the user's own, and LiteLLM against a real server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from fst_agents.config import FastConfig
from fst_agents.errors import ConfigError, ReflectionError
from fst_agents.types import Call, Candidate, Feedback, Outcome, Population, Problem, Rollout
from optimizers.fast_gepa import GepaFast
from optimizers.reflection import build_reflection, wrap_reflection
from tests.chat_endpoint import Answer, Asked, ChatEndpoint, chat_endpoint

FENCED = "Sure:\n```\nSort the digits.\n```"


class Server:
    """An endpoint that answers from a script."""

    endpoint: ChatEndpoint

    def __init__(self) -> None:
        self.script: list[Answer] = []

    @property
    def requests(self) -> list[Asked]:
        return self.endpoint.requests

    @property
    def args(self) -> dict[str, Any]:
        return {
            "api_base": self.endpoint.url, "api_key": "none", "num_retries": 0, "max_retries": 0
        }  # fmt: skip


@pytest.fixture
def server() -> Iterator[Server]:
    scripted = Server()
    with chat_endpoint(lambda _: scripted.script.pop(0)) as scripted.endpoint:
        yield scripted


def test_litellm_sends_the_prompt_and_returns_the_text(server: Server) -> None:
    server.script = [FENCED]
    reflect = build_reflection("openai/m", {**server.args, "max_tokens": 99})
    assert reflect("improve this") == FENCED
    (request,) = server.requests
    assert request.path == "/v1/chat/completions"
    assert request.body["model"] == "m"
    assert request.body["messages"] == [{"role": "user", "content": "improve this"}]
    assert (request.body["temperature"], request.body["max_tokens"]) == (1.0, 99)


def test_litellm_retries_as_often_as_it_is_told(server: Server) -> None:
    server.script = [(500, '{"error": {"message": "busy"}}'), FENCED]
    assert build_reflection("openai/m", {**server.args, "num_retries": 1})("x") == FENCED
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    "reply", [(500, '{"error": {"message": "boom"}}'), (200, "<html>not json</html>"), (200, "{}")]
)
def test_server_errors_and_garbage_are_raised_and_never_printed(
    server: Server, reply: tuple[int, str], capfd: pytest.CaptureFixture[str]
) -> None:
    server.script = [reply]
    reflect = build_reflection("openai/m", server.args)
    with pytest.raises(Exception, match=r"."):
        reflect("x")
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("content", ["", "  \n", None])
def test_empty_content_is_a_reflection_error(server: Server, content: str | None) -> None:
    server.script = [content]
    with pytest.raises(ReflectionError, match=r"openai/m \(stop\): expected a non-empty text"):
        build_reflection("openai/m", server.args)("x")


class Evaluate:
    """Every rollout is one call that scores 0."""

    def __init__(self) -> None:
        self._spent = 0

    def __call__(self, candidate: Candidate, problems: Sequence[Problem]) -> list[Rollout]:
        self._spent += len(problems)
        call = Call("p", (), (1,), (2,), (0.0,), "stop", 0, 1.0, "out", {"q": "x"}, {"a": "y"})
        feedback = Feedback(0.0, "wrong")
        return [Rollout(p.id, candidate.id, 0, (call,), feedback, Outcome.OK) for p in problems]

    def spent(self) -> int:
        return self._spent


def evolve(server: Server) -> list[str]:
    """One phase with the server as reflection model; all texts that were run."""
    fast = GepaFast(FastConfig.model_validate({}), build_reflection("openai/m", server.args))
    seed = Population((Candidate({"p": "Do it."}),))
    problems = [Problem(str(i), None) for i in range(8)]
    fast.evolve(seed, problems, Evaluate(), rollouts=16, policy_version=0, cycle=0)
    return [c.instructions["p"] for c in fast.record.candidates]


def test_a_phase_runs_on_a_model_behind_http(server: Server) -> None:
    server.script = [FENCED]
    assert evolve(server) == ["Do it.", "Sort the digits."]
    assert "## Feedback\nwrong" in server.requests[0].text


def test_a_phase_ends_with_a_clear_error_when_the_server_fails(server: Server) -> None:
    server.script = [(500, '{"error": {"message": "boom"}}')]
    with pytest.raises(ReflectionError, match=r"InternalServerError.*boom"):
        evolve(server)


def test_unknown_model_names_are_refused_before_the_first_call() -> None:
    with pytest.raises(ConfigError, match="'no-such-model' is not a LiteLLM model name"):
        build_reflection("no-such-model")


def test_offline_is_the_callable_handed_in() -> None:
    def offline(prompt: str) -> str:
        return prompt

    assert build_reflection("offline", offline=offline) is offline
    with pytest.raises(ConfigError, match="knows the digits tasks only"):
        build_reflection("offline")
    with pytest.raises(ConfigError, match=r"got \['api_base'\], but the offline reflector"):
        build_reflection("offline", {"api_base": "x"}, offline)


@pytest.mark.parametrize("answer", [FENCED, [FENCED], [{"text": FENCED, "reasoning_content": ""}]])
def test_users_callables_and_dspy_answers_are_accepted(answer: object) -> None:
    assert wrap_reflection(lambda prompt: answer)("x") == FENCED


@pytest.mark.parametrize("answer", [None, 3, "", [], [None], [{"content": "x"}], (FENCED,)])
def test_other_answers_are_refused(answer: object) -> None:
    with pytest.raises(ReflectionError, match="reflection_lm: expected a non-empty text"):
        wrap_reflection(lambda prompt: answer)("x")


def test_what_cannot_be_called_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected a callable"):
        wrap_reflection("openai/m")  # pyright: ignore[reportArgumentType]


def test_a_real_dspy_lm_is_accepted(server: Server) -> None:
    dspy = pytest.importorskip("dspy")
    server.script = [FENCED]
    lm = dspy.LM("openai/m", api_base=server.args["api_base"], api_key="none", cache=False)
    assert wrap_reflection(lm)("improve this") == FENCED

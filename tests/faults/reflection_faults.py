"""Faults of the reflection model."""

# pyright: reportMissingImports=false

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator, Sequence
from http.server import ThreadingHTTPServer
from typing import Any

from fake_server import Handler, Reply
from faults import Drive, Fault, Seen, Workshop
from loop_world import (
    cast,
    lives,
    stops,
)
from stops import Run

from fst_agents.errors import (
    ReflectionError,
)
from optimizers.reflection import LiteLlmReflection, StandInReflection


class Falling(StandInReflection):
    """Answers, then fails for good."""

    def __init__(self, answers: int) -> None:
        super().__init__()
        self._answers = answers

    def __call__(self, prompt: str) -> str:
        if self.calls >= self._answers:
            raise ConnectionError("no route to the reflection model")
        return super().__call__(prompt)


class Endpoint:
    """Chat completions, OpenAI's way; ``statuses`` are the first answers', 200 the others'."""

    def __init__(self, statuses: Sequence[int]) -> None:
        self.left = [*statuses]
        self.asked = 0
        self._stand_in = StandInReflection()

    def __call__(self, sent: Any) -> Reply:
        self.asked += 1
        if self.left:
            status = self.left.pop(0)
            return status, '{"error": {"message": "slow down", "type": "rate", "code": "429"}}'
        text = self._stand_in(sent["messages"][-1]["content"]).replace("\n", "\\n")
        message = f'{{"role": "assistant", "content": "{text}"}}'
        choice = f'{{"index": 0, "finish_reason": "stop", "message": {message}}}'
        usage = '{"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}'
        head = '"id": "1", "object": "chat.completion", "created": 0, "model": "reflector"'
        return 200, f'{{{head}, "choices": [{choice}], "usage": {usage}}}'

    @contextlib.contextmanager
    def serve(self) -> Generator[str]:
        replies = {"/v1/chat/completions": self}
        handler: Any = type("Chat", (Handler,), {"replies": replies})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1"
        finally:
            server.shutdown()
            server.server_close()


def remote(url: str) -> Callable[[], Callable[[str], str]]:
    args = {"api_base": url, "api_key": "none", "num_retries": 2, "timeout": 20}
    return lambda: LiteLlmReflection("openai/reflector", args)


def rate_limited(workshop: Workshop) -> Seen:
    endpoint = Endpoint([429, 429])
    with endpoint.serve() as url:
        seen = lives(lambda: cast(reflection=remote(url)), None, "asked again")(workshop)
    assert not endpoint.left
    return Seen(f"2 × 429 of {endpoint.asked} requests; {seen.happened}")


def dropped(answer: Callable[[], str], words: str) -> Drive:
    """Answers that are no instruction cost no rollout and never become one."""

    def check(workshop: Workshop) -> Seen:
        def nothing_new(run: Run) -> None:
            assert len(run.loop.population.candidates) == 1
            faults = [f for phase in run.run_dir.populations() for f in phase["record"]["faults"]]
            assert faults
            assert all(words in fault for fault in faults), faults

        healthy = cast(reflection=lambda: lambda prompt: answer())
        return lives(lambda: healthy, None, f"dropped ({words}), Φ stays", also=nothing_new)(
            workshop
        )

    return check


REFLECTION = [
    Fault(
        "reflection LM down",
        "from the first request on (HTTP, nothing listens)",
        stops(
            lambda: cast(reflection=remote("http://127.0.0.1:9/v1")),
            ReflectionError,
            "the reflection model failed 1 time(s) in a row",
        ),
    ),
    Fault(
        "reflection LM down",
        "from the 3rd request on",
        stops(
            lambda: cast(reflection=lambda: Falling(2)),
            ReflectionError,
            "no route to the reflection model",
        ),
    ),
    Fault("reflection LM rate-limited", "429 to its first 2 requests (HTTP)", rate_limited),
    Fault(
        "reflection LM answers nonsense",
        "every answer",
        dropped(lambda: "asdf \x00 `` {{", "no complete ``` block"),
    ),
    Fault(
        "reflection LM answers an empty instruction",
        "every answer",
        dropped(lambda: "```\n \n```", "block is empty"),
    ),
    Fault(
        "reflection LM answers 100 kB",
        "every answer",
        dropped(lambda: f"```\n{'long ' * 20_000}\n```", "bytes, at most 20000 are accepted"),
    ),
]

"""The client against a small HTTP server that misbehaves."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from fake_server import Handler, Reply

from fst_agents.errors import ServingError
from fst_agents.serving.completions import bundle
from fst_agents.serving.inbox import Request
from fst_agents.serving.vllm_client import LostError, StatusError, VllmClient
from fst_agents.serving.vllm_weights import examine
from fst_agents.types import Sampling


def talk(
    url: str, work: Callable[[VllmClient], Coroutine[Any, Any, Any]], timeout: float = 5
) -> Any:
    async def run() -> Any:
        client = VllmClient(url, "key", timeout)
        try:
            return await work(client)
        finally:
            await client.close()

    return asyncio.run(run())


def complete(client: VllmClient) -> Coroutine[Any, Any, Any]:
    return client.complete(bundle([Request((1,), Sampling())])[0], "m", 0)


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ((500, "engine is gone"), "status 500: engine is gone"),
        ((401, '{"error": "Unauthorized"}'), "status 401"),
        ((200, "{garbage"), "not JSON"),
        ((200, "{}"), "not an answer of /v1/completions"),
    ],
)
def test_bad_answers_say_what_came(url: str, reply: Reply, message: str) -> None:
    Handler.replies["/v1/completions"] = lambda _: reply
    with pytest.raises(ServingError, match=message):
        talk(url, complete)


def answer(**changes: Any) -> str:
    choice = {
        "index": 0,
        "token_ids": [5, 6],
        "prompt_token_ids": [1],
        "logprobs": {"token_logprobs": [-0.5, -1.0]},
        "finish_reason": "stop",
    }
    return json.dumps({"model": "m", "choices": [choice | changes]})


def test_a_good_answer_is_read(url: str) -> None:
    """What the bad ones below differ from."""
    Handler.replies["/v1/completions"] = lambda _: (200, answer())
    ((_, completion),) = talk(url, complete)
    assert completion.token_ids == (5, 6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (answer(token_ids=None), "not an answer of /v1/completions"),
        (answer(token_ids=[5]), "1 token ids came with 2"),
        (answer(token_ids=["5", "6"]), "token ids that are none"),
        (answer(token_ids=[5, -1]), "token ids that are none"),
        (answer(token_ids=[5, True]), "token ids that are none"),
        (answer(logprobs={"token_logprobs": [-0.5, 0.1]}), "none is above 0"),
        (answer(prompt_token_ids=[2]), "other prompt ids"),
        (answer(logprobs=None), "not an answer of /v1/completions"),
        (answer(logprobs={"token_logprobs": [-0.5, None]}), "not an answer of /v1/completions"),
        (answer(logprobs={"token_logprobs": [-0.5, float("nan")]}), "not finite"),
        (answer(logprobs={"token_logprobs": [-0.5, float("-inf")]}), "not finite"),
        ("[]", "not an answer of /v1/completions"),
        ("null", "not an answer of /v1/completions"),
        ('{"model": "m", "choices": [3]}', "not an answer of /v1/completions"),
        ('{"model": "m", "choices": 3}', "not an answer of /v1/completions"),
        ("\x00\x01", "not JSON"),
        ("", "not JSON"),
    ],
)
def test_what_must_not_be_trained_on_is_an_error(url: str, text: str, message: str) -> None:
    Handler.replies["/v1/completions"] = lambda _: (200, text)
    with pytest.raises(ServingError, match=message):
        talk(url, complete)


@pytest.mark.parametrize(
    "text", ["null", "[]", "3", '"text"', "{}", '{"results": [3], "data": [3]}']
)
def test_an_update_that_is_answered_with_nonsense_is_an_error(url: str, text: str) -> None:
    for path in ("/collective_rpc", "/reset_prefix_cache"):
        Handler.replies[path] = lambda _: (200, text)
    with pytest.raises(ServingError, match="/collective_rpc"):
        talk(url, lambda client: client.sync_weights(Path("somewhere")))
    with pytest.raises(ServingError, match="/reset_prefix_cache"):
        talk(url, lambda client: client.reset_prefix_cache())
    Handler.replies["/v1/models"] = Handler.replies["/server_info"] = lambda _: (200, text)
    with pytest.raises(ServingError, match="/v1/models"):
        talk(url, lambda client: client.models())
    with pytest.raises(ServingError, match="/server_info"):
        talk(url, lambda client: client.config())


def test_the_key_does_not_follow_a_redirect(url: str) -> None:
    seen: list[object] = []
    Handler.replies["/v1/completions"] = lambda _: (307, "")
    Handler.location = f"{url}/elsewhere"
    Handler.replies["/elsewhere"] = lambda sent: (seen.append(sent), (200, "{}"))[1]
    with pytest.raises(ServingError, match="status 307"):
        talk(url, complete)
    assert seen == []


def test_a_connection_that_breaks_is_told_from_an_answer(url: str) -> None:
    def gone(_: object) -> Reply:
        raise ConnectionAbortedError

    Handler.replies["/v1/completions"] = gone
    with pytest.raises(LostError):
        talk(url, complete)
    Handler.replies["/v1/completions"] = lambda _: (500, "no")
    with pytest.raises(StatusError):
        talk(url, complete)


@pytest.mark.parametrize("url", ["unix:/no/such/socket", "unix:" + "x" * 200])
def test_a_socket_that_is_not_there_is_named(url: str) -> None:
    with pytest.raises(ServingError, match=url[:20]):
        talk(url, complete)


def test_a_server_that_does_not_answer_is_given_up(url: str) -> None:
    def late(_: object) -> Reply:
        time.sleep(1)
        return 200, "{}"

    Handler.replies["/v1/completions"] = late
    with pytest.raises(ServingError, match=r"no answer within 0\.2 s"):
        talk(url, complete, timeout=0.2)


def test_a_server_that_is_not_there_is_named() -> None:
    with pytest.raises(ServingError, match=r"127\.0\.0\.1:1/v1/completions"):
        talk("http://127.0.0.1:1", complete)


def test_a_prefix_cache_in_use_is_reset_again(url: str) -> None:
    """The server says 200 and ``success: false`` while a request still runs."""
    answers = [False, False, True]
    Handler.replies["/reset_prefix_cache"] = lambda _: (
        200,
        json.dumps({"success": answers.pop(0)}),
    )
    talk(url, lambda client: client.reset_prefix_cache())
    assert answers == []


def test_a_failed_sync_is_an_error_and_no_success(url: str) -> None:

    failed = {"results": [{"ok": False, "error": "no such tensor"}]}
    Handler.replies["/collective_rpc"] = lambda _: (200, json.dumps(failed))
    with pytest.raises(ServingError, match="no such tensor"):
        talk(url, lambda client: client.sync_weights(Path("somewhere")))


def test_a_server_without_development_routes_is_refused(url: str) -> None:
    with pytest.raises(ServingError, match="VLLM_SERVER_DEV_MODE=1"):
        talk(url, examine)


def test_a_server_with_other_flags_is_refused_with_all_of_them(url: str) -> None:
    config = {
        "model_config": {
            "logprobs_mode": "raw_logprobs",
            "generation_config": "auto",
            "max_model_len": 9,
        },
        "parallel_config": {"worker_extension_cls": ""},
    }
    Handler.replies["/server_info"] = lambda _: (200, json.dumps({"vllm_config": config}))
    with pytest.raises(ServingError) as caught:
        talk(url, examine)
    for flag in ("--logprobs-mode processed", "--generation-config vllm", "--worker-extension-cls"):
        assert flag in str(caught.value)

"""Talking to a vLLM server: completions, and the routes that change what it serves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import aiohttp

from fst_agents.errors import ServingError
from fst_agents.serving import completions
from fst_agents.serving.completions import Bundle
from fst_agents.serving.inbox import Request
from fst_agents.types import Completion

T = TypeVar("T")

EXTENSION = "fst_agents.serving.vllm_worker.SyncExtension"

_IDLE = 2.0
# Seconds after which we drop an idle connection: well before the server does (5 s), because a
# request sent while the server hangs up is lost.

_RESET_TRIES = 40
_RESET_PAUSE = 0.25
_SYNC_TIMEOUT = 600.0


class StatusError(ServingError):
    """The server answered, but refused. ``status`` is the HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class LostError(ServingError):
    """The connection broke, or there was none: the server may be gone."""


def connection(url: str, limit: int = 0) -> tuple[aiohttp.BaseConnector, str]:
    """How to connect to a server, and what its routes stand behind.

    ``url`` is ``unix:PATH`` or ``http(s)://…``; ``limit`` the most connections, 0 for any number.
    Call it inside the event loop that will use it.
    """
    if url.startswith("unix:"):
        path = url.removeprefix("unix:")
        return aiohttp.UnixConnector(path, limit=limit, keepalive_timeout=_IDLE), "http://vllm"
    return aiohttp.TCPConnector(limit=limit, keepalive_timeout=_IDLE), url.rstrip("/")


class LateError(ServingError):
    """No answer within the time limit: the server may hang."""


class VllmClient:
    """HTTP client of one server; lives in one event loop. ``timeout`` in seconds per request.

    ``url`` as in :func:`connection`. Redirects are not followed: the key goes to no other server.
    """

    def __init__(self, url: str, key: str | None, timeout: float) -> None:
        self.url = url.rstrip("/")
        self._headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self._timeout = timeout
        self._base = ""
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def complete(
        self, bundle: Bundle, model: str, version: int
    ) -> list[tuple[Request, Completion]]:
        """Sample a bundle from the served name ``model``."""
        answer = await self._call("POST", "/v1/completions", completions.body(bundle, model))
        return completions.read(answer, bundle, model, version)

    async def models(self) -> list[dict[str, Any]]:
        """The served models, base and adapters."""
        return _take("/v1/models", await self._call("GET", "/v1/models"), _models)

    async def config(self) -> dict[str, Any]:
        """The server's own configuration.

        Raises:
            ServingError: the server keeps its development routes shut.
        """
        try:
            answer = await self._call("GET", "/server_info?config_format=json")
        except StatusError as error:
            raise ServingError(
                f"{self.url}: the server does not open its development routes, without which "
                "weights cannot be updated; start it with VLLM_SERVER_DEV_MODE=1 and "
                f"--worker-extension-cls {EXTENSION}; it said: {error}"
            ) from error
        return _take("/server_info", answer, _config)

    async def sync_weights(self, folder: Path) -> None:
        """Load full weights in place and drop every cached prefix."""
        call = {"method": "sync_weights", "kwargs": {"path": str(folder)}}
        answer = await self._call("POST", "/collective_rpc", call, timeout=_SYNC_TIMEOUT)
        results = _take("/collective_rpc", answer, _results)
        failed = [error for ok, error in results if not ok]
        if failed or not results:
            raise ServingError(f"{folder}: the server could not load the weights: {failed}")
        await self.reset_prefix_cache()

    async def reset_prefix_cache(self) -> None:
        """Drop cached prefixes; the server answers 200 also where it did not."""
        for _ in range(_RESET_TRIES):
            answer = await self._call("POST", "/reset_prefix_cache")
            if _take("/reset_prefix_cache", answer, lambda a: bool(a["success"])):
                return
            await asyncio.sleep(_RESET_PAUSE)
        raise ServingError(
            f"{self.url}: the prefix cache is still in use; is another client there?"
        )

    async def load_adapter(self, name: str, folder: Path) -> None:
        adapter = {"lora_name": name, "lora_path": str(folder)}
        await self._call("POST", "/v1/load_lora_adapter", adapter)

    async def unload_adapter(self, name: str) -> None:
        await self._call("POST", "/v1/unload_lora_adapter", {"lora_name": name})

    async def _call(
        self,
        method: str,
        path: str,
        content: Mapping[str, Any] | None = None,
        timeout: float | None = None,
    ) -> Any:
        """Send, and return the JSON of the answer (the text where it is not meant to be JSON)."""
        if self._session is None:  # made here because it belongs to the running loop
            connector, self._base = connection(self.url)
            self._session = aiohttp.ClientSession(connector=connector, headers=self._headers)
        limit = aiohttp.ClientTimeout(total=self._timeout if timeout is None else timeout)
        try:
            async with self._session.request(
                method, self._base + path, json=content, timeout=limit, allow_redirects=False
            ) as answer:
                text = await answer.text(errors="replace")
                status, kind = answer.status, answer.content_type
        except TimeoutError as error:
            raise LateError(f"{path}: no answer within {limit.total} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise LostError(f"{self.url}{path}: {type(error).__name__}: {error}") from error
        if status != 200:
            raise StatusError(status, f"{path}: status {status}: {text[:300]}")
        return _json(path, text) if kind == "application/json" else text


def _json(path: str, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ServingError(f"{path}: not JSON ({error}): {text[:300]}") from error


def _take(path: str, answer: Any, what: Callable[[Any], T]) -> T:
    """What is wanted of an answer; :class:`ServingError` where it is of another form."""
    try:
        return what(answer)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ServingError(f"{path}: not its usual answer ({error!r}): {answer!r:.300}") from error


def _models(answer: Any) -> list[dict[str, Any]]:
    models = [{**model, "id": str(model["id"])} for model in answer["data"]]
    if all(model.get("parent") is not None for model in models):
        raise ValueError("no base model")
    return models


def _config(answer: Any) -> dict[str, Any]:
    """The sections that :func:`~fst_agents.serving.vllm_weights.examine` reads, checked."""
    config = answer["vllm_config"]
    model, parallel = config["model_config"], config["parallel_config"]
    for section, keys in (
        (model, ("logprobs_mode", "generation_config", "max_model_len")),
        (parallel, ("worker_extension_cls",)),
    ):
        missing = [key for key in keys if key not in section]
        if missing:
            raise KeyError(", ".join(missing))
    return {"model_config": model, "parallel_config": parallel}


def _results(answer: Any) -> list[tuple[bool, str]]:
    return [(bool(r["ok"]), str(r["error"])) for r in answer["results"]]

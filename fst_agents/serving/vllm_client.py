"""Talking to a vLLM server: completions, and the routes that change what it serves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp

from fst_agents.errors import ServingError
from fst_agents.serving import completions
from fst_agents.serving.completions import Bundle
from fst_agents.serving.inbox import Request
from fst_agents.types import Completion

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


class VllmClient:
    """HTTP client of one server; lives in one event loop. ``timeout`` in seconds per request."""

    def __init__(self, url: str, key: str | None, timeout: float) -> None:
        self.url = url.rstrip("/")
        self._headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self._timeout = timeout
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
        return (await self._call("GET", "/v1/models"))["data"]

    async def config(self) -> dict[str, Any]:
        """The server's own configuration.

        Raises:
            ServingError: the server keeps its development routes shut.
        """
        try:
            return (await self._call("GET", "/server_info?config_format=json"))["vllm_config"]
        except StatusError as error:
            raise ServingError(
                f"{self.url}: the server does not open its development routes, without which "
                "weights cannot be updated; start it with VLLM_SERVER_DEV_MODE=1 and "
                f"--worker-extension-cls {EXTENSION}; it said: {error}"
            ) from error

    async def sync_weights(self, folder: Path) -> None:
        """Load full weights in place and drop every cached prefix."""
        call = {"method": "sync_weights", "kwargs": {"path": str(folder)}}
        answer = await self._call("POST", "/collective_rpc", call, timeout=_SYNC_TIMEOUT)
        failed = [r["error"] for r in answer["results"] if not r["ok"]]
        if failed or not answer["results"]:
            raise ServingError(f"{folder}: the server could not load the weights: {failed}")
        await self.reset_prefix_cache()

    async def reset_prefix_cache(self) -> None:
        """Drop cached prefixes; the server answers 200 also where it did not."""
        for _ in range(_RESET_TRIES):
            if (await self._call("POST", "/reset_prefix_cache"))["success"]:
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
            connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_IDLE)
            self._session = aiohttp.ClientSession(connector=connector, headers=self._headers)
        limit = aiohttp.ClientTimeout(total=self._timeout if timeout is None else timeout)
        try:
            async with self._session.request(
                method, self.url + path, json=content, timeout=limit
            ) as answer:
                text = await answer.text(errors="replace")
                status, kind = answer.status, answer.content_type
        except TimeoutError as error:
            raise ServingError(f"{path}: no answer within {limit.total} s") from error
        except aiohttp.ClientError as error:
            raise ServingError(f"{self.url}{path}: {type(error).__name__}: {error}") from error
        if status != 200:
            raise StatusError(status, f"{path}: status {status}: {text[:300]}")
        return _json(path, text) if kind == "application/json" else text


def _json(path: str, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ServingError(f"{path}: not JSON ({error}): {text[:300]}") from error

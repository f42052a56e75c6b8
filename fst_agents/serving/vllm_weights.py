"""What a vLLM server serves now, and how it comes to serve something else."""

from __future__ import annotations

import logging
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fst_agents.errors import ServingError
from fst_agents.serving.completions import Bundle
from fst_agents.serving.inbox import Request
from fst_agents.serving.vllm_client import EXTENSION, VllmClient
from fst_agents.types import Policy, Sampling


@dataclass(frozen=True, slots=True)
class Served:
    """The server's state. ``folder`` has the full weights that are loaded, ``None`` if unknown.

    ``name`` is what requests ask for: the base model's name or that of an adapter.
    """

    folder: Path | None
    name: str


class ServedWeights:
    """Moves one server from policy to policy; nothing may be in flight meanwhile.

    An adapter gets a fresh name each time, so that neither its weights nor its cached prefixes
    can be those of an older one. Full weights are loaded in place. If a move fails, the state
    before it is restored; if that fails too, ``broken`` says so and every later use raises it.
    """

    def __init__(self, client: VllmClient, base: Path, name: str, *, fresh: bool) -> None:
        self._client = client
        self._base, self._base_name = base, name
        self._prefix = f"{name}-{secrets.token_hex(3)}"
        self._moves = 0
        self._served = Served(base if fresh else None, name)
        self.broken: str | None = None

    @property
    def name(self) -> str:
        """The model name that requests ask for.

        Raises:
            ServingError: the server's weights are undefined since a failed update.
        """
        if self.broken is not None:
            raise ServingError(self.broken)
        return self._served.name

    async def serve(self, policy: Policy) -> None:
        """Load what ``policy`` needs, check that it answers, drop what it replaces."""
        former, name = self._served, self.name
        target = self._base if policy.weights is None else policy.weights.resolve()
        # A folder of our own making may have been written anew under the same name.
        reload = policy.weights is not None or former.folder != target
        try:
            if reload:
                await self._client.sync_weights(target)
            self._served = Served(target, await self._add(policy))
            await self._probe()
        except ServingError as error:
            self._served = former
            if reload:
                await self._restore(former, error)
            raise
        if name != self._base_name:
            await self._drop(name)

    async def _drop(self, name: str) -> None:
        """Unload an adapter that nobody asks for any more. What is served does not depend on it,
        and its name is never used again: a failure is no reason to call the move failed."""
        try:
            await self._client.unload_adapter(name)
        except ServingError as error:
            logging.getLogger(__name__).warning(
                "the adapter %s stays in the server's memory: it could not be unloaded: %s",
                name,
                error,
            )

    async def _add(self, policy: Policy) -> str:
        """Load the policy's adapter, if it has one; the name to ask for from now on."""
        if policy.adapter is None:
            return self._base_name
        self._moves += 1
        name = f"{self._prefix}-v{policy.version}-{self._moves}"
        await self._client.load_adapter(name, policy.adapter.resolve())
        return name

    async def _probe(self) -> None:
        """One token: a server whose engine is gone may still call itself healthy."""
        request = Request((1,), Sampling(max_tokens=1))
        await self._client.complete(Bundle(request.sampling, 1, ((request,),)), self.name, 0)

    async def _restore(self, former: Served, error: ServingError) -> None:
        try:
            if former.folder is None:
                raise ServingError("what it had loaded before is not known")
            await self._client.sync_weights(former.folder)
        except ServingError as second:
            self.broken = (
                f"the server's weights are undefined since an update failed ({error}) and could "
                f"not be undone ({second}); start the server anew"
            )


async def examine(client: VllmClient) -> tuple[str, int]:
    """Base model's name and context length of a server that somebody else started.

    Raises:
        ServingError: naming every flag the server lacks: without them log-probabilities or
            updates would be wrong.
    """
    config = await client.config()
    lacking = _lacking(config["model_config"], config["parallel_config"])
    if lacking:
        raise ServingError(f"{client.url}: start this server with {' and '.join(lacking)}")
    names = [m["id"] for m in await client.models() if m.get("parent") is None]
    return names[0], config["model_config"]["max_model_len"]


def _lacking(model: dict[str, Any], parallel: dict[str, Any]) -> list[str]:
    lacking: list[str] = []
    if model["logprobs_mode"] != "processed_logprobs":
        lacking.append("--logprobs-mode processed_logprobs")
    if model["generation_config"] != "vllm":
        lacking.append("--generation-config vllm")
    if parallel["worker_extension_cls"] != EXTENSION:
        lacking.append(f"--worker-extension-cls {EXTENSION}")
    return lacking

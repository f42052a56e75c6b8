"""What our server serves, beyond its death: it is started again once and given what it had.

A server may call itself healthy while its engine is gone or hangs, and needs a moment to end after
that. So a failure of the kind that a death causes only raises a suspicion, which is settled by one
token, by the end of the process, or by :data:`PATIENCE`. Whatever kills a server twice in one run
would do so again: the second death is final.
"""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path

from fst_agents.errors import ServingError
from fst_agents.serving.completions import Bundle
from fst_agents.serving.inbox import Request
from fst_agents.serving.vllm_client import LateError, LostError, StatusError, VllmClient
from fst_agents.serving.vllm_process import VllmServer
from fst_agents.serving.vllm_weights import ServedWeights
from fst_agents.types import Policy, Sampling

PATIENCE = 30.0
"""Seconds within which a server under suspicion has to give a token, or to end."""

_PAUSE = 0.2


class LastingWeights:
    """:class:`~fst_agents.serving.vllm_weights.ServedWeights` of a server that may die.

    ``server`` is ``None`` where it is not ours to restart. ``flying`` are the requests in flight,
    kept up by the caller; none of them may reach the new server, whose weights differ at first.
    """

    def __init__(
        self,
        client: VllmClient,
        base: Path,
        name: str,
        server: VllmServer | None,
        flying: set[asyncio.Task[None]],
    ) -> None:
        self._client, self._server, self._flying = client, server, flying
        self._base, self._base_name = base, name
        self._weights = ServedWeights(client, base, name, fresh=server is not None)
        self._policy: Policy | None = None
        self._suspected = False
        self._restarted = False
        self._lost: str | None = None

    @property
    def name(self) -> str:
        """The model name that requests ask for.

        Raises:
            ServingError: there is nothing to ask: the server is dead for good, or its weights are
                undefined since a failed update.
        """
        if self._lost is not None:
            raise ServingError(self._lost)
        return self._weights.name

    def note(self, error: Exception) -> None:
        """Take a failed request into account."""
        broken = isinstance(error, StatusError) and error.status >= 500
        if broken or isinstance(error, LostError | LateError):
            self._suspected = True

    async def serve(self, policy: Policy) -> None:
        """Serve another policy; nothing may be in flight meanwhile.

        Raises:
            ServingError: it could not be loaded (what was served before still is), or the server
                is dead for good.
        """
        try:
            await self._move(policy)
        except ServingError as error:
            self.note(error)
            if not await self.mend():
                if self._lost is not None:
                    raise ServingError(self._lost) from error
                raise
            await self._move(policy)
        self._policy = policy

    async def mend(self) -> bool:
        """Restart our server if it is dead; whether that was done. Asks it only under suspicion."""
        server = self._server
        if server is None or self._lost is not None or not await self._dead(server):
            return False
        death = server.death() or f"the vLLM server gives no tokens; see {server.log}"
        self._lost = "the vLLM server is dead"  # for those in flight, until it is back
        try:
            await asyncio.to_thread(server.end)
            if self._flying:
                await asyncio.wait(self._flying)
            await self._restart(server, death)
        except Exception as error:  # noqa: BLE001 - told to whoever asks from now on
            self._lost = str(error)
            return False
        return True

    async def _move(self, policy: Policy) -> None:
        if self._lost is not None:
            raise ServingError(self._lost)
        await self._weights.serve(policy)

    async def _dead(self, server: VllmServer) -> bool:
        if server.running and not self._suspected:
            return False
        deadline = time.monotonic() + PATIENCE
        while server.running and time.monotonic() < deadline:
            try:
                async with asyncio.timeout(PATIENCE):
                    await self._probe()
            except (ServingError, TimeoutError):
                await asyncio.sleep(_PAUSE)
            else:
                self._suspected = False
                return False
        return True

    async def _probe(self) -> None:
        """One token of the base model."""
        request = Request((1,), Sampling(max_tokens=1))
        bundle = Bundle(request.sampling, 1, ((request,),))
        await self._client.complete(bundle, self._base_name, 0)

    async def _restart(self, server: VllmServer, death: str) -> None:
        if self._restarted:
            raise ServingError(
                f"the vLLM server died a second time in this run, and is restarted only once: "
                f"{death}"
            )
        self._restarted = True
        log = logging.getLogger(__name__)
        log.warning("%s\nit is restarted, this once; its log goes on in %s", death, server.log)
        started = time.monotonic()
        await asyncio.to_thread(server.begin)
        weights = ServedWeights(self._client, self._base, self._base_name, fresh=True)
        if self._policy is not None:
            await weights.serve(self._policy)
        self._weights, self._lost, self._suspected = weights, None, False
        log.warning("the vLLM server serves again after %.0f s", time.monotonic() - started)

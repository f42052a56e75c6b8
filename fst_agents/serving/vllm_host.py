"""The policy on a vLLM server: one we start and guard, or one that is there already."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

from fst_agents.errors import ServingError
from fst_agents.serving import completions, inbox, weights
from fst_agents.serving.completions import Bundle
from fst_agents.serving.inbox import Request, Swap
from fst_agents.serving.tokenizer import HfChatTokenizer
from fst_agents.serving.vllm_client import StatusError, VllmClient
from fst_agents.serving.vllm_process import VllmServer
from fst_agents.serving.vllm_revival import LastingWeights
from fst_agents.serving.vllm_settings import ServerSettings
from fst_agents.serving.vllm_weights import examine
from fst_agents.types import Completion, Policy, Sampling

T = TypeVar("T")

QUIET = 0.001
"""Seconds without a newcomer after which what waits is sent."""

PATIENCE = 10
"""Most such waits before what waits is sent anyway."""


class VllmHost:
    """Samples over HTTP from a thread with an event loop of its own.

    Made by :meth:`start` or :meth:`attach`. What waits at the same time is merged into few HTTP
    requests (:func:`~fst_agents.serving.completions.bundle`). Requests and swaps stand in one
    queue; a swap waits for the answers to everything before it, and holds everything after it.

    If a server of ours dies, what is in flight fails with :class:`ServingError`, and the rest waits
    while it is started again and given the policy it had; a second death is final
    (:mod:`fst_agents.serving.vllm_revival`).

    An adapter's folder must stay until the update after the next one has returned. On closing, an
    attached server goes on with the weights it has.
    """

    name = "vllm"

    def __init__(
        self,
        policy: Policy,
        client: VllmClient,
        tokenizer: HfChatTokenizer,
        server: VllmServer | None,
    ) -> None:
        self.tokenizer = tokenizer
        self.server = server
        self._client = client
        self._policy = Policy(policy.model)
        self._closed = False
        self._failed: str | None = None
        self._lock = threading.Lock()
        self._waiting: deque[Request | Swap] = deque()
        self._awake = asyncio.Event()
        self._flying: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="fst-vllm-host", daemon=True)
        self._thread.start()
        try:
            name, self.context_length = self._await(self._meet())
            base = weights.model_folder(policy.model)
            self._weights = LastingWeights(client, base, name, server, self._flying)
            self.update(policy)
        except BaseException:
            self.close()
            raise

    @classmethod
    def start(
        cls, policy: Policy, settings: ServerSettings, *, request_timeout: float = 120.0
    ) -> VllmHost:
        """Start a server and serve ``policy`` on it; ``settings.model`` is its base model.

        Raises:
            ServingError: the server did not come up, or the policy cannot be served.
        """
        tokenizer = HfChatTokenizer(policy.model, settings.trust_remote_code)
        weights.check(policy)
        server = VllmServer(settings)
        client = VllmClient(server.url, server.key, request_timeout)
        return cls(policy, client, tokenizer, server)

    @classmethod
    def attach(
        cls,
        url: str,
        policy: Policy,
        *,
        api_key: str | None = None,
        request_timeout: float = 120.0,
        trust_remote_code: bool = False,
    ) -> VllmHost:
        """Serve ``policy`` on a server that runs already; it must be able to read our folders.

        Raises:
            ServingError: no such server, or one that lacks what updates need.
        """
        tokenizer = HfChatTokenizer(policy.model, trust_remote_code)
        weights.check(policy)
        return cls(policy, VllmClient(url, api_key, request_timeout), tokenizer, None)

    @property
    def policy(self) -> Policy:
        return self._policy

    def rollouts(
        self, jobs: int, at_once: int, label: str
    ) -> AbstractContextManager[Callable[[], None]]:
        """Nothing to prepare for them."""
        return nullcontext(lambda: None)

    def submit(
        self, prompt_ids: Sequence[int], sampling: Sampling, order: tuple[int, ...] = ()
    ) -> Future[Completion]:
        new = inbox.request(prompt_ids, sampling, self.context_length, order)
        if not new.future.done() and not self._enqueue(new):
            inbox.fail([new], self._refusal)
        return new.future

    def update(self, policy: Policy) -> None:
        """Serve other weights once everything submitted before is answered."""
        if policy.model != self._policy.model:
            raise ServingError(
                f"the server has {self._policy.model}, not {policy.model}; a host keeps its model"
            )
        weights.check(policy)
        swap = Swap(policy)
        if not self._enqueue(swap):
            raise ServingError(self._refusal)
        swap.done.result()

    def close(self) -> None:
        """Fail what is unanswered, and stop the server if it is ours. Idempotent."""
        with self._lock:
            first, self._closed = not self._closed, True
        if first:
            self._await(self._shut())
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        if self.server is not None:
            self.server.stop()

    def _enqueue(self, item: Request | Swap) -> bool:
        with self._lock:
            if self._closed or self._failed is not None:
                return False
            self._waiting.append(item)
            if len(self._waiting) == 1:
                self._loop.call_soon_threadsafe(self._awake.set)
        return True

    def _await(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _run(self) -> None:
        """The thread: dispatch until stopped."""
        asyncio.set_event_loop(self._loop)
        dispatcher = self._loop.create_task(self._dispatch())
        self._loop.run_forever()
        dispatcher.cancel()
        self._loop.run_until_complete(asyncio.gather(dispatcher, return_exceptions=True))
        self._loop.close()

    @property
    def _refusal(self) -> str:
        """Why nothing is taken any more."""
        return "the host is closed" if self._failed is None else self._failed

    async def _dispatch(self) -> None:
        """Until stopped. What nobody foresaw is told to all that waits: it must never hang."""
        taken: list[Request | Swap] = []
        try:
            while True:
                await self._awake.wait()
                await self._gather_more()
                await self._weights.mend()
                batch, swap = self._take()
                taken = [*batch] if swap is None else [*batch, swap]
                self._send(batch)
                if swap is not None:
                    await self._swap(swap)
                taken = []
        except Exception as error:  # noqa: BLE001 - this task has no caller to tell
            with self._lock:
                self._failed = f"the vLLM host serves no more since an error of its own: {error!r}"
            _refuse([*taken, *self._empty()], self._failed, error)

    def _empty(self) -> list[Request | Swap]:
        """All that waits, taken out of the queue."""
        with self._lock:
            left = list(self._waiting)
            self._waiting.clear()
        return left

    def _take(self) -> tuple[list[Request], Swap | None]:
        """What waits, up to and with the first swap."""
        batch: list[Request] = []
        with self._lock:
            while self._waiting:
                item = self._waiting.popleft()
                if isinstance(item, Swap):
                    return batch, item
                if item.future.set_running_or_notify_cancel():
                    batch.append(item)
            self._awake.clear()
        return batch, None

    async def _gather_more(self) -> None:
        """Let a crowd finish arriving, so that it can share requests."""
        before = 0
        for _ in range(PATIENCE):
            if len(self._waiting) == before:
                return
            before = len(self._waiting)
            await asyncio.sleep(QUIET)

    def _send(self, batch: list[Request]) -> None:
        for bundle in completions.bundle(batch):
            task = self._loop.create_task(self._answer(bundle))
            self._flying.add(task)
            task.add_done_callback(self._flying.discard)

    async def _answer(self, bundle: Bundle) -> None:
        try:
            version = self._policy.version
            answers = await self._client.complete(bundle, self._weights.name, version)
        except StatusError as error:
            if error.status < 500 and len(bundle.callers) > 1:  # one bad prompt spoils no other
                await asyncio.gather(*map(self._answer, bundle.singles()))
            else:
                self._fail(bundle, error)
        except asyncio.CancelledError:
            inbox.fail(bundle.requests, "the host was closed before the completion came")
            raise
        except Exception as error:  # noqa: BLE001 - a future must never be left hanging
            self._fail(bundle, error)
        else:
            for request, completion in answers:
                request.future.set_result(completion)

    def _fail(self, bundle: Bundle, error: Exception) -> None:
        self._weights.note(error)
        message = str(error) if isinstance(error, ServingError) else repr(error)
        inbox.fail(bundle.requests, message, error)

    async def _swap(self, swap: Swap) -> None:
        try:
            if self._flying:
                await asyncio.wait(self._flying)
            await self._weights.serve(swap.policy)
        except asyncio.CancelledError:
            swap.done.set_exception(ServingError("the host was closed during the update"))
            raise
        except Exception as error:  # noqa: BLE001 - belongs to the caller of update
            swap.done.set_exception(error)
        else:
            self._policy = swap.policy
            swap.done.set_result(None)

    async def _meet(self) -> tuple[str, int]:
        """Served name and context length of the base model."""
        if self.server is None:
            return await examine(self._client)
        lengths = {m["id"]: m["max_model_len"] for m in await self._client.models()}
        if self.server.name not in lengths:
            raise ServingError(f"{self._client.url} is another server: it has {list(lengths)}")
        return self.server.name, lengths[self.server.name]

    async def _shut(self) -> None:
        _refuse(self._empty(), "the host is closed")
        for task in self._flying:
            task.cancel()
        await asyncio.gather(*self._flying, return_exceptions=True)
        await self._client.close()


def _refuse(items: Sequence[Request | Swap], message: str, cause: Exception | None = None) -> None:
    """Fail requests and swaps that are not answered yet, each with an error of its own."""
    inbox.fail((i for i in items if isinstance(i, Request)), message, cause)
    for swap in (i for i in items if isinstance(i, Swap) and not i.done.done()):
        error = ServingError(message)
        error.__cause__ = cause
        swap.done.set_exception(error)

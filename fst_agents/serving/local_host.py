"""The policy inside this process, on transformers: for CPUs, tests and GPUs without vLLM."""

from __future__ import annotations

import contextlib
import math
import random
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from typing import Any

import torch

from fst_agents.errors import ServingError
from fst_agents.serving import inbox
from fst_agents.serving.gathering import Gathering
from fst_agents.serving.inbox import Request, Swap
from fst_agents.serving.local_model import Loader
from fst_agents.serving.sampler import Row, sample
from fst_agents.serving.tokenizer import HfChatTokenizer
from fst_agents.types import Completion, Policy, Sampling

_STOP = object()


class LocalHost:
    """Samples in one worker thread; requests that wait at the same time share a batch.

    Requests and weight swaps stand in one queue, so a swap sees the host drained by construction.
    Announced rollouts (:meth:`rollouts`) fall into the same batches every time and are drawn with
    a generator seeded by ``seed``, the policy's version and their label: on a CPU, with a fixed
    number of ``threads``, equal runs are equal to the bit. ``request_timeout`` (seconds) bounds
    the sampling of a batch, checked between tokens; waiting for earlier batches does not count. A
    swap loads the new model beside the old one, so for a moment there are two in memory; on a CPU
    the base of an adapter stays there, too.

    Raises:
        ServingError: the policy cannot be loaded, or its tokenizer has no chat template.
    """

    name = "local"

    def __init__(
        self,
        policy: Policy,
        *,
        dtype: str = "float32",
        max_batch: int = 256,
        request_timeout: float = 120.0,
        seed: int = 0,
        trust_remote_code: bool = False,
        threads: int | None = None,
    ) -> None:
        self.tokenizer = HfChatTokenizer(policy.model, trust_remote_code)
        self._loader = Loader(dtype, trust_remote_code)
        self._threads = threads
        self._timeout = request_timeout
        self._policy = policy
        self._model: Any = self._loader.load(policy)
        self._generator = torch.Generator(self._model.device).manual_seed(seed)
        text = self._model.config.get_text_config()
        self.context_length: int = text.max_position_embeddings
        self._seed = seed
        self._queue = Gathering(max_batch)
        self._lock = threading.Lock()
        self._closed = False
        self._worker = threading.Thread(target=self._work, name="fst-local-host", daemon=True)
        self._worker.start()

    @property
    def policy(self) -> Policy:
        return self._policy

    @contextlib.contextmanager
    def rollouts(self, jobs: int, at_once: int, label: str) -> Generator[Callable[[], None]]:
        """See :class:`~fst_agents.serving.host.PolicyHost`; nothing else may be in flight."""
        key = f"{self._seed}/{self._policy.version}/{label}"
        self._generator.manual_seed(random.Random(key).getrandbits(63))
        self._queue.announce(jobs, at_once)
        try:
            yield self._queue.ended
        finally:
            self._queue.announce(0, 0)

    def submit(
        self, prompt_ids: Sequence[int], sampling: Sampling, order: tuple[int, ...] = ()
    ) -> Future[Completion]:
        new = inbox.request(prompt_ids, sampling, self.context_length, order)
        if not new.future.done():
            with self._lock:
                if self._closed:
                    inbox.fail([new], "the host is closed")
                else:
                    self._queue.put(new)
        return new.future

    def update(self, policy: Policy) -> None:
        """Serve other weights once everything submitted before is answered."""
        swap = Swap(policy)
        with self._lock:
            if self._closed:
                raise ServingError("the host is closed")
            self._queue.put(swap)
        swap.done.result()

    def close(self) -> None:
        """Answer what was submitted, then stop. Idempotent."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._queue.put(_STOP)
        self._worker.join()

    def _work(self) -> None:
        """Take batches from the queue until told to stop."""
        if self._threads is not None:
            torch.set_num_threads(self._threads)  # holds for this thread only
        while True:
            batch, then = self._queue.take()
            for group in _by_sampling(batch):
                self._serve(group)
            if isinstance(then, Swap):
                self._swap(then)
            elif then is _STOP:
                self._model = None
                return

    def _serve(self, group: list[Request]) -> None:
        try:
            rows = sample(
                self._model,
                [r.prompt_ids for r in group],
                group[0].sampling,
                eos_token_ids=self.tokenizer.eos_token_ids,
                decode=self.tokenizer.decode,
                generator=self._generator,
                deadline=time.monotonic() + self._timeout,
            )
        except Exception as error:  # noqa: BLE001 - the thread outlives any batch
            inbox.fail(group, f"sampling failed: {type(error).__name__}: {error}", error)
            return
        for item, row in zip(group, rows, strict=True):
            self._answer(item, row)

    def _answer(self, item: Request, row: Row) -> None:
        if row.finish_reason is None:
            inbox.fail([item], f"no completion within {self._timeout} s (serve.request_timeout)")
        elif not all(map(math.isfinite, row.logprobs)):
            inbox.fail([item], "the model gave log-probabilities that are not finite")
        else:
            item.future.set_result(
                Completion(
                    tuple(row.token_ids),
                    tuple(row.logprobs),
                    row.finish_reason,
                    self._policy.version,
                )
            )

    def _swap(self, swap: Swap) -> None:
        try:
            self._model = self._loader.load(swap.policy)
            self._policy = swap.policy
        except Exception as error:  # noqa: BLE001 - belongs to the caller of update
            swap.done.set_exception(error)
        else:
            swap.done.set_result(None)


def _by_sampling(batch: list[Request]) -> list[list[Request]]:
    """Requests grouped by equal sampling, in order of arrival."""
    groups: dict[Sampling, list[Request]] = {}
    for item in batch:
        groups.setdefault(item.sampling, []).append(item)
    return list(groups.values())

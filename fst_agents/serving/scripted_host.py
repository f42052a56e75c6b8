"""A policy that answers from a function: for tests, examples and dry runs. No model, no torch."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from fst_agents.errors import ServingError
from fst_agents.serving.inbox import Request, request
from fst_agents.types import Completion, Policy, Sampling

Script = Callable[[str, Sampling, random.Random], str]

EOS = 256
"""Id of the end-of-sequence token; ids below it are bytes of UTF-8."""


class ByteTokenizer:
    """One token per byte of UTF-8, and :data:`EOS`."""

    eos_token_ids: tuple[int, ...] = (EOS,)

    def render(self, messages: Sequence[Mapping[str, Any]]) -> tuple[int, ...]:
        """Bytes of the messages, each under a line ``<role>``; ends with ``<assistant>``."""
        turns = [f"<{m['role']}>\n{m['content']}\n" for m in messages]
        return tuple("".join([*turns, "<assistant>\n"]).encode())

    def decode(self, token_ids: Sequence[int]) -> str:
        return bytes(i for i in token_ids if i < EOS).decode(errors="replace")


class ScriptedHost:
    """Answers every request with ``script(prompt_text, sampling, rng)``.

    Completions are the bytes of the answer and :data:`EOS`, cut at ``max_tokens`` (finish reason
    ``"length"``); each token has the log-probability ``logprob``. Answers depend on ``seed`` and
    the order of the requests alone. A script that raises fails the future with
    :class:`~fst_agents.errors.ServingError`. ``updates`` holds every policy ever served.
    """

    name = "scripted"

    def __init__(
        self,
        script: Script,
        *,
        policy: Policy | None = None,
        seed: int = 0,
        logprob: float = -0.1,
        context_length: int = 32768,
    ) -> None:
        self.tokenizer = ByteTokenizer()
        self.context_length = context_length
        self.updates: list[Policy] = [Policy("scripted") if policy is None else policy]
        self._script, self._logprob = script, logprob
        self._seed, self._label = seed, ""
        self._rng = random.Random(seed)
        self._lock = threading.Lock()
        self._closed = False

    @property
    def policy(self) -> Policy:
        return self.updates[-1]

    def rollouts(
        self, jobs: int, at_once: int, label: str
    ) -> AbstractContextManager[Callable[[], None]]:
        self._label = label
        return nullcontext(lambda: None)

    def submit(
        self, prompt_ids: Sequence[int], sampling: Sampling, order: tuple[int, ...] = ()
    ) -> Future[Completion]:
        """Answer at once; the future is done when it is returned."""
        new = request(prompt_ids, sampling, self.context_length, order)
        if new.future.done():
            return new.future
        with self._lock:
            try:
                new.future.set_result(self._answer(new))
            except Exception as error:  # noqa: BLE001 - the script is the caller's
                failure = ServingError(f"the script failed: {type(error).__name__}: {error}")
                failure.__cause__ = error
                new.future.set_exception(failure)
        return new.future

    def update(self, policy: Policy) -> None:
        with self._lock:
            self._refuse_closed()
            self.updates.append(policy)

    def close(self) -> None:
        self._closed = True

    def _answer(self, new: Request) -> Completion:
        self._refuse_closed()
        rng, sampling = self._rng, new.sampling
        if new.order:
            rng = random.Random(f"{self._seed}/{self.policy.version}/{self._label}/{new.order}")
        text = self._script(self.tokenizer.decode(new.prompt_ids), sampling, rng)
        ids = (*text.encode(), EOS)
        cut = ids[: sampling.max_tokens]
        reason = "stop" if cut == ids else "length"
        return Completion(cut, (self._logprob,) * len(cut), reason, self.policy.version)

    def _refuse_closed(self) -> None:
        if self._closed:
            raise ServingError("the host is closed")

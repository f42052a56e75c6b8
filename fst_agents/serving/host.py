"""The one interface behind which a policy is served, whoever samples.

A host owns a policy and samples completions from it, token ids in, token ids out. It never
mixes versions: :meth:`PolicyHost.update` waits until nothing is in flight, swaps the weights,
drops every cached prefix, and only then lets new requests pass. Each completion carries the
version that sampled it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from typing import Any, Protocol

from fst_agents.types import Completion, Policy, Sampling


class ChatTokenizer(Protocol):
    """Turns messages into prompt ids and completion ids into text; the same for every host."""

    def render(self, messages: Sequence[Mapping[str, Any]]) -> tuple[int, ...]:
        """Prompt ids of a conversation under the model's chat template, generation prompt on."""
        ...

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of completion ids, special tokens left out."""
        ...


class PolicyHost(Protocol):
    """Serves one policy. Safe to call from many threads."""

    @property
    def name(self) -> str:
        """``"local"``, ``"vllm"`` or ``"scripted"``."""
        ...

    @property
    def policy(self) -> Policy:
        """The policy being served, version included."""
        ...

    @property
    def tokenizer(self) -> ChatTokenizer: ...

    @property
    def context_length(self) -> int:
        """Most tokens (prompt and completion together) that one request may have."""
        ...

    def rollouts(
        self, jobs: int, at_once: int, label: str
    ) -> AbstractContextManager[Callable[[], None]]:
        """Announce ``jobs`` rollouts, ``at_once`` of them at the same time, one at a time.

        Yields what is to be called whenever one of them has ended. A host that can makes equal
        labels, weights and requests give equal completions; to others it means nothing.
        """
        ...

    def submit(
        self, prompt_ids: Sequence[int], sampling: Sampling, order: tuple[int, ...] = ()
    ) -> Future[Completion]:
        """Ask for one completion. The future fails with :class:`ServingError`, never hangs.

        ``order`` is the number of the announced rollout that asks, and of its request.


        Identical concurrent requests are different samples; a host may merge them into one
        request for several samples.
        """
        ...

    def update(self, policy: Policy) -> None:
        """Serve other weights: drain, swap, drop cached prefixes, resume.

        Raises:
            ServingError: the weights cannot be read (the old ones stay served), or the server
                died.
        """
        ...

    def close(self) -> None:
        """Stop serving and everything that was started for it. Idempotent."""
        ...

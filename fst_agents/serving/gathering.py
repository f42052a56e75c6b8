"""Which waiting requests make up the next batch of an in-process host.

While rollouts are announced, a batch is complete when every rollout under way waits for a
completion. The same rollouts then fall into the same batches however the threads are scheduled,
so that equal seeds give equal runs, and the batches are as large as they can be. Without an
announcement a batch is what arrives until nothing has arrived for a moment.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from typing import Any

from fst_agents.serving.inbox import Request

_log = logging.getLogger(__name__)

QUIET = 0.003
"""Seconds without a newcomer after which a batch of unannounced requests is sampled."""

PATIENCE = 1.0
"""Seconds that a batch of announced rollouts waits for those that have not asked yet."""

TRIES = 3
"""Times that patience may run out before the host gives it up: the program waits on other things
(tools, a retriever, other models), and batches are up to their timing."""


class Gathering:
    """A queue of requests, and of other things that take their turn between them.

    Everything before a thing that is no request is answered before it, everything after it later.
    """

    def __init__(self, max_batch: int) -> None:
        self._max_batch = max_batch
        self._items: deque[Any] = deque()
        self._changed = threading.Condition()
        self._jobs, self._at_once, self._ended = 0, 0, 0
        self._impatience = 0

    def put(self, item: object) -> None:
        with self._changed:
            self._items.append(item)
            self._changed.notify_all()

    def announce(self, jobs: int, at_once: int) -> None:
        """So many rollouts are to come, so many of them at the same time; 0 ends it."""
        with self._changed:
            self._jobs, self._at_once, self._ended = jobs, at_once, 0
            self._changed.notify_all()

    def ended(self) -> None:
        """One of the announced rollouts has come to its end."""
        with self._changed:
            self._ended += 1
            self._changed.notify_all()

    def take(self) -> tuple[list[Request], object | None]:
        """Wait for a batch, in the order of the rollouts, or for the next thing that is no request.

        Requests whose caller has given up are left out; a batch may be empty.
        """
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._items)
                if not isinstance(self._items[0], Request):
                    return [], self._items.popleft()
                if self._complete() or not self._wait():
                    return self._batch(), None

    def _wait(self) -> bool:
        """Whether something changed before patience ran out."""
        patience = QUIET if not self._lockstep else PATIENCE
        seen = (len(self._items), self._ended, self._jobs)
        started = time.monotonic()
        while (left := started + patience - time.monotonic()) > 0:
            if self._changed.wait(left) and seen != (len(self._items), self._ended, self._jobs):
                return True
        if self._lockstep:
            self._impatience += 1
            _log.warning(
                "a batch went without rollouts that asked for nothing within %g s (a machine under "
                "heavy load, or a program that waits on other things): this run may differ from "
                "others of its seed",
                PATIENCE,
            )
            if not self._lockstep:
                _log.warning(
                    "the program waits on other things than the policy: its rollouts no longer "
                    "share batches in lockstep, and equal seeds do not give equal runs"
                )
        return False

    @property
    def _lockstep(self) -> bool:
        return self._jobs > 0 and self._impatience < TRIES

    def _complete(self) -> bool:
        waiting = self._waiting()
        if len(waiting) >= self._max_batch or len(waiting) < len(self._items):
            return True
        if not self._lockstep:
            return False
        rollouts = {request.order[0] for request in waiting if request.order}
        return len(rollouts) >= min(self._at_once, self._jobs - self._ended)

    def _waiting(self) -> list[Request]:
        """The requests up to the first thing that is none."""
        found: list[Request] = []
        for item in self._items:
            if not isinstance(item, Request):
                break
            found.append(item)
        return found

    def _batch(self) -> list[Request]:
        waiting = sorted(self._waiting(), key=lambda request: request.order)
        batch = waiting[: self._max_batch]
        taken = set(map(id, batch))
        self._items = deque(item for item in self._items if id(item) not in taken)
        return [r for r in batch if r.future.set_running_or_notify_cancel()]

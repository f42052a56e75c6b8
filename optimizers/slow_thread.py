"""A trainer that wants to own the loop, driven step by step by a caller that owns it.

The trainer's loop runs in a thread of its own, as the consumer. It parks in :meth:`Desk.exchange`
until :meth:`TrainerThread.step` hands it a batch; the caller is blocked meanwhile and gets the
step's numbers when the trainer has parked again. So the weights never move while the caller looks
at them. An error in the loop re-raises in ``step``; ``close`` ends the thread wherever it parks.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence

from fst_agents.errors import TrainerError
from fst_agents.types import TrainingSample


class _Stop(Exception):
    """Unwinds the trainer's loop when the thread is closed."""


class Desk:
    """Where the caller and the trainer's thread meet, one batch and one report at a time."""

    def __init__(self) -> None:
        self._batches: queue.SimpleQueue[Sequence[TrainingSample] | None] = queue.SimpleQueue()
        self._reports: queue.SimpleQueue[dict[str, float] | BaseException] = queue.SimpleQueue()

    def exchange(self, report: dict[str, float] | None) -> Sequence[TrainingSample]:
        """Trainer's side: hand in the finished step's numbers, wait for the next batch.

        Before its first batch the trainer has none: ``None``.
        """
        self._reports.put({} if report is None else report)
        batch = self._batches.get()
        if batch is None:
            raise _Stop
        return batch

    def fail(self, error: BaseException) -> None:
        """Trainer's side: there will be no report."""
        self._reports.put(error)

    def submit(self, batch: Sequence[TrainingSample] | None) -> None:
        """Caller's side: the next batch, or ``None`` for the end."""
        self._batches.put(batch)

    def report(self) -> dict[str, float] | BaseException:
        """Caller's side: wait for the numbers of the step, or what went wrong."""
        return self._reports.get()


class TrainerThread:
    """Runs ``loop``, which takes its batches from ``desk``, until closed.

    Waits for the loop to park for the first time: the trainer library sets up process-wide state
    until then, and two trainers starting at once would destroy each other's.

    Raises:
        TrainerError: the loop did not come to its first batch.
    """

    def __init__(self, desk: Desk, loop: Callable[[], object]) -> None:
        self._desk = desk
        self._loop = loop
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="slow-trainer", daemon=True)
        self._thread.start()
        self._answer()

    def step(self, samples: Sequence[TrainingSample]) -> dict[str, float]:
        """One optimizer step; returns its numbers when the trainer has parked again.

        Raises:
            TrainerError: the loop failed, now or before, or was closed.
        """
        if self._failure is None:
            self._desk.submit(samples)
            return self._answer()
        raise TrainerError(f"the trainer has stopped: {self._failure}") from self._failure

    def close(self) -> None:
        """End the thread, after the step it may be in. Idempotent."""
        if self._failure is None:
            self._failure = TrainerError("it was closed")
        self._desk.submit(None)
        self._thread.join()

    def _answer(self) -> dict[str, float]:
        self._failure = TrainerError("the wait for its last step was interrupted")
        answer = self._desk.report()
        if isinstance(answer, BaseException):
            self._failure = answer
            raise TrainerError(f"the trainer has stopped: {answer}") from answer
        self._failure = None
        return answer

    def _run(self) -> None:
        try:
            self._loop()
        except _Stop:
            return
        except BaseException as error:  # noqa: BLE001  # crosses over to the caller's thread
            self._desk.fail(error)
        else:
            self._desk.fail(TrainerError("its loop ended by itself"))

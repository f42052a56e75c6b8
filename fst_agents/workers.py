"""Threads for work that may never come back.

A thread of Python cannot be stopped from outside: a program in an endless loop, a metric that waits
for ever. Such a job is *given up*: it gets an answer without it, another thread takes the next job,
and what the lost thread may still say counts for nothing. The threads are daemons, so that none of
them keeps the process from ending.
"""

from __future__ import annotations

import ctypes
import sys
import threading
import time
import traceback
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from fst_agents.errors import ProgramError

T = TypeVar("T")


class GivenUp(BaseException):
    """Raised in a thread whose job has been given up; no ``except Exception`` catches it."""


class Workers:
    """Runs jobs in up to ``size`` threads at once; ``patience`` is in seconds for each attempt."""

    def __init__(self, size: int, patience: float, most_lost: int) -> None:
        """``most_lost``: how many threads may hang at once before it is an error."""
        self._size, self._patience, self._most_lost = size, patience, most_lost
        self._rooms = SimpleQueue[_Room[Any] | None]()
        self._idle = threading.Semaphore(0)
        self._staff = 0
        self._lost: list[threading.Thread] = []
        self._closed = False

    def close(self) -> None:
        """Begin nothing more. Nobody is waited for. Idempotent."""
        if not self._closed:
            self._closed = True
            for _ in range(self._staff):
                self._rooms.put(None)

    @property
    def lost(self) -> int:
        """Threads that have been given up and are still there."""
        self._lost = [thread for thread in self._lost if thread.is_alive()]
        return len(self._lost)

    def run(
        self,
        work: Callable[[int, Callable[[], None]], T],
        count: int,
        give_up: Callable[[int, str], T],
        ended: Callable[[], None],
    ) -> list[T]:
        """The results of the jobs 0 … ``count`` - 1, in order.

        Args:
            work: does the job of a number. It calls its second argument before every attempt:
                patience begins anew, or the thread ends here if the job has been given up.
            give_up: the result of a job that did not come back, and a text on where it hangs.
            ended: called once for each job that is over, one way or the other.

        Raises:
            BaseException: the first that a job raised; the others are then given up.
            ProgramError: more threads than ``most_lost`` hang.
            RuntimeError: closed before.
        """
        if self._closed:
            raise RuntimeError("these workers have been closed; make new ones")
        room = _Room(work, count, self._patience, ended)
        try:
            for _ in range(min(self._size, count)):
                self._hire(room)
            while (late := room.wait()) is not None:
                place = where(late.thread)
                if room.claim(late):  # before its answer is made: it may begin anew meanwhile
                    self._lost.append(late.thread)
                    self._staff -= 1
                    room.answer(late, give_up(late.number, place))
                    _wake(late.thread)
                    self._refuse_many(place)
                    self._hire(room)
        finally:
            self._staff -= room.close()
        return room.results()

    def _hire(self, room: _Room[Any]) -> None:
        """Let one more thread take jobs from a room: an idle one, else a new one."""
        self._rooms.put(room)
        # A full staff has one that is idle or about to be: a result is there a moment before its
        # thread is. Unless that is waited for, its permit stands for a thread that is busy again.
        if not self._idle.acquire(blocking=self._staff >= self._size):
            self._staff += 1
            arguments = (self._rooms, self._idle)
            threading.Thread(target=_serve, args=arguments, name="fst-rollout", daemon=True).start()

    def _refuse_many(self, place: str) -> None:
        if self.lost > self._most_lost:
            raise ProgramError(
                f"{self.lost} rollouts hang at once (at most {self._most_lost} are put up with), "
                f"the last one {place}; give what the program and the metric wait for a time limit "
                "of its own, or raise sampling.timeout if they need longer"
            )


class _Job:
    """One job under way: its number, its thread, and until when it is waited for."""

    def __init__(self, number: int, deadline: float) -> None:
        self.number, self.deadline = number, deadline
        self.thread = threading.current_thread()


class _Room(Generic[T]):
    """The jobs of one :meth:`Workers.run`. ``_under_way`` holds those that still count."""

    def __init__(
        self,
        work: Callable[[int, Callable[[], None]], T],
        count: int,
        patience: float,
        ended: Callable[[], None],
    ) -> None:
        self._work, self._count, self._patience, self._ended = work, count, patience, ended
        self._next = 0
        self._under_way: set[_Job] = set()
        self._results: dict[int, T] = {}
        self._error: BaseException | None = None
        self._changed = threading.Condition()

    def wait(self) -> _Job | None:
        """The next job whose patience has run out; ``None`` once there is nothing to wait for."""
        with self._changed:
            while self._error is None and len(self._results) < self._count:
                now = time.monotonic()
                first = min(self._under_way, key=lambda job: job.deadline, default=None)
                if first is not None and first.deadline <= now:
                    return first
                # Later jobs have later deadlines, so only the end is worth a wake-up before.
                self._changed.wait(self._patience if first is None else first.deadline - now)
            return None

    def claim(self, job: _Job) -> bool:
        """Have a job count no more, unless it has just come back or begun anew."""
        with self._changed:
            if job not in self._under_way or job.deadline > time.monotonic():
                return False
            self._under_way.remove(job)
            return True

    def answer(self, job: _Job, result: T) -> None:
        """The result of a job that has been claimed."""
        with self._changed:
            self._ended()
            self._results[job.number] = result

    def close(self) -> int:
        """Nothing else is begun, and what is under way counts no more; returns how many it is."""
        with self._changed:
            self._next = self._count
            left = len(self._under_way)
            self._under_way.clear()
            return left

    def results(self) -> list[T]:
        if self._error is not None:
            raise self._error
        return [self._results[number] for number in range(self._count)]

    def labour(self) -> bool:
        """Do jobs as long as there are any; false once this thread's job has been given up."""
        while (job := self._take()) is not None:
            try:
                result = self._work(job.number, lambda job=job: self._renew(job))
            except GivenUp:
                return False
            except BaseException as error:  # noqa: BLE001 - raised where the results are waited for
                counts = self._leave(job, error=error)
            else:
                counts = self._leave(job, result)
            if not counts:
                return False
        return True

    def _take(self) -> _Job | None:
        with self._changed:
            if self._next >= self._count or self._error is not None:
                return None
            job = _Job(self._next, time.monotonic() + self._patience)
            self._next += 1
            self._under_way.add(job)
            return job

    def _renew(self, job: _Job) -> None:
        with self._changed:
            if job not in self._under_way:
                raise GivenUp
            job.deadline = time.monotonic() + self._patience

    def _leave(
        self, job: _Job, result: T | None = None, error: BaseException | None = None
    ) -> bool:
        """Hand in what became of a job; whether it still counts."""
        with self._changed:
            if job not in self._under_way:
                return False
            self._under_way.remove(job)
            self._ended()  # under the lock: before anybody can think that all is over
            if error is not None:
                self._error = self._error or error
            else:
                self._results[job.number] = result  # pyright: ignore[reportArgumentType]
            if error is not None or len(self._results) == self._count:
                self._changed.notify_all()
            return True


def _serve(rooms: SimpleQueue[_Room[Any] | None], idle: threading.Semaphore) -> None:
    """What a thread does all its life; once lost it does not come back for more."""
    while (room := rooms.get()) is not None and room.labour():
        idle.release()


def where(thread: threading.Thread) -> str:
    """Where a thread is at this moment, innermost call first: ``in f (a.py:3) < g (b.py:7)``."""
    frames = sys._current_frames()  # pyright: ignore[reportPrivateUsage] - documented as public
    frame = frames.get(thread.ident or 0)
    if frame is None:
        return "in a thread that has just ended"
    calls = traceback.extract_stack(frame)[:-5:-1]
    places = (f"{call.name} ({call.filename.rpartition('/')[2]}:{call.lineno})" for call in calls)
    return f"in {' < '.join(places)}"


def _wake(thread: threading.Thread) -> None:
    """Have a lost thread end itself as soon as it runs Python code again: an endless loop would
    take processor time from the rest for ever. What waits in foreign code is not reached."""
    ident = ctypes.c_ulong(thread.ident or 0)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, ctypes.py_object(GivenUp))

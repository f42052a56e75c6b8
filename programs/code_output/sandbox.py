"""Run Python source that nobody vouches for: bounded, cut off from everything, in about 1 ms.

``run([Request("def f(n): return n + 1", "f", "(41,)")])`` answers ``[Result(Kind.VALUE, "42")]``.
Every request gets a process of its own, forked from a warm interpreter; one that misbehaves costs
the others nothing. What holds a program in, and what does not, is in docs/sandbox.md.

Linux on x86-64 or AArch64 only: elsewhere a :class:`SandboxError` says so instead of running code
behind less.
"""

from __future__ import annotations

import atexit
import os
import queue
import threading
from collections.abc import Sequence
from typing import Self

from programs.code_output.worker import (
    Kind,
    Limits,
    LostError,
    Request,
    Result,
    SandboxError,
    Worker,
)

__all__ = ["Kind", "Limits", "Request", "Result", "Sandbox", "SandboxError", "default", "run"]


class Sandbox:
    """A few warm interpreters that any number of threads may share.

    Args:
        limits: for each request.
        workers: how many requests may run at a time; interpreters are started when needed.
    """

    def __init__(self, limits: Limits | None = None, workers: int | None = None) -> None:
        self.limits = limits or Limits()
        self._count = workers or min(4, os.cpu_count() or 1)
        self._slots: queue.LifoQueue[Worker | None] = queue.LifoQueue()
        for _ in range(self._count):
            self._slots.put(None)
        self._started: set[Worker] = set()
        self._closed = False
        self._lock = threading.Lock()

    def run(self, requests: Sequence[Request]) -> list[Result]:
        """Run requests one after the other in one worker; results in the same order.

        Raises:
            SandboxError: it is closed, cannot be had on this machine, or lost two workers running
                over the same request.
        """
        worker = self._slots.get()
        results: list[Result] = []
        try:
            for request in requests:
                worker = worker or self._start()
                try:
                    results.append(worker.ask(request))
                except LostError:  # killed from outside, most likely: the program cannot do it
                    self._stop(worker)
                    worker = self._start()
                    results.append(worker.ask(request))
        except BaseException as error:
            if worker is not None:  # its next answer might belong to the request left behind
                self._stop(worker)
                worker = None
            if isinstance(error, LostError):
                raise SandboxError(f"sandbox: two workers in a row were lost: {error}") from error
            raise
        finally:
            self._slots.put(worker)
        return results

    @property
    def layers(self) -> frozenset[str]:
        """What holds here: ``limits``, ``audit``, ``seccomp``, ``namespaces``, ``empty root``."""
        worker = self._slots.get()
        try:
            worker = worker or self._start()
            return worker.layers
        finally:
            self._slots.put(worker)

    def close(self) -> None:
        """End every process; requests that are still running fail. Harmless twice."""
        with self._lock:
            self._closed = True
            started = list(self._started)
        for worker in started:
            worker.kill()  # whoever waits for its answer sees the pipe end
        idle = [self._slots.get() for _ in range(self._count)]
        for worker in idle:
            if worker is not None:
                self._stop(worker)
            self._slots.put(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> Worker:
        with self._lock:
            if self._closed:
                raise SandboxError("sandbox: it is closed; make a new one")
            worker = Worker(self.limits)
            self._started.add(worker)
        return worker

    def _stop(self, worker: Worker) -> None:
        worker.close()
        with self._lock:
            self._started.discard(worker)


_default: Sandbox | None = None
_default_lock = threading.Lock()


def run(requests: Sequence[Request]) -> list[Result]:
    """:meth:`Sandbox.run` of the process's own sandbox with the default limits."""
    return default().run(requests)


def default() -> Sandbox:
    """The process's own sandbox, made when first asked for and closed at exit."""
    global _default
    with _default_lock:
        if _default is None:
            _default = Sandbox()
            atexit.register(_default.close)
        return _default


def _forget() -> None:
    """In a forked child: the parent's workers are not ours to talk to, nor to end."""
    global _default, _default_lock
    if _default is not None:
        atexit.unregister(_default.close)
    _default, _default_lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):  # not on Windows, where this module can be imported, too
    os.register_at_fork(after_in_child=_forget)

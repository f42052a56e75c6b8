"""Threads for work that may never come back, under the timing that is worst for them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from fst_agents.workers import Workers

Begin = Callable[[], None]


def within(seconds: float, work: Callable[[], Any]) -> Any:
    """What ``work`` returns; an error where it takes longer."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(work()), daemon=True)
    thread.start()
    thread.join(seconds)
    assert results, f"no result within {seconds:g} s"
    return results[0]


class SlowRelease(threading.Semaphore):
    """Threads are idle a while later than their results are there."""

    def release(self, n: int = 1) -> None:
        time.sleep(0.1)
        super().release(n)


def test_threads_that_are_idle_late_are_not_counted_twice() -> None:
    workers = Workers(1, patience=0.3, most_lost=1)
    vars(workers)["_idle"] = SlowRelease(0)
    over = threading.Event()

    def work(number: int, begin: Begin) -> str:
        begin()
        return "done"

    def hangs_first(number: int, begin: Begin) -> str:
        begin()
        if number == 0:
            over.wait(10)
        return "done"

    def run(work: Callable[[int, Begin], str], count: int) -> list[str]:
        return workers.run(work, count, lambda number, place: "given up", lambda: None)

    try:
        for _ in range(2):
            assert within(5, lambda: run(work, 1)) == ["done"]
        assert within(5, lambda: run(hangs_first, 2)) == ["given up", "done"]
    finally:
        over.set()
        workers.close()


def test_a_job_that_is_being_given_up_begins_nothing_more() -> None:
    workers = Workers(1, patience=0.1, most_lost=1)
    giving_up, stands = threading.Event(), threading.Event()
    attempts: list[int] = []
    ended: list[int] = []

    def work(number: int, begin: Begin) -> str:
        try:
            for attempt in range(2):
                begin()
                attempts.append(attempt)
                giving_up.wait(5)
        finally:
            stands.set()
        return "came back"

    def give_up(number: int, place: str) -> str:
        giving_up.set()
        assert stands.wait(5)
        return "given up"

    try:
        results = within(10, lambda: workers.run(work, 1, give_up, lambda: ended.append(1)))
    finally:
        workers.close()
    assert (results, attempts, ended) == (["given up"], [0], [1])

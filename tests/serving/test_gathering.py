"""Which requests share a batch: in lockstep where rollouts are announced, else by timing."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from fst_agents.serving import gathering
from fst_agents.serving.gathering import PATIENCE, Gathering
from fst_agents.serving.inbox import Request
from fst_agents.types import Sampling


def request(*order: int) -> Request:
    return Request((1,), Sampling(), order)


def orders(batch: list[Request]) -> list[tuple[int, ...]]:
    return [r.order for r in batch]


def test_unannounced_requests_share_a_batch_after_a_quiet_moment() -> None:
    queue = Gathering(max_batch=8)
    for _ in range(3):
        queue.put(request())
    batch, then = queue.take()
    assert (len(batch), then) == (3, None)


def test_a_batch_is_never_larger_than_the_most() -> None:
    queue = Gathering(max_batch=2)
    for i in range(3):
        queue.put(request(i, 0))
    assert orders(queue.take()[0]) == [(0, 0), (1, 0)]
    assert orders(queue.take()[0]) == [(2, 0)]


def test_other_things_stand_between_the_requests_before_and_after_them() -> None:
    queue = Gathering(max_batch=8)
    for item in (request(0, 0), "swap", request(1, 0)):
        queue.put(item)
    assert orders(queue.take()[0]) == [(0, 0)]
    assert queue.take() == ([], "swap")
    assert orders(queue.take()[0]) == [(1, 0)]


def test_a_cancelled_request_is_left_out() -> None:
    queue = Gathering(max_batch=8)
    given_up = request(0, 0)
    given_up.future.cancel()
    queue.put(given_up)
    assert queue.take() == ([], None)


def test_a_batch_waits_for_every_rollout_under_way() -> None:
    queue = Gathering(max_batch=8)
    queue.announce(jobs=2, at_once=2)
    late = threading.Timer(0.1, lambda: queue.put(request(0, 0)))
    queue.put(request(1, 0))
    late.start()
    assert orders(queue.take()[0]) == [(0, 0), (1, 0)]


def test_a_rollout_that_has_ended_is_not_waited_for() -> None:
    queue = Gathering(max_batch=8)
    queue.announce(jobs=2, at_once=2)
    queue.put(request(1, 0))
    started = time.monotonic()
    threading.Timer(0.05, queue.ended).start()
    assert orders(queue.take()[0]) == [(1, 0)]
    assert time.monotonic() - started < PATIENCE


def test_a_rollout_with_several_requests_counts_once() -> None:
    queue = Gathering(max_batch=8)
    queue.announce(jobs=2, at_once=2)
    queue.put(request(0, 0))
    queue.put(request(0, 1))
    threading.Timer(0.05, lambda: queue.put(request(1, 0))).start()
    assert orders(queue.take()[0]) == [(0, 0), (0, 1), (1, 0)]


def test_patience_runs_out_and_is_given_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(gathering, "PATIENCE", 0.05)
    queue = Gathering(max_batch=8)
    queue.announce(jobs=2, at_once=2)
    for _ in range(gathering.TRIES):
        queue.put(request(0, 0))
        assert orders(queue.take()[0]) == [(0, 0)]
        assert "may differ from others of its seed" in caplog.text
    assert "no longer share batches" in caplog.text
    monkeypatch.setattr(gathering, "PATIENCE", 60.0)
    queue.put(request(0, 0))
    assert orders(queue.take()[0]) == [(0, 0)]


def test_batches_do_not_depend_on_how_threads_are_scheduled() -> None:
    """40 rollouts of 1–4 requests each, 8 at once, each with its own random delays: every time
    the same batches, and they are as large as they can be."""

    def batches(delays: random.Random) -> list[list[tuple[int, ...]]]:
        queue, seen = Gathering(max_batch=64), list[list[tuple[int, ...]]]()
        pause = [delays.random() / 200 for _ in range(40)]

        def rollout(job: int) -> None:
            for k in range(job % 4 + 1):
                time.sleep(pause[(job * 7 + k) % 40])
                new = request(job, k)
                queue.put(new)
                new.future.result()
            queue.ended()

        queue.announce(40, 8)
        with ThreadPoolExecutor(8) as pool:
            done = pool.map(rollout, range(40))
            answer_all(queue, seen, 40)
            list(done)
        return seen

    first = batches(random.Random(1))
    assert first == batches(random.Random(2))
    assert len(first[0]) == 8


def answer_all(queue: Gathering, seen: list[list[tuple[int, ...]]], jobs: int) -> None:
    left = sum(job % 4 + 1 for job in range(jobs))
    while left:
        batch, _ = queue.take()
        seen.append(orders(batch))
        left -= len(batch)
        for r in batch:
            answer: Callable[[object], None] = r.future.set_result  # pyright: ignore
            answer(None)

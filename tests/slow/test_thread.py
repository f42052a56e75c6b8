"""A loop that owns itself, driven step by step by a caller: failure and closing at any moment."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from fst_agents.errors import TrainerError
from optimizers.slow_thread import Desk, TrainerThread


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) == before


def counting(desk: Desk) -> None:
    """A loop that numbers its steps."""
    report = None
    step = 0
    while True:
        desk.exchange(report)
        step += 1
        report = {"step": float(step)}


def test_steps_alternate_with_the_caller() -> None:
    desk = Desk()
    thread = TrainerThread(desk, lambda: counting(desk))
    assert [thread.step([]) for _ in range(3)] == [{"step": float(n)} for n in (1, 2, 3)]
    thread.close()


def test_an_error_in_the_loop_reaches_the_caller_with_its_cause() -> None:
    desk = Desk()

    def loop() -> None:
        desk.exchange(None)
        raise ZeroDivisionError("boom")

    thread = TrainerThread(desk, loop)
    for _ in range(2):
        with pytest.raises(TrainerError, match="boom") as caught:
            thread.step([])
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
    thread.close()


def test_a_loop_that_dies_before_its_first_batch_is_noticed_at_once() -> None:
    def loop() -> None:
        raise OSError("no device")

    with pytest.raises(TrainerError, match="no device"):
        TrainerThread(Desk(), loop)


def test_a_loop_that_ends_by_itself_is_an_error() -> None:
    desk = Desk()
    thread = TrainerThread(desk, lambda: desk.exchange(None))
    with pytest.raises(TrainerError, match="ended by itself"):
        thread.step([])
    thread.close()


def test_closing_while_a_step_runs_waits_for_it() -> None:
    desk = Desk()
    running, go_on = threading.Event(), threading.Event()

    def loop() -> None:
        desk.exchange(None)
        running.set()
        go_on.wait()
        desk.exchange({"done": 1.0})

    thread = TrainerThread(desk, loop)
    caller = threading.Thread(target=thread.step, args=([],))
    caller.start()
    running.wait()
    threading.Timer(0.05, go_on.set).start()
    thread.close()
    caller.join()


def test_an_interrupt_while_waiting_leaves_nothing_to_mistake_for_the_next_step() -> None:
    """Ctrl-C during a step: the step's numbers must not answer a later call."""
    desk = Desk()

    def loop() -> None:
        desk.exchange(None)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.05)
        desk.exchange({"step": 1.0})

    thread = TrainerThread(desk, loop)
    with pytest.raises(KeyboardInterrupt):
        thread.step([])
    with pytest.raises(TrainerError, match="interrupted"):
        thread.step([])
    thread.close()


def test_a_closed_thread_takes_no_step() -> None:
    desk = Desk()
    thread = TrainerThread(desk, lambda: counting(desk))
    thread.close()
    thread.close()
    with pytest.raises(TrainerError, match="closed"):
        thread.step([])

"""Faults of the user's program and metric, and of what it calls: the policy's host, the trainer."""

# pyright: reportMissingImports=false

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextvars import copy_context
from typing import Any

import dspy
from fakes import Ask, right
from faults import Fault, Seen, Workshop
from loop_world import (
    From,
    Host,
    RecordingTrainer,
    Sometimes,
    cast,
    lives,
    stops,
)
from stops import Run

from fst_agents.errors import (
    ConfigError,
    ProgramError,
    ServingError,
    TrainerError,
)
from fst_agents.rollouts import Limits
from fst_agents.types import Completion, Outcome, Sampling, StepReport, TrainingSample
from optimizers.parity import LOGP_GAP


class Program(Ask):
    """``fault`` is called behind its one question."""

    def __init__(self, fault: Callable[[], object]) -> None:
        super().__init__()
        self._fault = fault

    def __deepcopy__(self, memo: dict[int, Any]) -> Program:
        copied = Program(self._fault)  # programs are copied for every candidate; the fault is one
        copied.solve = self.solve.deepcopy()
        return copied

    def forward(self, question: str) -> Any:
        answer = super().forward(question)
        self._fault()
        return answer


def hang() -> None:
    """A minute, in pieces: a thread that has been given up can end between two of them."""
    for _ in range(600):
        time.sleep(0.1)


HASTY = Limits(concurrency=8, timeout=1.0, retries=0, grace=0.3)


def metric(due: Callable[[], bool], fault: Callable[[], Any]) -> Callable[..., Any]:
    def judged(gold: Any, prediction: Any) -> Any:
        return fault() if due() else right(gold, prediction)

    return judged


def raising() -> Any:
    raise ValueError("the metric's own mistake")


def program(due: Callable[[], bool], fault: Callable[[], Any]) -> Callable[[], dspy.Module]:
    return lambda: Program(lambda: fault() if due() else None)


class Swallows(Ask):
    """Answers for itself where the policy does not."""

    def forward(self, question: str) -> Any:
        try:
            return super().forward(question)
        except Exception:  # noqa: BLE001 - what such programs do
            return dspy.Prediction(answer="yes")


def leaking(threads: list[threading.Thread], over: threading.Event) -> Callable[[], dspy.Module]:
    def leak() -> None:
        thread = threading.Thread(target=over.wait, daemon=True)
        thread.start()
        threads.append(thread)

    return lambda: Program(leak)


def leaks(workshop: Workshop) -> Seen:
    threads, over = list[threading.Thread](), threading.Event()
    try:
        seen = lives(lambda: cast(program=leaking(threads, over)), None, "nothing")(workshop)
        alive = sum(thread.is_alive() for thread in threads)
        return Seen(f"{seen.happened}, with {alive} threads of the program's left behind")
    finally:
        over.set()


class Lingers(Ask):
    """Its thread asks the policy once more when the program has returned."""

    def __init__(self, told: list[BaseException]) -> None:
        super().__init__()
        self._told = told

    def __deepcopy__(self, memo: dict[int, Any]) -> Lingers:
        copied = Lingers(self._told)
        copied.solve = self.solve.deepcopy()
        return copied

    def forward(self, question: str) -> Any:
        answer = super().forward(question)
        threading.Thread(target=copy_context().run, args=(self._late, question)).start()
        return answer

    def _late(self, question: str) -> None:
        time.sleep(0.3)
        try:
            super().forward(question)
        except Exception as error:  # noqa: BLE001 - DSPy wraps it
            self._told.append(error)


def lingers(workshop: Workshop) -> Seen:
    told: list[BaseException] = []
    seen = lives(lambda: cast(program=lambda: Lingers(told)), None, "refused there")(workshop)
    time.sleep(0.5)
    assert told
    causes = [told[0], told[0].__cause__, told[0].__context__]
    assert any(isinstance(cause, ProgramError) for cause in causes), causes
    return Seen(f"late calls {seen.happened}")


def threads_end(run: Run) -> None:
    """Threads of rollouts that were given up end as soon as they run Python code again."""
    deadline = time.monotonic() + 10
    while run.parts.runner.lost_threads:
        assert time.monotonic() < deadline
        time.sleep(0.05)


PROGRAMS = [
    Fault(
        "metric raises",
        "every 5th scoring",
        lives(lambda: cast(metric=metric(Sometimes(5), raising)), Outcome.METRIC_ERROR, "masked"),
    ),
    Fault(
        "metric raises",
        "every scoring from the 40th on",
        stops(
            lambda: cast(metric=metric(From(40), raising)),
            ConfigError,
            "the metric's own mistake",
        ),
    ),
    Fault(
        "metric returns NaN",
        "every 5th scoring",
        lives(
            lambda: cast(metric=metric(Sometimes(5), lambda: float("nan"))),
            Outcome.METRIC_ERROR,
            "masked",
        ),
    ),
    Fault(
        "metric hangs",
        "2 scorings",
        lives(
            lambda: cast(metric=metric(Sometimes(33, 2), hang), limits=HASTY),
            Outcome.TIMEOUT,
            "given up after timeout and grace",
            also=threads_end,
        ),
    ),
    Fault(
        "program raises",
        "every 5th rollout",
        lives(
            lambda: cast(program=program(Sometimes(5), lambda: 1 // 0)),
            Outcome.PROGRAM_ERROR,
            "scored 0, with feedback",
        ),
    ),
    Fault(
        "program hangs",
        "2 rollouts",
        lives(
            lambda: cast(program=program(Sometimes(33, 2), hang), limits=HASTY),
            Outcome.TIMEOUT,
            "given up after timeout and grace",
            also=threads_end,
        ),
    ),
    Fault("program leaks threads", "every rollout", leaks),
    Fault("program leaks threads", "that call the policy after its end", lingers),
]


class Broken(Host):
    """Fails at some requests of rollouts."""

    def __init__(self, due: Callable[[], bool]) -> None:
        super().__init__()
        self._due = due

    def _answer(self, new: Any) -> Completion:
        if new.order and self._due():
            raise ConnectionError("the server is gone")
        return super()._answer(new)


class Deaf(Host):
    """Never answers some requests."""

    def __init__(self, due: Callable[[], bool]) -> None:
        super().__init__()
        self._due = due

    def submit(
        self, prompt_ids: Sequence[int], sampling: Sampling, order: tuple[int, ...] = ()
    ) -> Future[Completion]:
        if order and self._due():
            return Future[Completion]()
        return super().submit(prompt_ids, sampling, order)


HOSTS = [
    Fault(
        "rollout timeout",
        "3 requests that are never answered",
        lives(
            lambda: cast(host=lambda: Deaf(Sometimes(23, 3)), limits=HASTY),
            Outcome.TIMEOUT,
            "masked",
        ),
    ),
    Fault(
        "host fails, the program swallows it",
        "every 7th request",
        lives(
            lambda: cast(host=lambda: Broken(Sometimes(7)), program=Swallows),
            Outcome.INFRA_ERROR,
            "masked all the same",
        ),
    ),
    Fault(
        "host fails",
        "every request from the 33rd on",
        stops(
            lambda: cast(host=lambda: Broken(From(33))),
            ServingError,
            "the server is gone",
        ),
    ),
]


class Foreign(RecordingTrainer):
    """Finds at its third step that the samples are not its policy's."""

    def gap(self) -> float:
        return 2 * LOGP_GAP["float32"] if len(self.batches) == 3 else 0.0


class Exhausted(RecordingTrainer):
    """Fails at its third step, as GrpoSlow does where memory runs out."""

    def update(self, samples: Sequence[TrainingSample]) -> StepReport:
        if len(self.batches) == 2:
            raise TrainerError("the trainer ran out of memory")
        return super().update(samples)


TRAINER = [
    Fault(
        "trainer fails",
        "3rd step",
        stops(lambda: cast(slow=Exhausted), TrainerError, "ran out of memory"),
    ),
    Fault(
        "log-probabilities that are wrong, but plausible",
        "3rd step, noticed by the trainer",
        stops(lambda: cast(slow=Foreign), TrainerError, "not what this policy draws"),
    ),
]

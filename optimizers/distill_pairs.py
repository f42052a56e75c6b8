"""The same answers under two instructions: what the teacher would have been asked.

The student's answers are dictated to a second run of the program, under the teacher's instructions.
So adapter, chat template and the program's own flow make the teacher's prompts, whatever they are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from fst_agents.errors import ServingError
from fst_agents.serving.host import ChatTokenizer, PolicyHost
from fst_agents.types import Call, Completion, Policy, Rollout, Sampling


@dataclass(frozen=True, slots=True)
class Pair:
    """One answer of the student, its prompt, and the teacher's prompt for the same call."""

    student_ids: tuple[int, ...]
    teacher_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]


class DictatingHost:
    """A policy host that samples nothing: it answers what earlier rollouts answered.

    ``rollouts`` are dictated in order: request k of the n-th announced rollout gets the tokens of
    call k of the n-th rollout here.
    """

    name = "dictated"

    def __init__(self, host: PolicyHost) -> None:
        self._host = host
        self._answers: dict[tuple[int, ...], Call] = {}

    def dictate(self, rollouts: Sequence[Rollout]) -> None:
        """What is answered from now on."""
        self._answers = {
            (n, k): call
            for n, rollout in enumerate(rollouts)
            for k, call in enumerate(rollout.calls)
        }

    @property
    def policy(self) -> Policy:
        return self._host.policy

    @property
    def tokenizer(self) -> ChatTokenizer:
        return self._host.tokenizer

    @property
    def context_length(self) -> int:
        return self._host.context_length

    @contextlib.contextmanager
    def rollouts(self, jobs: int, at_once: int, label: str) -> Generator[Callable[[], None]]:
        yield lambda: None

    def submit(
        self, prompt_ids: Sequence[int], sampling: Sampling, order: tuple[int, ...] = ()
    ) -> Future[Completion]:
        """The dictated answer; :class:`ServingError` where the program asks for one more."""
        future = Future[Completion]()
        call = self._answers.get(order)
        if call is None:
            future.set_exception(ServingError(f"nothing is dictated for request {order}"))
        else:
            version = self.policy.version
            future.set_result(
                Completion(call.completion_ids, call.logprobs, call.finish_reason, version)
            )
        return future

    def update(self, policy: Policy) -> None:
        raise ServingError("a dictating host serves no weights of its own")

    def close(self) -> None: ...


def pairs_of(
    student: Sequence[Rollout], teacher: Sequence[Rollout], learning: Mapping[str, object] | None
) -> tuple[list[Pair], int]:
    """The calls of both runs side by side, and how many rollouts could not be paired.

    A program may go another way under other instructions; where a call has no counterpart with the
    same predictor, inputs and tokens, its rollout is left out.

    Args:
        learning: predictors whose calls count; ``None``: all.
    """
    pairs: list[Pair] = []
    left_out = 0
    for ours, theirs in zip(student, teacher, strict=True):
        if ours.outcome.masked or not _alike(ours, theirs):
            left_out += 1
            continue
        pairs += [
            Pair(a.prompt_ids, b.prompt_ids, a.completion_ids)
            for a, b in zip(ours.calls, theirs.calls, strict=True)
            if a.completion_ids and (learning is None or a.predictor in learning)
        ]
    return pairs, left_out


def _alike(first: Rollout, second: Rollout) -> bool:
    def answers(rollout: Rollout) -> list[tuple[str, tuple[int, ...]]]:
        return [(call.predictor, call.completion_ids) for call in rollout.calls]

    # The inputs too: calls that run at once may be asked for in another order the second time, and
    # then an answer is dictated to a question that it does not answer.
    return answers(first) == answers(second) and all(
        _equal(ours.inputs, theirs.inputs)
        for ours, theirs in zip(first.calls, second.calls, strict=True)
    )


def _equal(first: Mapping[str, object], second: Mapping[str, object]) -> bool:
    try:
        return bool(first == second)
    except Exception:  # noqa: BLE001 - foreign values: arrays and tables do not say yes or no
        return False

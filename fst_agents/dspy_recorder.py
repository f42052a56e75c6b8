"""Which predictor sampled which tokens: one recorder per rollout, fed by DSPy's callbacks.

DSPy swallows exceptions of callbacks, so nothing here may be trusted to have happened:
:meth:`RolloutRecorder.finish` and :attr:`RolloutRecorder.unanswered` prove that every completion
that was sampled is accounted for, or the rollout is refused.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any

import dspy
from dspy.utils.callback import ACTIVE_CALL_ID, BaseCallback

from fst_agents.errors import ProgramError, ServingError
from fst_agents.types import Call, Completion, Sampling

RECORDER = "fst_recorder"
"""The key of ``dspy.settings`` under which a rollout's recorder stands."""


class RolloutTimeout(ServingError):
    """A rollout used up its seconds while waiting for the policy."""


@dataclass(frozen=True)
class Sampled:
    """What the engine knows of one completion when it hands it to the recorder."""

    messages: tuple[Mapping[str, Any], ...]
    prompt_ids: tuple[int, ...]
    completion: Completion
    temperature: float
    text: str


@dataclass
class _Invocation:
    """One run of one predictor: its inputs and what was sampled for it, in order."""

    predictor: str
    inputs: Mapping[str, Any]
    calls: list[Sampled] = field(default_factory=list[Sampled])
    parses: list[Mapping[str, Any] | None] = field(default_factory=list[Mapping[str, Any] | None])


class RolloutRecorder(BaseCallback):
    """Collects the calls of one rollout. One instance per rollout; safe under threads."""

    def __init__(
        self, names: Mapping[int, str], sampling: Sampling, timeout: float = float("inf")
    ) -> None:
        self.sampling = sampling
        self.timeout = timeout
        self._names = names
        self._deadline = time.monotonic() + timeout
        self._lock = threading.Lock()
        self._invocations: dict[str, _Invocation] = {}
        self._lm_parent: dict[str, str | None] = {}
        self._parse_parent: dict[str, str] = {}
        self._order: list[tuple[_Invocation, int]] = []
        self._asked = 0
        self._orphans = 0
        self._failures: list[Exception] = []

    @contextlib.contextmanager
    def request(self) -> Generator[None]:
        """The time of one request to the host.

        Its failure is kept: a program may swallow the exception, its rollout may not.

        Raises:
            RolloutTimeout: the deadline has passed already.
        """
        with self._lock:
            self._asked += 1
        try:
            if self.remaining() == 0:
                raise RolloutTimeout(f"the rollout's {self.timeout:g} s are used up")
            yield
        except Exception as error:
            with self._lock:
                self._failures.append(error)
            raise

    def remaining(self) -> float | None:
        """Seconds until the rollout's deadline; ``None`` without one."""
        if self.timeout == float("inf"):
            return None
        return max(0.0, self._deadline - time.monotonic())

    def attach(self, sampled: Sampled) -> None:
        """Attribute one completion to the predictor whose LM call is running."""
        with self._lock:
            parent = self._lm_parent.get(str(ACTIVE_CALL_ID.get()))
            invocation = self._invocations.get(str(parent))
            if invocation is None:
                self._orphans += 1
                return
            invocation.calls.append(sampled)
            self._order.append((invocation, len(invocation.calls) - 1))

    def finish(self) -> tuple[Call, ...]:
        """All calls in the order in which they were sampled.

        Raises:
            ProgramError: a completion was sampled that no predictor of the program owns.
        """
        with self._lock:
            if self._orphans:
                raise ProgramError(
                    f"{self._orphans} LM call(s) were made outside the program's own predictors; "
                    "create every dspy.Predict in __init__ and keep it as an attribute"
                )
            return tuple(_call(invocation, k) for invocation, k in self._order)

    @property
    def unanswered(self) -> int:
        """Requests that were sent to the host and never came back into the rollout."""
        with self._lock:
            return self._asked - self._orphans - len(self._order) - len(self._failures)

    @property
    def failures(self) -> tuple[Exception, ...]:
        """What requests to the host failed with, in order."""
        with self._lock:
            return tuple(self._failures)

    # DSPy's events. ACTIVE_CALL_ID still names the parent when a start event fires.

    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        name = self._names.get(id(instance))
        if name is not None:
            with self._lock:
                self._invocations[call_id] = _Invocation(name, dict(inputs.get("kwargs", inputs)))

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        with self._lock:
            self._lm_parent[call_id] = ACTIVE_CALL_ID.get()

    def on_adapter_parse_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        parent = str(ACTIVE_CALL_ID.get())
        with self._lock:
            # Inherited adapters fire once per level; only the outermost has a predictor as parent.
            if parent in self._invocations:
                self._parse_parent[call_id] = parent

    def on_adapter_parse_end(
        self, call_id: str, outputs: Any | None, exception: BaseException | None = None
    ) -> None:
        with self._lock:
            parent = self._parse_parent.pop(call_id, None)
            if parent is not None:
                read = None if exception is not None else dict(outputs or {})
                self._invocations[parent].parses.append(read)


def _call(invocation: _Invocation, index: int) -> Call:
    sampled = invocation.calls[index]
    parses = invocation.parses
    return Call(
        predictor=invocation.predictor,
        messages=sampled.messages,
        prompt_ids=sampled.prompt_ids,
        completion_ids=sampled.completion.token_ids,
        logprobs=sampled.completion.logprobs,
        finish_reason=sampled.completion.finish_reason,
        policy_version=sampled.completion.policy_version,
        temperature=sampled.temperature,
        text=sampled.text,
        inputs=invocation.inputs,
        outputs=parses[index] if index < len(parses) else None,
    )


class StrayWatch(BaseCallback):
    """Notices predictors that run where no recorder is: in threads the program started itself."""

    def __init__(self) -> None:
        self.strays: set[str] = set()

    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        if dspy.settings.get(RECORDER) is None:
            self.strays.add(type(instance).__name__)

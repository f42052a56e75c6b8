"""Which predictor sampled which tokens: one recorder per rollout, fed by DSPy's callbacks.

DSPy swallows exceptions of callbacks, so nothing here may be trusted to have happened:
:meth:`RolloutRecorder.finish` and :attr:`RolloutRecorder.unanswered` prove that every completion
that was sampled is accounted for, or the rollout is refused.

Calls of other models than the policy are followed for one thing: whether they failed.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import dspy
from dspy.utils.callback import ACTIVE_CALL_ID, BaseCallback
from dspy.utils.exceptions import AdapterParseError

from fst_agents.dspy_partial import read_partially
from fst_agents.errors import ProgramError, ServingError
from fst_agents.types import Call, Completion, Sampling

RECORDER = "fst_recorder"
"""The key of ``dspy.settings`` under which a rollout's recorder stands."""


POLICY_MODEL = "fst/policy"
"""What the policy is called among DSPy's LMs."""


def is_policy(lm: object) -> bool:
    """Whether an LM is the policy, or a copy of it as some of DSPy's modules make them."""
    return isinstance(lm, dspy.BaseLM) and lm.model == POLICY_MODEL


class RolloutTimeout(ServingError):
    """A rollout used up its seconds while waiting for the policy."""


class FixedModelError(ServingError):
    """A model other than the policy failed, or its answer could not be read."""


@dataclass(frozen=True)
class Sampled:
    """What the engine knows of one completion when it hands it to the recorder.

    ``request`` is its request's number, as :meth:`RolloutRecorder.request` has given it.
    """

    request: int
    messages: tuple[Mapping[str, Any], ...]
    prompt_ids: tuple[int, ...]
    completion: Completion
    temperature: float
    text: str


@dataclass
class _Invocation:
    """One run of one predictor: its inputs and what was sampled for it, in order.

    ``parses`` are keyed by the position of the call whose answer was read: an empty answer is
    never read at all. ``model`` is the last model other than the policy that it has asked.
    """

    predictor: str
    inputs: Mapping[str, Any]
    calls: list[Sampled] = field(default_factory=list[Sampled])
    parses: dict[int, _Parse] = field(default_factory=dict[int, "_Parse"])
    model: str | None = None


@dataclass(frozen=True)
class _Parse:
    """What an adapter made of one completion."""

    adapter: dspy.Adapter
    outputs: Mapping[str, Any]
    error: BaseException | None


class RolloutRecorder(BaseCallback):
    """Collects the calls of one rollout. One instance per rollout; safe under threads."""

    def __init__(
        self,
        names: Mapping[int, str],
        sampling: Sampling,
        timeout: float = float("inf"),
        number: int = 0,
    ) -> None:
        """``number`` is the rollout's among those that run together."""
        self.sampling = sampling
        self.timeout = timeout
        self._number = number
        self._names = names
        self._deadline = time.monotonic() + timeout
        self._lock = threading.Lock()
        self._invocations: dict[str, _Invocation] = {}
        self._lm_parent: dict[str, str | None] = {}
        self._strangers: dict[str, str] = {}
        self._reading: dict[str, tuple[_Invocation, int, dspy.Adapter]] = {}
        self._order: list[tuple[_Invocation, int]] = []
        self._asked = 0
        self._orphans = 0
        self._cancelled = 0
        self._over = False
        self._failures: list[Exception] = []
        self._fixed_failures: list[Exception] = []

    @contextlib.contextmanager
    def request(self) -> Generator[tuple[int, int]]:
        """The time of one request to the host; yields the rollout's number and the request's.

        Its failure is kept: a program may swallow the exception, its rollout may not. One that the
        program cancels has been answered with nothing: it gives no call, and the program goes on.

        Raises:
            RolloutTimeout: the deadline has passed already.
            ProgramError: the rollout has ended; nothing would come of these tokens.
        """
        with self._lock:
            if self._over:
                raise ProgramError(
                    "the policy was called after its rollout had ended: a thread of the program "
                    "outlives the call that started it; join it before the program returns"
                )
            order = (self._number, self._asked)
            self._asked += 1
        try:
            if self.remaining() == 0:
                raise RolloutTimeout(f"the rollout's {self.timeout:g} s are used up")
            yield order
        except asyncio.CancelledError:
            with self._lock:
                self._cancelled += 1
            raise
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
        """End the rollout: all its calls, in the order in which they were asked for.

        Raises:
            ProgramError: a completion was sampled that no predictor of the program owns.
        """
        with self._lock:
            self._over = True
            if self._orphans:
                raise ProgramError(
                    f"{self._orphans} LM call(s) were made outside the program's own predictors; "
                    "create every dspy.Predict in __init__ and keep it as an attribute"
                )
            # Calls that ran at once are answered in an order of their own, which no second run of
            # the program would repeat.
            order = sorted(self._order, key=lambda at: at[0].calls[at[1]].request)
        return tuple(_call(invocation, k) for invocation, k in order)

    @property
    def unanswered(self) -> int:
        """Requests that were sent to the host and never came back into the rollout."""
        with self._lock:
            answered = self._orphans + len(self._order) + len(self._failures) + self._cancelled
            return self._asked - answered

    @property
    def failures(self) -> tuple[Exception, ...]:
        """What requests to the host, and then to other models, failed with."""
        with self._lock:
            return (*self._failures, *self._fixed_failures)

    # DSPy's events. ACTIVE_CALL_ID still names the parent when a start event fires.

    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        name = self._names.get(id(instance))
        if name is not None:
            with self._lock:
                self._invocations[call_id] = _Invocation(name, dict(inputs.get("kwargs", inputs)))

    def on_module_end(
        self, call_id: str, outputs: Any | None, exception: BaseException | None = None
    ) -> None:
        # Only now is it known: on the way the adapter may have asked again, in JSON. What went
        # wrong before the model was asked is the program's fault, what did after is the model's.
        with self._lock:
            invocation = self._invocations.get(call_id)
        if invocation is not None and invocation.model is not None:
            self._blame(exception, f"{invocation.model!r} of predictor {invocation.predictor!r}")

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        parent = ACTIVE_CALL_ID.get()
        with self._lock:
            invocation = self._invocations.get(str(parent))
            if is_policy(instance):
                self._lm_parent[call_id] = parent
            elif invocation is not None:
                invocation.model = str(instance.model)
            else:
                self._strangers[call_id] = str(instance.model)

    def on_lm_end(
        self, call_id: str, outputs: Any | None, exception: BaseException | None = None
    ) -> None:
        with self._lock:
            model = self._strangers.pop(call_id, None)
        if model is not None:
            self._blame(exception, f"{model!r}, which the program asks itself,")

    def _blame(self, exception: BaseException | None, model: str) -> None:
        if not isinstance(exception, Exception):  # none, or the whole run is being stopped
            return
        error = FixedModelError(
            f"the model {model} failed: {type(exception).__name__}: {exception}"
        )
        error.__cause__ = exception
        with self._lock:
            self._fixed_failures.append(error)

    def on_adapter_parse_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        with self._lock:
            # Inherited adapters fire once per level; only the outermost has a predictor as parent.
            invocation = self._invocations.get(str(ACTIVE_CALL_ID.get()))
            if invocation is not None and invocation.calls:
                self._reading[call_id] = (invocation, len(invocation.calls) - 1, instance)

    def on_adapter_parse_end(
        self, call_id: str, outputs: Any | None, exception: BaseException | None = None
    ) -> None:
        with self._lock:
            reading = self._reading.pop(call_id, None)
            if reading is not None:
                invocation, index, adapter = reading
                invocation.parses[index] = _Parse(adapter, dict(outputs or {}), exception)


def _call(invocation: _Invocation, index: int) -> Call:
    sampled, parse = invocation.calls[index], invocation.parses.get(index)
    call = Call(
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
    )
    if parse is None:
        return call
    if parse.error is None:
        return replace(call, outputs=parse.outputs)
    if not isinstance(parse.error, AdapterParseError):
        return call
    partial, missing = read_partially(parse.adapter, parse.error)
    return replace(call, partial=partial, missing=missing)


class StrayWatch(BaseCallback):
    """Notices predictors that run where no recorder is: in threads the program started itself."""

    def __init__(self) -> None:
        self.strays: set[str] = set()

    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        if dspy.settings.get(RECORDER) is None:
            self.strays.add(type(instance).__name__)

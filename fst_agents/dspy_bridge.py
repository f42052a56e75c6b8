"""Where DSPy ends: candidates go into a program, exact tokens come out of it.

Contract. A rollout runs a program inside ``dspy.context`` with three things of ours: an LM whose
engine samples from a :class:`~fst_agents.serving.host.PolicyHost`, one :class:`RolloutRecorder`,
and no history or cache. Each LM call is attributed to its predictor *by name* (never by signature:
an evolved instruction changes the signature) through DSPy's callbacks, and carries the ids and
log-probabilities that the host sampled. DSPy swallows exceptions of callbacks, so nothing here
may be trusted to have happened: :meth:`RolloutRecorder.finish` proves that every sampled
completion is accounted for, or the rollout is refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field
from typing import Any, NoReturn

import dspy
from dspy.lm15 import Message, Request, Response, TextPart, Usage
from dspy.utils.callback import ACTIVE_CALL_ID, BaseCallback

from fst_agents.errors import FstError, ProgramError, ServingError
from fst_agents.serving.host import PolicyHost
from fst_agents.types import Call, Candidate, Completion, Problem, Sampling

RECORDER = "fst_recorder"


class PromptTooLong(FstError):
    """A prompt leaves no room for an answer: the rollout failed, the run goes on."""


class RolloutTimeout(ServingError):
    """A rollout used up its seconds while waiting for the policy."""


# -- examples and candidates ------------------------------------------------------------------


def problems(examples: Sequence[dspy.Example]) -> list[Problem]:
    """Give every example a stable id: its own ``id`` field, else a hash of its content.

    Raises:
        ProgramError: naming ids that occur twice, or examples without declared inputs.
    """
    made = [Problem(_example_id(example), example) for example in examples]
    seen: set[str] = set()
    twice = sorted({p.id for p in made if p.id in seen or seen.add(p.id)})
    if twice:
        raise ProgramError(
            f"{len(twice)} example id(s) occur more than once: {', '.join(twice[:5])}; "
            "give each example its own `id`, or drop the repeats"
        )
    return made


def _example_id(example: dspy.Example) -> str:
    if "id" in example:
        return str(example["id"])
    text = json.dumps(example.toDict(), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def seed_candidate(program: dspy.Module) -> Candidate:
    """The instructions the program was written with."""
    named = program.named_predictors()
    if not named:
        raise ProgramError(
            f"{type(program).__name__} has no predictors: keep each dspy.Predict (or a module that "
            "holds one) as an attribute set in __init__"
        )
    return Candidate({name: p.signature.instructions for name, p in named})


def apply(program: dspy.Module, candidate: Candidate) -> dspy.Module:
    """A copy of the program that runs the candidate's instructions.

    Raises:
        ProgramError: the candidate and the program do not name the same predictors.
    """
    copy = program.deepcopy()
    named = dict(copy.named_predictors())
    if set(named) != set(candidate.instructions):
        raise ProgramError(
            f"candidate {candidate.id} has instructions for {sorted(candidate.instructions)}, "
            f"the program's predictors are {sorted(named)}; the names must be the same"
        )
    for name, predictor in named.items():
        predictor.signature = predictor.signature.with_instructions(candidate.instructions[name])
    return copy


# -- the LM -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Sampled:
    """What the engine knows of one completion when it hands it to the recorder."""

    messages: tuple[Mapping[str, Any], ...]
    prompt_ids: tuple[int, ...]
    completion: Completion
    temperature: float
    text: str


class _EngineBase:
    """What the sync and the async engine share: from a request to a future, and back."""

    supports_function_calling = False
    supports_response_schema = False
    supports_reasoning = False

    def __init__(self, host: PolicyHost) -> None:
        self._host = host

    def __deepcopy__(self, memo: dict[int, Any]) -> _EngineBase:
        return self  # programs are copied for every candidate; the host is one

    def _start(self, request: Request) -> tuple[_Pending, Future[Completion]]:
        recorder = dspy.settings.get(RECORDER)
        if not isinstance(recorder, RolloutRecorder):
            raise ProgramError(
                "the policy was called outside a rollout; programs that start threads of their own "
                "must use dspy.Parallel or contextvars.copy_context().run"
            )
        _refuse_unsupported(request)
        messages = _messages(request)
        prompt_ids = self._host.tokenizer.render(messages)
        sampling = _sampling(recorder.sampling, request)
        room = self._host.context_length - len(prompt_ids)
        if room < 1:
            raise PromptTooLong(
                f"the prompt has {len(prompt_ids)} tokens, the policy's context "
                f"{self._host.context_length}: shorten the input or the instruction"
            )
        if sampling.max_tokens > room:
            sampling = Sampling(sampling.temperature, sampling.top_p, room, sampling.stop)
        pending = _Pending(recorder, messages, prompt_ids, sampling)
        recorder.asked()
        return pending, self._host.submit(prompt_ids, sampling)

    def _finish(self, request: Request, pending: _Pending, completion: Completion) -> Response:
        text = self._host.tokenizer.decode(completion.token_ids)
        pending.recorder.attach(
            _Sampled(
                pending.messages,
                pending.prompt_ids,
                completion,
                pending.sampling.temperature,
                text,
            )
        )
        return Response(
            id=None,
            model=request.model,
            message=Message.assistant([TextPart(text)]),
            finish_reason="stop" if completion.finish_reason == "stop" else "length",
            usage=Usage(
                input_tokens=len(pending.prompt_ids), output_tokens=len(completion.token_ids)
            ),
        )


@dataclass(frozen=True)
class _Pending:
    recorder: RolloutRecorder
    messages: tuple[Mapping[str, Any], ...]
    prompt_ids: tuple[int, ...]
    sampling: Sampling


class PolicyEngine(_EngineBase):
    """DSPy's canonical engine over a policy host."""

    def complete(self, request: Request) -> Response:
        """Sample one completion; raises what the host raises, and at the rollout's deadline."""
        pending, future = self._start(request)
        try:
            completion = future.result(timeout=pending.recorder.remaining())
        except FutureTimeout:
            future.cancel()
            _timed_out(pending.recorder)
        return self._finish(request, pending, completion)


class AsyncPolicyEngine(_EngineBase):
    """The asynchronous half of the pair."""

    async def complete(self, request: Request) -> Response:
        """As :meth:`PolicyEngine.complete`, without blocking the event loop."""
        pending, future = self._start(request)
        try:
            completion = await asyncio.wait_for(
                asyncio.wrap_future(future), pending.recorder.remaining()
            )
        except TimeoutError:
            _timed_out(pending.recorder)
        return self._finish(request, pending, completion)


def policy_lm(host: PolicyHost) -> dspy.LM:
    """The LM through which programs sample from a host; usable inside a rollout only."""
    return dspy.LM(
        "fst/policy",
        engine=PolicyEngine(host),
        async_engine=AsyncPolicyEngine(host),
        cache=False,
        num_retries=0,
    )


def _timed_out(recorder: RolloutRecorder) -> NoReturn:
    raise RolloutTimeout(f"no completion within the rollout's {recorder.timeout:g} s")


def _refuse_unsupported(request: Request) -> None:
    if request.tools:
        raise ProgramError(
            "native function calling is not supported on a trained policy: its tokens could not be "
            "attributed; use an adapter with use_native_function_calling=False"
        )
    config = request.config
    unsupported = {
        "response_format": config.response_format,
        "top_k": config.top_k,
        "seed": config.seed,
        "frequency_penalty": config.frequency_penalty,
        "presence_penalty": config.presence_penalty,
    }
    given = [name for name, value in unsupported.items() if value is not None]
    if given:
        raise ProgramError(
            f"LM option(s) {', '.join(given)} would change the distribution that is sampled from, "
            "and the trainer could not follow; remove them from the predictor's config"
        )


def _messages(request: Request) -> tuple[Mapping[str, Any], ...]:
    system = request.system
    head = [] if system is None else [{"role": "system", "content": _text(system)}]
    return tuple([*head, *({"role": m.role, "content": _text(m.parts)} for m in request.messages)])


def _text(parts: str | Sequence[Any]) -> str:
    if isinstance(parts, str):
        return parts
    strangers = [type(part).__name__ for part in parts if not isinstance(part, TextPart)]
    if strangers:
        raise ProgramError(f"only text can be sampled from a policy; got {', '.join(strangers)}")
    return "".join(part.text for part in parts)


def _sampling(default: Sampling, request: Request) -> Sampling:
    """The rollout's sampling, with what the predictor asks for on top."""
    asked = request.config
    return Sampling(
        temperature=default.temperature if asked.temperature is None else asked.temperature,
        top_p=default.top_p if asked.top_p is None else asked.top_p,
        max_tokens=default.max_tokens if asked.max_tokens is None else asked.max_tokens,
        stop=tuple(asked.stop) if asked.stop else default.stop,
    )


# -- the recorder -----------------------------------------------------------------------------


@dataclass
class _Invocation:
    """One run of one predictor: its inputs and what was sampled for it, in order."""

    predictor: str
    inputs: Mapping[str, Any]
    calls: list[_Sampled] = field(default_factory=list[_Sampled])
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

    def remaining(self) -> float | None:
        """Seconds until the rollout's deadline; ``None`` without one."""
        if self.timeout == float("inf"):
            return None
        return max(0.0, self._deadline - time.monotonic())

    def asked(self) -> None:
        """Count one request to the host."""
        with self._lock:
            self._asked += 1

    def attach(self, sampled: _Sampled) -> None:
        """Attribute one completion to the predictor whose LM call is running."""
        with self._lock:
            parent = self._lm_parent.get(ACTIVE_CALL_ID.get() or "")
            invocation = self._invocations.get(parent or "")
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
            return self._asked - self._orphans - len(self._order)

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
        parent = ACTIVE_CALL_ID.get()
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


class _StrayWatch(BaseCallback):
    """Notices predictors that run where no recorder is: in threads the program started itself."""

    def __init__(self) -> None:
        self.strays: set[str] = set()

    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        if dspy.settings.get(RECORDER) is None:
            self.strays.add(type(instance).__name__)


class RunnableProgram:
    """A program under one candidate, ready to be run many times at once."""

    def __init__(self, program: dspy.Module, candidate: Candidate) -> None:
        self.candidate = candidate
        self.module = apply(program, candidate)
        self._watch = _StrayWatch()
        self.names: dict[int, str] = {}
        for name, predictor in self.module.named_predictors():
            self.names[id(predictor)] = name
            predictor.callbacks = [*predictor.callbacks, self._watch]

    @contextlib.contextmanager
    def recording(
        self, lm: dspy.LM, adapter: dspy.Adapter, sampling: Sampling, timeout: float
    ) -> Iterator[tuple[RolloutRecorder, list[Any]]]:
        """Everything DSPy needs to run one rollout; yields the recorder and DSPy's trace."""
        recorder = RolloutRecorder(self.names, sampling, timeout)
        trace: list[Any] = []
        callbacks = [*(dspy.settings.get("callbacks") or []), recorder]
        with dspy.context(
            **{RECORDER: recorder},
            lm=lm,
            adapter=adapter,
            callbacks=callbacks,
            trace=trace,
            disable_history=True,
        ):
            yield recorder, trace

    def refuse_strays(self) -> None:
        """Raise if a predictor ran outside every rollout: its tokens would be lost in silence."""
        if self._watch.strays:
            raise ProgramError(
                "a predictor ran in a thread without the rollout's context, so its tokens cannot "
                "be attributed; start threads with dspy.Parallel or contextvars.copy_context().run"
            )

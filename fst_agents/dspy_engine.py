"""DSPy's canonical engine contract over a policy host: a request goes in, exact tokens come out."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from typing import Any, NoReturn

import dspy
from dspy.lm15 import Message, Request, Response, TextPart, Usage

from fst_agents.dspy_recorder import (
    POLICY_MODEL,
    RECORDER,
    RolloutRecorder,
    RolloutTimeout,
    Sampled,
)
from fst_agents.errors import FstError, ProgramError
from fst_agents.serving.host import PolicyHost
from fst_agents.types import Completion, Sampling


class PromptTooLong(FstError):
    """A prompt leaves no room for an answer: the rollout failed, the run goes on."""


class _EngineBase:
    """What the sync and the async engine share: from a request to a future, and back."""

    supports_function_calling = False
    supports_response_schema = False
    supports_reasoning = False

    def __init__(self, host: PolicyHost) -> None:
        self._host = host

    def __deepcopy__(self, memo: dict[int, Any]) -> _EngineBase:
        return self  # programs are copied for every candidate; the host is one

    def _start(
        self, recorder: RolloutRecorder, request: Request, order: tuple[int, int]
    ) -> tuple[_Pending, Future[Completion]]:
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
        pending = _Pending(recorder, order[1], messages, prompt_ids, sampling)
        return pending, self._host.submit(prompt_ids, sampling, order)

    def _finish(self, request: Request, pending: _Pending, completion: Completion) -> Response:
        text = self._host.tokenizer.decode(completion.token_ids)
        pending.recorder.attach(
            Sampled(
                pending.request,
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
    request: int
    messages: tuple[Mapping[str, Any], ...]
    prompt_ids: tuple[int, ...]
    sampling: Sampling


class PolicyEngine(_EngineBase):
    """DSPy's canonical engine over a policy host."""

    def complete(self, request: Request) -> Response:
        """Sample one completion; raises what the host raises, and at the rollout's deadline."""
        recorder = _recorder()
        with recorder.request() as order:
            pending, future = self._start(recorder, request, order)
            try:
                completion = future.result(timeout=recorder.remaining())
            except FutureTimeout:
                future.cancel()
                _timed_out(recorder)
            return self._finish(request, pending, completion)


class AsyncPolicyEngine(_EngineBase):
    """The asynchronous half of the pair."""

    async def complete(self, request: Request) -> Response:
        """As :meth:`PolicyEngine.complete`, without blocking the event loop."""
        recorder = _recorder()
        with recorder.request() as order:
            pending, future = self._start(recorder, request, order)
            try:
                completion = await asyncio.wait_for(
                    asyncio.wrap_future(future), recorder.remaining()
                )
            except TimeoutError:
                _timed_out(recorder)
            return self._finish(request, pending, completion)


def policy_lm(host: PolicyHost) -> dspy.LM:
    """The LM through which programs sample from a host; usable inside a rollout only."""
    return dspy.LM(
        POLICY_MODEL,
        engine=PolicyEngine(host),
        async_engine=AsyncPolicyEngine(host),
        cache=False,
        num_retries=0,
    )


def _recorder() -> RolloutRecorder:
    recorder = dspy.settings.get(RECORDER)
    if not isinstance(recorder, RolloutRecorder):
        raise ProgramError(
            "the policy was called outside a rollout; programs that start threads of their own "
            "must use dspy.Parallel or contextvars.copy_context().run"
        )
    return recorder


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
        # The host's log-probabilities would be those of the nucleus, the trainer's of all tokens.
        "top_p": None if config.top_p == 1 else config.top_p,
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
    return (*head, *({"role": m.role, "content": _text(m.parts)} for m in request.messages))


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

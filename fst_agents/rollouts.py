"""``collect``: a program × problems × candidates becomes rollouts with exact tokens.

A bad rollout is data: every failure is typed (:class:`~fst_agents.types.Outcome`), counted and
kept. Failures of the task score what the runner is told (0 by default) and carry feedback that
says what went wrong; failures of the infrastructure are tried again within a bound and then
masked. A program that loses tokens is no bad rollout but a broken set-up, and raises.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import dspy
from dspy.utils.exceptions import AdapterParseError

from fst_agents.dspy_bridge import RunnableProgram
from fst_agents.dspy_engine import policy_lm
from fst_agents.dspy_recorder import RolloutRecorder, RolloutTimeout
from fst_agents.errors import ProgramError, ServingError
from fst_agents.population import allocate
from fst_agents.scoring import Metric, MetricError, Scorer
from fst_agents.serving.host import PolicyHost
from fst_agents.types import (
    Call,
    Candidate,
    Feedback,
    Outcome,
    Population,
    Problem,
    Rollout,
    RolloutGroup,
    Sampling,
)

Job = tuple[Problem, Candidate]


@dataclass(frozen=True)
class Limits:
    """How many rollouts run at once, how long one may take (seconds), how often it is retried."""

    concurrency: int = 64
    timeout: float = 120.0
    retries: int = 1


class Runner:
    """Runs one program on one host; the same object serves training and evaluation.

    Args:
        failure_score: what an unreadable or crashed run scores (DESIGN §6: zero, not masked).
        adapter: DSPy adapter of the policy's calls; ``None``: the one the caller has configured,
            else ChatAdapter without its JSON fallback.
    """

    def __init__(
        self,
        program: dspy.Module,
        metric: Metric,
        host: PolicyHost,
        *,
        adapter: dspy.Adapter | None = None,
        limits: Limits | None = None,
        failure_score: float = 0.0,
    ) -> None:
        self.host = host
        self.limits = Limits() if limits is None else limits
        self._program = program
        self._scorer = Scorer(metric)
        # DSPy's default adapter asks the LM again, in JSON, when it cannot read an answer: two
        # samples where one was meant. A policy in training gets one.
        own = dspy.settings.get("adapter") if adapter is None else adapter
        self._adapter = dspy.ChatAdapter(use_json_adapter_fallback=False) if own is None else own
        self._failure_score = failure_score
        self._lm = policy_lm(host)
        self._runnable: dict[str, RunnableProgram] = {}
        self._pool = ThreadPoolExecutor(self.limits.concurrency, thread_name_prefix="fst-rollout")

    def close(self) -> None:
        """Let go of the worker threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def collect(
        self, jobs: Sequence[Job], sampling: Sampling, *, reflect: bool = False
    ) -> list[Rollout]:
        """One rollout per job, in order, all at once within the limits.

        ``reflect`` also asks a five-argument metric about every predictor that was called.

        Raises:
            ProgramError: tokens cannot be attributed to predictors.
        """
        programs = {c.id: self._prepare(c) for _, c in jobs}
        rollouts = list(
            self._pool.map(
                lambda job: self._insist(job[0], programs[job[1].id], sampling, reflect), jobs
            )
        )
        for runnable in programs.values():
            runnable.refuse_strays()
        return rollouts

    def collect_groups(
        self,
        problems: Sequence[Problem],
        population: Population,
        group_size: int,
        sampling: Sampling,
    ) -> list[RolloutGroup]:
        """G rollouts of each problem, dealt to the members of Φ (arXiv 2605.12484, step 3)."""
        members = population.candidates
        jobs = [
            (problem, member)
            for index, problem in enumerate(problems)
            for member, count in zip(
                members, allocate(len(members), group_size, index), strict=True
            )
            for _ in range(count)
        ]
        rollouts = self.collect(jobs, sampling)
        return [
            RolloutGroup(p.id, tuple(rollouts[i * group_size : (i + 1) * group_size]))
            for i, p in enumerate(problems)
        ]

    def _prepare(self, candidate: Candidate) -> RunnableProgram:
        if candidate.id not in self._runnable:
            if len(self._runnable) >= 64:  # a long run meets thousands of candidates
                self._runnable.clear()
            self._runnable[candidate.id] = RunnableProgram(self._program, candidate)
        return self._runnable[candidate.id]

    def _insist(
        self, problem: Problem, runnable: RunnableProgram, sampling: Sampling, reflect: bool
    ) -> Rollout:
        rollout = self._once(problem, runnable, sampling, reflect)
        for _ in range(self.limits.retries):
            if rollout.outcome not in (Outcome.INFRA_ERROR, Outcome.TIMEOUT):
                break
            rollout = self._once(problem, runnable, sampling, reflect)
        return rollout

    def _once(
        self, problem: Problem, runnable: RunnableProgram, sampling: Sampling, reflect: bool
    ) -> Rollout:
        started = time.perf_counter()
        version = self.host.policy.version
        inputs = dict(problem.example.inputs())
        with runnable.recording(self._lm, self._adapter, sampling, self.limits.timeout) as (
            recorder,
            trace,
        ):
            prediction, error = _run(runnable.module, inputs)
            calls = recorder.finish()
        outcome, error = _outcome(error, calls, recorder)
        scored = Feedback(None, str(error) if error else "")
        if outcome is Outcome.OK:
            try:
                scored = self._score(problem, prediction, trace, runnable, reflect)
            except MetricError as metric_error:
                outcome, error = Outcome.METRIC_ERROR, metric_error
        elif not outcome.masked:
            scored = _failure(outcome, error, calls, self._failure_score)
        return Rollout(
            problem_id=problem.id,
            candidate_id=runnable.candidate.id,
            policy_version=version,
            calls=calls,
            feedback=scored,
            outcome=outcome,
            prediction={} if prediction is None else dict(prediction.toDict()),
            inputs=inputs,
            error=f"{type(error).__name__}: {error}" if error else None,
            seconds=time.perf_counter() - started,
        )

    def _score(
        self,
        problem: Problem,
        prediction: Any,
        trace: Sequence[Any],
        runnable: RunnableProgram,
        reflect: bool,
    ) -> Feedback:
        feedback = self._scorer(problem.example, prediction, trace)
        if not (reflect and self._scorer.per_predictor):
            return feedback
        texts: dict[str, str] = {}
        for name in runnable.names.values():
            own = [entry for entry in trace if runnable.names.get(id(entry[0])) == name]
            if own:
                said = self._scorer.of_predictor(problem.example, prediction, trace, name, own)
                if said.text:
                    texts[name] = said.text
        return replace(feedback, predictor_text=texts)


def _run(module: dspy.Module, inputs: dict[str, Any]) -> tuple[Any, Exception | None]:
    """The boundary between a user's program and us: whatever it raises is data."""
    try:
        if hasattr(type(module), "forward"):  # on the object, DSPy takes it for a call and warns
            prediction = module(**inputs)
        else:  # a program that is asynchronous only
            prediction = asyncio.run(module.acall(**inputs))
    except Exception as error:  # noqa: BLE001
        return None, error
    if not hasattr(prediction, "toDict"):
        return None, TypeError(
            f"the program returned {type(prediction).__name__}; expected a dspy.Prediction"
        )
    return prediction, None


def _outcome(
    error: Exception | None, calls: Sequence[Call], recorder: RolloutRecorder
) -> tuple[Outcome, Exception | None]:
    """Attribute a failure once, to the boundary it crossed; also the error that says it.

    Failed requests count even where the program has swallowed their exception.

    Raises:
        ProgramError: the fault is the set-up's, not this rollout's.
    """
    raised = [] if error is None else _causes(error)
    for cause in [c for failure in recorder.failures for c in _causes(failure)] + raised:
        if isinstance(cause, ProgramError):
            raise cause
        if isinstance(cause, RolloutTimeout):
            return Outcome.TIMEOUT, cause
        if isinstance(cause, ServingError):
            return Outcome.INFRA_ERROR, cause
    if error is None:
        if recorder.unanswered:
            raise ProgramError(
                f"{recorder.unanswered} request(s) to the policy came back outside the rollout: "
                "the program returned while its own threads were still calling"
            )
        return Outcome.OK, None
    if calls and any(isinstance(cause, AdapterParseError) for cause in raised):
        truncated = _last_unread(calls).finish_reason == "length"
        return (Outcome.TRUNCATED if truncated else Outcome.PARSE_FAILURE), error
    return Outcome.PROGRAM_ERROR, error


def _last_unread(calls: Sequence[Call]) -> Call:
    """The call whose completion the adapter could not read; others may have been made since."""
    return next((call for call in reversed(calls) if not call.parsed), calls[-1])


def _causes(error: BaseException) -> list[BaseException]:
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in chain:
        chain.append(current)
        current = current.__cause__ or current.__context__
    return chain


def _failure(
    outcome: Outcome, error: Exception | None, calls: Sequence[Call], score: float
) -> Feedback:
    """Zero, with feedback that says so: the reflection model can mend a format."""
    failed = _last_unread(calls) if calls else None
    said = failed.text if failed else ""
    texts = {
        Outcome.PARSE_FAILURE: f"The answer could not be read in the expected format: {said!r}.",
        Outcome.TRUNCATED: f"The answer was cut off at the token limit: {said!r}.",
        Outcome.PROGRAM_ERROR: f"The program failed: {error}",
    }
    text = texts[outcome]
    return Feedback(score, text, predictor_text={failed.predictor: text} if failed else {})

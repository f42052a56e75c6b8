"""``collect``: a program × problems × candidates becomes rollouts with exact tokens.

A bad rollout is data: every failure is typed (:mod:`fst_agents.outcomes`), counted and kept.
Failures of the task score what the runner is told (0 by default) and carry feedback that says what
went wrong; failures of the infrastructure are tried again within a bound and then masked. A
program or a metric that never comes back is given up, with its thread (:mod:`fst_agents.workers`).
A program that loses tokens is no bad rollout but a broken set-up, and raises.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import dspy

from fst_agents.dspy_bridge import RunnableProgram, named_predictors
from fst_agents.dspy_engine import policy_lm
from fst_agents.dspy_fixed import AdapterByModel, learning_predictors
from fst_agents.dspy_recorder import RolloutRecorder, RolloutTimeout
from fst_agents.outcomes import FailureScores, failure_feedback, judge
from fst_agents.population import allocate
from fst_agents.redaction import hide, secrets_of
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
from fst_agents.workers import Workers

Job = tuple[Problem, Candidate]


@dataclass(frozen=True)
class Limits:
    """How many rollouts run at once, how long one may take (seconds), how often it is retried.

    ``timeout`` bounds what it waits for the policy; ``grace`` seconds later it is given up,
    whatever it is doing.
    """

    concurrency: int = 64
    timeout: float = 120.0
    retries: int = 1
    grace: float = 30.0


@dataclass
class _Run:
    """One job of :meth:`Runner.collect`, and its attempt under way in as far as others may look."""

    number: int
    problem: Problem
    runnable: RunnableProgram
    sampling: Sampling
    reflect: bool
    started: float = 0.0
    policy_version: int = 0
    recorder: RolloutRecorder | None = None


class Runner:
    """Runs one program on one host; the same object serves training and evaluation.

    Args:
        adapter: DSPy adapter of the policy's calls; ``None``: the one the caller has configured,
            else ChatAdapter without its JSON fallback.
        fixed: predictor name → an LM of its own, which is neither trained nor evolved, beside
            those that the program's author gave one (:mod:`fst_agents.dspy_fixed`).
        failures: what a rollout scores that failed by the policy's fault.
        score_range: the least and the most that the metric may return; ``None``: any number.

    Raises:
        ProgramError: ``fixed`` names a predictor that the program does not have.
    """

    def __init__(
        self,
        program: dspy.Module,
        metric: Metric,
        host: PolicyHost,
        *,
        adapter: dspy.Adapter | None = None,
        limits: Limits | None = None,
        fixed: Mapping[str, dspy.BaseLM] | None = None,
        failures: FailureScores | None = None,
        score_range: tuple[float, float] | None = None,
    ) -> None:
        self.host = host
        self.limits = Limits() if limits is None else limits
        self._program = program
        self._fixed = {} if fixed is None else dict(fixed)
        self._failures = FailureScores() if failures is None else failures
        self.learning = learning_predictors(program, self._fixed)
        """The predictors that run on the policy, in the program's order."""
        named = named_predictors(program)
        self._scorer = Scorer(metric, score_range=score_range, predictors=tuple(named))
        models = [*self._fixed.values(), *(p.lm for p in named.values() if p.lm is not None)]
        self._secrets = secrets_of({"": [*(m.kwargs for m in models), dict(os.environ)]})
        # DSPy's default adapter asks the LM again, in JSON, when it cannot read an answer: two
        # samples where one was meant. A policy in training gets one.
        configured = dspy.settings.get("adapter")
        own = configured if adapter is None else adapter
        self._adapter = AdapterByModel(
            dspy.ChatAdapter(use_json_adapter_fallback=False) if own is None else own, configured
        )
        self._lm = policy_lm(host)
        self._runnable: dict[str, RunnableProgram] = {}
        size = self.limits.concurrency
        self._workers = Workers(size, self.limits.timeout + self.limits.grace, 2 * size)

    @property
    def lost_threads(self) -> int:
        """Threads of rollouts that were given up and hang to this moment."""
        return self._workers.lost

    def close(self) -> None:
        """Begin no more rollouts. Threads that hang are left behind; they keep nobody waiting."""
        self._workers.close()

    def collect(
        self, jobs: Sequence[Job], sampling: Sampling, *, reflect: bool = False, label: str = ""
    ) -> list[Rollout]:
        """One rollout per job, in order, all at once within the limits.

        Args:
            reflect: also ask a five-argument metric about every predictor that was called.
            label: what these rollouts are for. On a host that can, equal labels, jobs and weights
                give equal rollouts; asking again for new ones takes another label.

        Raises:
            ProgramError: tokens cannot be attributed to predictors, or more than twice as many
                rollouts hang as may run at once.
        """
        programs = {c.id: self._prepare(c) for _, c in jobs}
        runs = [
            _Run(number, problem, programs[candidate.id], sampling, reflect)
            for number, (problem, candidate) in enumerate(jobs)
        ]
        at_once = min(self.limits.concurrency, len(jobs))
        with self.host.rollouts(len(jobs), at_once, f"{label}/{_digest(jobs)}") as ended:
            rollouts = self._workers.run(
                lambda number, begin: self._insist(runs[number], begin),
                len(jobs),
                lambda number, where: self._given_up(runs[number], where),
                ended,
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
        *,
        label: str = "",
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
        rollouts = self.collect(jobs, sampling, label=label)
        return [
            RolloutGroup(p.id, tuple(rollouts[i * group_size : (i + 1) * group_size]))
            for i, p in enumerate(problems)
        ]

    def _prepare(self, candidate: Candidate) -> RunnableProgram:
        if candidate.id not in self._runnable:
            if len(self._runnable) >= 64:  # a long run meets thousands of candidates
                del self._runnable[next(iter(self._runnable))]
            self._runnable[candidate.id] = RunnableProgram(self._program, candidate, self._fixed)
        return self._runnable[candidate.id]

    def _insist(self, run: _Run, begin: Callable[[], None]) -> Rollout:
        begin()
        rollout = self._once(run, self._adapter)
        for _ in range(self.limits.retries):
            if rollout.outcome not in (Outcome.INFRA_ERROR, Outcome.TIMEOUT):
                break
            begin()
            rollout = self._once(run, self._adapter.refreshed())
        return rollout

    def _once(self, run: _Run, adapter: AdapterByModel) -> Rollout:
        runnable, limit = run.runnable, self.limits.timeout
        run.recorder = None
        run.started, run.policy_version = time.perf_counter(), self.host.policy.version
        inputs = dict(run.problem.example.inputs())
        with runnable.recording(self._lm, adapter, run.sampling, limit, run.number) as opened:
            run.recorder, trace = opened
            recorder = run.recorder
            prediction, error = _run(runnable.module, inputs)
            calls = recorder.finish()
        outcome, error = judge(error, calls, recorder.failures, recorder.unanswered)
        scored = Feedback(None, str(error) if error else "")
        if outcome is Outcome.OK:
            try:
                scored = self._score(run.problem, prediction, trace, runnable, run.reflect)
            except MetricError as metric_error:
                outcome, error = Outcome.METRIC_ERROR, metric_error
        elif not outcome.masked:
            scored = failure_feedback(outcome, error, calls, self._failures)
        rollout = _ended(run, calls, scored, outcome, error)
        if rollout.error is not None:
            told = replace(scored, text=hide(scored.text, self._secrets))
            rollout = replace(rollout, error=hide(rollout.error, self._secrets), feedback=told)
        return replace(rollout, prediction={} if prediction is None else dict(prediction.toDict()))

    def _given_up(self, run: _Run, where: str) -> Rollout:
        """What is left of a rollout that does not come back: the calls that it has paid for."""
        calls = () if run.recorder is None else run.recorder.finish()
        limits = self.limits
        error = RolloutTimeout(
            f"given up {limits.grace:g} s after the rollout's {limits.timeout:g} s, while {where}"
        )
        return _ended(run, calls, Feedback(None, str(error)), Outcome.TIMEOUT, error)

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
        for name in self.learning:
            own = [entry for entry in trace if runnable.names.get(id(entry[0])) == name]
            if own:
                said = self._scorer.of_predictor(problem.example, prediction, trace, name, own)
                if said.text:
                    texts[name] = said.text
        return replace(feedback, predictor_text=texts)


def _ended(
    run: _Run, calls: tuple[Call, ...], scored: Feedback, outcome: Outcome, error: Exception | None
) -> Rollout:
    return Rollout(
        problem_id=run.problem.id,
        candidate_id=run.runnable.candidate.id,
        policy_version=run.policy_version,
        calls=calls,
        feedback=scored,
        outcome=outcome,
        inputs=dict(run.problem.example.inputs()),
        error=f"{type(error).__name__}: {error}" if error else None,
        seconds=time.perf_counter() - run.started,
    )


def _digest(jobs: Sequence[Job]) -> str:
    names = "\n".join(f"{problem.id}\t{candidate.id}" for problem, candidate in jobs)
    return hashlib.sha256(names.encode(errors="replace")).hexdigest()[:16]


def _run(module: dspy.Module, inputs: dict[str, Any]) -> tuple[Any, Exception | None]:
    """The boundary between a user's program and us: whatever it raises is data."""
    try:
        if hasattr(type(module), "forward"):  # on the object, DSPy takes it for a call and warns
            prediction = module(**inputs)
        else:  # a program that is asynchronous only
            prediction = asyncio.run(module.acall(**inputs))
    except asyncio.CancelledError as error:  # no Exception: it would end the run
        left = RuntimeError("the program let the cancellation of one of its own tasks out")
        left.__cause__ = error
        return None, left
    except Exception as error:  # noqa: BLE001
        return None, error
    if not hasattr(prediction, "toDict"):
        return None, TypeError(
            f"the program returned {type(prediction).__name__}; expected a dspy.Prediction"
        )
    return prediction, None

"""A run is put together: what was asked for, and an open run, become the parts that the loop needs.

What has to be closed is closed by the open run's stack.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dspy

from fst_agents.config import RunConfig, least_score
from fst_agents.outcomes import FailureScores
from fst_agents.redaction import secrets_of
from fst_agents.rollouts import Limits, Runner
from fst_agents.scoring import Metric
from fst_agents.serving.choose import choose_host
from fst_agents.serving.host import PolicyHost
from fst_agents.stream import ProblemStream
from fst_agents.types import Candidate, Policy, Problem, Sampling
from optimizers.books import Ledgers, Trainer
from optimizers.evaluation import Validation
from optimizers.loop import Observer, Parts
from optimizers.open_run import OpenRun
from optimizers.plan import Phase, SlowPhase
from optimizers.protocols import FastOptimizer
from optimizers.reflection import RecordedReflection


@dataclass(frozen=True)
class Asked:
    """What a call of ``compile`` asks for, checked.

    Attributes:
        host: serves the policy instead of the one ``config.serve`` asks for.
        reflection: from prompt to text; absent where nothing evolves.
        reflection_lm: what ``reflection`` asks, where it was given as an object.
    """

    config: RunConfig
    student: dspy.Module
    metric: Metric
    eval_metric: Metric
    adapter: dspy.Adapter | None
    policy: Policy
    host: PolicyHost | None
    seed: Candidate
    fixed: Mapping[str, dspy.LM]
    phases: Sequence[Phase]
    reflection: Callable[[str], str] | None
    reflection_lm: Callable[[str], Any] | None
    stream: ProblemStream
    val: Sequence[Problem]
    identity: Mapping[str, str]


@dataclass(frozen=True)
class Assembly:
    """Makes the parts of one run."""

    asked: Asked
    opened: OpenRun
    observer: Observer

    def parts(self) -> Parts:
        """What the loop works with. A run that was distilling when it stopped trains no more."""
        asked, opened = self.asked, self.opened
        host = self._host()
        settings = asked.config.sampling
        failures = FailureScores(settings.failure_score, settings.partial_credit)
        runner = self.runner(host, asked.metric, failures)
        learns = any(isinstance(phase, SlowPhase) for phase in asked.phases)
        distills = opened.resumed is not None and opened.resumed.state.distilled > 0
        slow = self._slow() if learns and not distills else None
        recorded = None if asked.reflection is None else self._record(asked.reflection)
        fast = None if recorded is None else self._fast(recorded, runner)
        ledgers = Ledgers(
            opened.run_dir, opened.tracker, opened.checkpoints, recorded, asked.identity
        )
        return Parts(
            asked.config,
            host,
            runner,
            asked.stream,
            ledgers,
            self.observer,
            fast,
            slow,
            self._validation(host),
        )

    def runner(self, host: PolicyHost, metric: Metric, failures: FailureScores) -> Runner:
        """What runs the student on a host."""
        limits = self.asked.config.sampling
        runner = Runner(
            self.asked.student,
            metric,
            host,
            adapter=self.asked.adapter,
            limits=Limits(limits.concurrency, limits.timeout, limits.retries),
            fixed=self.asked.fixed,
            failures=failures,
            score_range=self.asked.config.task.score_range,
        )
        self.opened.stack.callback(runner.close)
        return runner

    def judge(self, host: PolicyHost) -> tuple[Runner, Sampling]:
        """What held-out problems are asked with: a failure earns no credit for parts."""
        config = self.asked.config
        judge = self.runner(host, self.asked.eval_metric, FailureScores(least_score(config)))
        return judge, Sampling(config.eval.temperature, max_tokens=config.sampling.max_tokens)

    def _validation(self, host: PolicyHost) -> Validation | None:
        """What is asked before the end, if anything is."""
        settings = self.asked.config.eval
        if not self.asked.val or settings.every is None:
            return None
        judge, sampling = self.judge(host)
        first = self.asked.val[: settings.problems]
        return Validation(judge, first, settings.samples, sampling, settings.every)

    def _host(self) -> PolicyHost:
        asked, opened = self.asked, self.opened
        host = asked.host
        if host is None:
            host, why = choose_host(asked.config, asked.policy, opened.run_dir.path / "serve")
            opened.stack.callback(host.close)
            self.observer.note(f"serving: {why}")
            opened.tracker.set_tags({"host": why})
        wanted = asked.policy if opened.resumed is None else opened.resumed.policy
        if host.policy != wanted:  # a given host may serve the weights of an earlier run
            host.update(wanted)
        return host

    def _slow(self) -> Trainer:
        from optimizers.slow_grpo import GrpoSlow  # trl takes seconds to import

        resumed = self.opened.resumed
        if resumed is None:
            slow = GrpoSlow(self.asked.policy, self.asked.config)
        else:
            slow = GrpoSlow(resumed.policy, self.asked.config, resume=resumed.trainer)
        self.opened.stack.callback(slow.close)
        return slow

    def _record(self, reflection: Callable[[str], str]) -> RecordedReflection:
        resumed, lm = self.opened.resumed, self.asked.reflection_lm
        given = [self.asked.config.fast.reflection_args, getattr(lm, "kwargs", {})]
        return RecordedReflection(
            reflection,
            self.opened.run_dir.reflections_log,
            0 if resumed is None else resumed.state.marks.reflections,
            source=lm,
            secrets=secrets_of({"": [*given, dict(os.environ)]}),
        )

    def _fast(self, reflection: Callable[[str], str], runner: Runner) -> FastOptimizer:
        from optimizers.fast_gepa import GepaFast

        config, resumed = self.asked.config, self.opened.resumed
        names, scores = config.fast.evolve, config.task.score_range
        return GepaFast(
            config.fast,
            reflection,
            config.seed,
            perfect_score=1.0 if scores is None else scores[1],
            components=runner.learning if names == "*" else names,
            proven=resumed is not None and resumed.state.spend.reflection_calls > 0,
        )

"""The loop of fast-slow training, as the paper writes it (arXiv 2605.12484, Algorithm 1).

For each cycle: look ahead T batches (the anchor set); evolve Φ on them under θ; then T RL steps,
one per batch, every problem's G rollouts dealt over the members of Φ and their advantages
computed together; serve the new θ. Both learn on the same reward.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from fst_agents.bridge import to_samples
from fst_agents.config import RunConfig
from fst_agents.errors import ConfigError, ServingError
from fst_agents.ledger import LedgerEvaluate, RolloutLedger
from fst_agents.rollouts import Runner
from fst_agents.run_dir import RunDir
from fst_agents.serving.host import PolicyHost
from fst_agents.stream import ProblemStream
from fst_agents.tracking import Tracker
from fst_agents.types import (
    Candidate,
    Outcome,
    Policy,
    Population,
    Problem,
    Rollout,
    RolloutGroup,
    RunState,
    Sampling,
    Spend,
    StepReport,
    TrainingSample,
)
from optimizers.plan import FastPhase, Phase, SlowPhase
from optimizers.protocols import FastOptimizer, SlowOptimizer

LOGP_GAP = {"float32": 1e-3, "bfloat16": 0.25}
"""Largest |Δ log p| between host and trainer that is still the same policy, by precision.

Seen: 2e-6 in float32; 0.014 in bfloat16. A stale or wrongly loaded weight shows as 0.5 and more.
"""


class Observer(Protocol):
    """Watches a run go by: a progress bar, a test."""

    def note(self, text: str) -> None: ...

    def begin(self, phases: Sequence[Phase], config: RunConfig) -> None: ...

    def fast(self, phase: FastPhase, report: StepReport, population: Population) -> None: ...

    def slow(self, step: int, report: StepReport) -> None: ...


class Silence:
    """The observer that says nothing."""

    def note(self, text: str) -> None: ...

    def begin(self, phases: Sequence[Phase], config: RunConfig) -> None: ...

    def fast(self, phase: FastPhase, report: StepReport, population: Population) -> None: ...

    def slow(self, step: int, report: StepReport) -> None: ...


@dataclass
class Parts:
    """What the loop works with; everything is made, and closed, by whoever calls it."""

    config: RunConfig
    host: PolicyHost
    runner: Runner
    stream: ProblemStream
    run_dir: RunDir
    tracker: Tracker
    observer: Observer
    fast: FastOptimizer | None
    slow: SlowOptimizer | None


class Loop:
    """Runs the phases of a plan and keeps the books. ``population`` and ``policy`` are Φ and θ."""

    def __init__(self, parts: Parts, seed: Candidate) -> None:
        self.population = Population((seed,))
        self.spend = Spend()
        self.step = 0
        self.cycle = 0
        self.history: list[StepReport] = []
        self.stopped = "done"
        self._parts = parts
        self._ledger = RolloutLedger(parts.config.fast.max_staleness)
        self._recent = deque[Rollout]()
        self._started = time.monotonic()
        c = parts.config.sampling
        self._sampling = Sampling(c.temperature, max_tokens=c.max_tokens)

    @property
    def policy(self) -> Policy:
        """θ as it is served."""
        return self._parts.host.policy

    def run(self, phases: Sequence[Phase]) -> None:
        """Run the phases in order, until they are done or the time is up.

        However it ends, ``state.json`` says where the run stands.
        """
        self._parts.observer.begin(phases, self._parts.config)
        try:
            self._run(phases)
        finally:
            self._save()

    def _run(self, phases: Sequence[Phase]) -> None:
        for phase in phases:
            self.cycle = phase.cycle
            if isinstance(phase, FastPhase):
                self._evolve(phase)
            elif self._solved(self._learn(phase)):
                self.stopped = "budget.enough"
                return
            if self._out_of_time():
                self.stopped = "budget.seconds"
                return

    # -- the two phases -----------------------------------------------------------------------

    def _evolve(self, phase: FastPhase) -> None:
        """The fast phase: Φ evolves on the anchor set under fixed θ."""
        parts = self._parts
        assert parts.fast is not None
        anchor = parts.stream.look_ahead(phase.batches)
        self._recent = deque(maxlen=len(anchor))
        evaluate = LedgerEvaluate(self._reflected, self._ledger, policy_version=self.policy.version)
        with parts.tracker.fast_phase(phase.cycle):
            self.population, report = parts.fast.evolve(
                self.population,
                anchor,
                evaluate,
                rollouts=phase.rollouts,
                policy_version=self.policy.version,
                cycle=phase.cycle,
            )
            calls = int(report.metrics.get("fast/reflection_calls", 0))
            self.spend += Spend(fast_rollouts=evaluate.spent(), reflection_calls=calls)
            self._book("fast", report)
            record = parts.fast.records[-1].to_dict()
            parts.run_dir.write_population(phase.cycle, self.population, record)
            parts.tracker.log_population(phase.cycle, self.population, record)
        if phase.passes:
            parts.stream.skip(phase.batches)
        self._save()
        parts.observer.fast(phase, report, self.population)

    def _learn(self, phase: SlowPhase) -> list[float]:
        """The slow phase: T RL steps, one per batch; returns their mean rewards."""
        rewards: list[float] = []
        for _ in range(phase.steps):
            problems = self._parts.stream.next()
            groups = self._rollouts(problems)
            report = self._update(groups)
            self._book("slow", report)
            self._save()
            self._parts.observer.slow(self.step, report)
            rewards.append(report.metrics["slow/reward"])
            if self._out_of_time():
                break
        return rewards

    def _solved(self, rewards: Sequence[float]) -> bool:
        enough = self._parts.config.budget.enough
        return enough is not None and sum(rewards) / len(rewards) >= enough

    # -- one RL step --------------------------------------------------------------------------

    def _rollouts(self, problems: Sequence[Problem]) -> list[RolloutGroup]:
        """G rollouts per problem over Φ, all from the policy being trained."""
        parts = self._parts
        groups = parts.runner.collect_groups(
            problems, self.population, parts.config.slow.group_size, self._sampling
        )
        rollouts = [r for group in groups for r in group.rollouts_G]
        self._ledger.add(rollouts)
        self.spend += Spend(slow_rollouts=len(rollouts), tokens=_tokens(rollouts))
        parts.run_dir.add_rollouts(self.step + 1, rollouts)
        self._refuse_useless(rollouts)
        return groups

    def _update(self, groups: Sequence[RolloutGroup]) -> StepReport:
        """Advantages over each problem's whole group, one optimizer step, serve the result."""
        parts, slow = self._parts, self._parts.slow
        assert slow is not None
        settings = parts.config.slow
        batch = to_samples(
            groups,
            policy_version=self.policy.version,
            temperature=self._sampling.temperature,
            weighting=settings.weighting,
            epsilon=settings.advantage_epsilon,
            train=None if settings.predictors == "*" else settings.predictors,
        )
        metrics = {
            **batch.report.metrics(),
            **{f"slow/reward/{c}": r for c, r in batch.report.candidate_reward.items()},
        }
        report = slow.update(batch.samples)
        self.step += 1
        if batch.samples:
            self.spend += Spend(gradient_steps=1)
            metrics |= self._serve(batch.samples[0])
        rollouts = [r for group in groups for r in group.rollouts_G]
        if self.step == 1 or self.step % 10 == 0:
            parts.tracker.log_rollouts(self.step, rollouts)
        return StepReport(self.step, {**metrics, **report.metrics})

    def _serve(self, probe: TrainingSample) -> dict[str, float]:
        """Hand the new weights to the host, and prove that they arrived: one probe."""
        parts, slow = self._parts, self._parts.slow
        assert slow is not None
        started = time.monotonic()
        policy = slow.publish(parts.run_dir.policy_folder(slow.policy.version))
        parts.host.update(policy)
        seconds = time.monotonic() - started
        parts.run_dir.prune_policies()
        gap = logp_gap(parts.host, slow, probe.prompt_ids, self._sampling)
        limit = LOGP_GAP[parts.config.policy.dtype]
        if not gap <= limit:
            raise ServingError(
                f"the {parts.host.name} host does not serve what was trained: max |Δ log p| is "
                f"{gap:.2g} at version {policy.version}, at most {limit:g} is rounding "
                f"({parts.config.policy.dtype}); the weights did not arrive"
            )
        return {
            "serve/logp_gap": gap,
            "serve/sync_seconds": seconds,
            "serve/policy_version": float(policy.version),
        }

    # -- the books ----------------------------------------------------------------------------

    def _reflected(self, candidate: Candidate, problems: Sequence[Problem]) -> list[Rollout]:
        """Rollouts of the fast phase: they carry feedback per predictor."""
        rollouts = self._parts.runner.collect(
            [(p, candidate) for p in problems], self._sampling, reflect=True
        )
        self.spend += Spend(tokens=_tokens(rollouts))
        self._parts.run_dir.add_rollouts(f"fast-{self.cycle:03d}", rollouts)
        # A proposal may be tried on a handful of problems, where one lost rollout is a large share.
        self._recent.extend(rollouts)
        self._refuse_useless([*self._recent])
        return rollouts

    def _refuse_useless(self, rollouts: Sequence[Rollout]) -> None:
        """Stop where nothing can be learnt: the server fails, or the metric does not score."""
        masked = [r for r in rollouts if r.outcome.masked]
        limit = self._parts.config.sampling.max_infra_share
        if len(masked) > limit * len(rollouts):
            example = next(iter(masked))
            error = ConfigError if example.outcome is Outcome.METRIC_ERROR else ServingError
            raise error(
                f"{len(masked)} of {len(rollouts)} rollouts failed outside the policy (limit "
                f"sampling.max_infra_share = {limit:g}); problem {example.problem_id!r}: "
                f"{example.outcome}: {example.error}"
            )
        if all(r.score is None for r in rollouts):
            raise ConfigError(
                f"the metric returned no score for any of {len(rollouts)} rollouts; it must return "
                "a number, or a dspy.Prediction with `score`"
            )

    def _book(self, phase: str, report: StepReport) -> None:
        self.spend = replace(self.spend, seconds=time.monotonic() - self._started)
        rollouts = self.spend.fast_rollouts + self.spend.slow_rollouts
        self.history.append(report)
        self._parts.run_dir.add_metrics(
            self.step,
            "fast" if phase == "fast" else "slow",
            report.metrics,
            rollouts=rollouts,
            seconds=self.spend.seconds,
        )
        budget = {f"budget/{name}": float(v) for name, v in self.spend.to_dict().items()}
        self._parts.tracker.log_metrics(
            {**report.metrics, **budget}, step=self.step, rollouts=rollouts
        )

    def _save(self) -> None:
        self._parts.run_dir.write_state(self.state())

    def state(self) -> RunState:
        """Where the run stands."""
        return RunState(
            cycle=self.cycle,
            step=self.step,
            population=self.population,
            policy=self.policy,
            spend=self.spend,
            cursor=self._parts.stream.cursor,
            mlflow_run_id=self._parts.tracker.run_id,
        )

    def _out_of_time(self) -> bool:
        limit = self._parts.config.budget.seconds
        return limit is not None and time.monotonic() - self._started > limit


def logp_gap(
    host: PolicyHost, slow: SlowOptimizer, prompt_ids: Sequence[int], sampling: Sampling
) -> float:
    """max |Δ log p| between host and trainer over one freshly sampled completion."""
    sampled = host.submit(prompt_ids, sampling).result()
    [own] = slow.logprobs([prompt_ids], [sampled.token_ids], temperature=sampling.temperature)
    gaps = [abs(a - b) for a, b in zip(own, sampled.logprobs, strict=True)]
    return max(gaps) if all(map(math.isfinite, gaps)) else math.inf


def _tokens(rollouts: Sequence[Rollout]) -> int:
    return sum(r.prompt_tokens + r.completion_tokens for r in rollouts)

"""The loop of fast-slow training, as the paper writes it (arXiv 2605.12484, Algorithm 1).

For each cycle: look ahead T batches (the anchor set); evolve Φ on them under θ; then T RL steps,
one per batch, every problem's G rollouts dealt over the members of Φ and their advantages
computed together; serve the new θ. Both learn on the same reward. After every fast phase and RL
step the run is saved, so that it can be gone on with after any stop (docs/reliability.md).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from fst_agents.bridge import Batch, to_samples
from fst_agents.config import RunConfig
from fst_agents.errors import ServingError
from fst_agents.ledger import LedgerEvaluate, RolloutLedger
from fst_agents.population import rescored
from fst_agents.rollouts import Runner
from fst_agents.serving.host import PolicyHost
from fst_agents.stream import ProblemStream
from fst_agents.types import (
    Candidate,
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
from optimizers.books import Books, Ledgers, Trainer
from optimizers.evaluation import Validation, kl_of
from optimizers.fast_rollouts import FastRollouts, refuse_useless, tokens, write_down
from optimizers.parity import LOGP_GAP, logp_gap, refuse_foreign
from optimizers.plan import FastPhase, Phase, SlowPhase
from optimizers.protocols import FastOptimizer
from optimizers.schedule import Decision, Schedule

TIME_IS_UP = "budget.seconds"
"""Why a run stopped that may go on once it is given more time."""


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
    """What the loop works with; everything is made, and closed, by whoever calls it.

    ``validation`` is absent where nothing is asked before the end.
    """

    config: RunConfig
    host: PolicyHost
    runner: Runner
    stream: ProblemStream
    ledgers: Ledgers
    observer: Observer
    fast: FastOptimizer | None
    slow: Trainer | None
    validation: Validation | None = None


class Loop:
    """Runs the phases of a plan. ``population`` and ``policy`` are Φ and θ."""

    def __init__(self, parts: Parts, seed: Candidate) -> None:
        self.population = Population((seed,))
        self.step = 0
        self.cycle = 0
        self.stopped: str | None = None
        """Why training is over, ``None`` while it is not."""
        self.distilled = 0
        """Steps of the finishing stage, which follows the loop, that have been taken."""
        self.books = Books(parts.ledgers, parts.runner.learning)
        self._phase = 0
        self._rewards: list[float] = []
        self._schedule = Schedule(parts.config)
        self._parts = parts
        self._run_dir, self._tracker = parts.ledgers.run_dir, parts.ledgers.tracker
        self._rollouts_seen = RolloutLedger(parts.config.fast.max_staleness)
        c = parts.config.sampling
        self._sampling = Sampling(c.temperature, max_tokens=c.max_tokens)

    @property
    def policy(self) -> Policy:
        """θ as it is served."""
        return self._parts.host.policy

    def take_up(self, state: RunState, seen: Iterable[Rollout]) -> None:
        """Go on from a checkpoint, whose weights the host serves already.

        Args:
            seen: the rollouts that a fast phase may still use, in the order they were run in.
        """
        self.population, self.step, self.cycle = state.population, state.step, state.cycle
        self._phase, self._rewards = state.phase, [*state.rewards]
        self._parts.stream.cursor = state.cursor
        self._schedule = Schedule(self._parts.config, state.pace)
        self._schedule.keep_time(self._parts.stream, self.step)
        self._rollouts_seen.add(seen)
        self.books.take_up(state)
        self.stopped, self.distilled = state.stopped, state.distilled
        if self.stopped == TIME_IS_UP and not self.distilled and not self._out_of_time():
            self.stopped = None

    def run(self, phases: Sequence[Phase]) -> None:
        """Run the phases in order, until they are done or the time is up.

        However it ends, a checkpoint says where the run can be gone on with.
        """
        self._parts.observer.begin(self._ahead(phases), self._parts.config)
        if not self.books.checkpoint:
            self.save()
        while self.stopped is None:
            phase = phases[self._phase]
            self.cycle = phase.cycle
            if isinstance(phase, SlowPhase):
                self._learn()
            elif (decision := self._schedule.decide(self.step)).evolve:
                self._evolve(phase, decision)
            else:
                self._pass_over(phase, decision)
            self._move_on(phases)

    def _move_on(self, phases: Sequence[Phase]) -> None:
        """One more fast phase or RL step is done: see where the run stands, and save it."""
        phase, late = phases[self._phase], self._out_of_time()
        spent_up = self._schedule.spent_up(self.step)
        whole = isinstance(phase, FastPhase) or len(self._rewards) == phase.steps or spent_up
        if isinstance(phase, SlowPhase) and (whole or late) and self._solved():
            self.stopped = "budget.enough"
        elif spent_up or (whole and self._phase + 1 == len(phases)):
            self.stopped = "done"
        elif late:
            self.stopped = TIME_IS_UP
        if self.stopped is not None:
            self.population = self._rescored()
        if isinstance(phase, SlowPhase) and whole:
            self._validate(phase)
        every, taken = self._parts.config.checkpoint.every, len(self._rewards)
        if whole:
            self._phase, self._rewards = self._phase + 1, []
        if whole or self.stopped is not None or taken % every == 0:
            self.save()

    def _ahead(self, phases: Sequence[Phase]) -> list[Phase]:
        """What is left of the plan."""
        left = [*phases[self._phase :]] if self.stopped is None else []
        if left and isinstance(left[0], SlowPhase):
            left[0] = replace(left[0], steps=left[0].steps - len(self._rewards))
        return left

    # -- the two phases -----------------------------------------------------------------------

    def _evolve(self, phase: FastPhase, decision: Decision) -> None:
        """The fast phase: Φ evolves on the anchor set under fixed θ."""
        parts = self._parts
        assert parts.fast is not None
        self._schedule.evolves()
        self._schedule.keep_time(parts.stream, self.step)
        anchor = parts.stream.look_ahead(phase.batches)
        rollouts = FastRollouts(
            phase.cycle,
            len(anchor),
            runner=parts.runner,
            sampling=self._sampling,
            run_dir=self._run_dir,
            books=self.books,
            config=parts.config,
        )
        evaluate = LedgerEvaluate(rollouts, self._rollouts_seen, policy_version=self.policy.version)
        with self._tracker.fast_phase(phase.cycle):
            self.population, report = parts.fast.evolve(
                self.population,
                anchor,
                evaluate,
                rollouts=phase.rollouts,
                policy_version=self.policy.version,
                cycle=phase.cycle,
            )
            rollouts.close()
            if self._schedule.adaptive:
                report = replace(report, metrics={**report.metrics, **decision.metrics()})
            calls = int(report.metrics.get("fast/reflection_calls", 0))
            self.books.pay(Spend(fast_rollouts=evaluate.spent(), reflection_calls=calls))
            record = parts.fast.record.to_dict()
            self._run_dir.write_population(phase.cycle, self.population, record)
            self._tracker.log_population(phase.cycle, self.population, record)
            self.books.enter("fast", self.step, report)
        if phase.passes:
            parts.stream.skip(phase.batches)
        parts.observer.fast(phase, report, self.population)
        self._validate(phase)

    def _pass_over(self, phase: FastPhase, decision: Decision) -> None:
        """No fast phase in this cycle: Φ stays, and its rollouts are left for RL steps."""
        self.population = self._rescored()
        metrics = decision.metrics()
        record = {"stopped": "passed over", "metrics": metrics}
        self._run_dir.write_population(phase.cycle, self.population, record)
        self.books.enter("fast", self.step, StepReport(phase.cycle, metrics))
        self._parts.observer.note(f"cycle {phase.cycle + 1}: no fast phase, {decision.reason}")

    def _rescored(self) -> Population:
        """Φ by the RL steps of a cycle that no fast phase follows; they stand in their files."""
        files = map(self._run_dir.rollout_file, self._schedule.recent(self.step))
        rollouts = (r for file in files for r in self._run_dir.rollouts(file))
        return rescored(self.population, rollouts)

    def _validate(self, phase: Phase) -> None:
        """Ask held-out problems of what would ship if the run ended here, if it is time to."""
        validation = self._parts.validation
        if validation is None or not validation.due(phase.cycle):
            return
        fast = isinstance(phase, FastPhase)
        champion = (self.population if fast else self._rescored()).best
        metrics = validation(champion, f"{'fast' if fast else 'slow'}-{phase.cycle}")
        self.books.enter("eval", self.step, StepReport(self.step, metrics))
        self._parts.observer.note(
            f"cycle {phase.cycle + 1}: {metrics['eval/score']:.2f} on held-out problems"
        )

    def _learn(self) -> None:
        """One RL step of the slow phase, on the next batch."""
        problems = self._parts.stream.next()
        groups = self._rollouts(problems)
        batch = self._batch(groups)
        report = self._update(batch, groups)
        self._schedule.learnt(groups, batch.fates)
        self.books.enter("slow", self.step, report, batch.report.candidate_metrics())
        self._rewards.append(report.metrics["slow/reward"])
        self._parts.observer.slow(self.step, report)

    def _solved(self) -> bool:
        enough = self._parts.config.budget.enough
        return enough is not None and sum(self._rewards) / len(self._rewards) >= enough

    # -- one RL step --------------------------------------------------------------------------

    def _rollouts(self, problems: Sequence[Problem]) -> list[RolloutGroup]:
        """G rollouts per problem over Φ, all from the policy being trained."""
        parts = self._parts
        groups = parts.runner.collect_groups(
            problems,
            self.population,
            parts.config.slow.group_size,
            self._sampling,
            label=f"step-{self.step + 1}",
        )
        rollouts = [r for group in groups for r in group.rollouts_G]
        self.books.pay(Spend(slow_rollouts=len(rollouts), tokens=tokens(rollouts)))
        self._rollouts_seen.add(write_down(self._run_dir, self.step + 1, rollouts))
        refuse_useless(rollouts, parts.config)
        return groups

    def _batch(self, groups: Sequence[RolloutGroup]) -> Batch:
        """Advantages over each problem's whole group; the calls of the predictors that learn."""
        settings, learning = self._parts.config.slow, self._parts.runner.learning
        batch = to_samples(
            groups,
            policy_version=self.policy.version,
            temperature=self._sampling.temperature,
            weighting=settings.weighting,
            epsilon=settings.advantage_epsilon,
            train=learning if settings.train == "*" else settings.train,
        )
        self.books.count(batch.report.predictors)
        return batch

    def _update(self, batch: Batch, groups: Sequence[RolloutGroup]) -> StepReport:
        """One optimizer step; serve the result."""
        slow = self._parts.slow
        assert slow is not None
        metrics = batch.report.metrics() | self._drift(groups)
        report = slow.update(batch.samples)
        refuse_foreign(report, self._parts.config.policy.dtype)
        self.step += 1
        if batch.samples:
            self.books.pay(Spend(gradient_steps=1))
            metrics |= self._serve(batch.samples[0])
        rollouts = [r for group in groups for r in group.rollouts_G]
        if self.step == 1 or self.step % 10 == 0:
            self._tracker.log_rollouts(self.step, rollouts)
        return StepReport(self.step, {**metrics, **report.metrics})

    def _drift(self, groups: Sequence[RolloutGroup]) -> dict[str, float]:
        """KL(π_train ‖ π_base) on everything that a cycle's last batch drew, flat groups included:
        those that are left out of a step are the ones that the policy has learnt."""
        slow = self._parts.slow
        assert slow is not None
        if (self.step + 1) % self._parts.config.slow.steps_per_cycle:
            return {}
        kl = kl_of(slow, [r for g in groups for r in g.rollouts_G if not r.outcome.masked])
        return {} if kl is None else {"slow/drift": kl}

    def _serve(self, probe: TrainingSample) -> dict[str, float]:
        """Hand the new weights to the host, and prove that they arrived: one probe."""
        parts, slow = self._parts, self._parts.slow
        assert slow is not None
        started = time.monotonic()
        policy = slow.publish(self._run_dir.policy_folder(slow.policy.version))
        parts.host.update(policy)
        seconds = time.monotonic() - started
        self._run_dir.prune_policies()
        retries = parts.config.sampling.retries
        gap = logp_gap(parts.host, slow, probe.prompt_ids, self._sampling, retries)
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

    def save(self, trainer: Trainer | None = None) -> None:
        """Write a checkpoint; ``trainer`` is who trains instead of the loop's own."""
        state = RunState(
            cycle=self.cycle,
            step=self.step,
            population=self.population,
            policy=self.policy,
            spend=self.books.spend,
            cursor=self._parts.stream.cursor,
            phase=self._phase,
            rewards=tuple(self._rewards),
            pace=self._schedule.pace,
            stopped=self.stopped,
            distilled=self.distilled,
        )
        self.books.close(state, self._parts.slow if trainer is None else trainer)

    def _out_of_time(self) -> bool:
        limit = self._parts.config.budget.seconds
        return limit is not None and self.books.seconds > limit

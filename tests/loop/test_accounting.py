"""Every token that the host samples for an RL step is accounted for: attributed, and trained on or
dropped with its whole group. On the shipped pipelines, with a policy that answers from a script."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fakes import LOGPROB, LoggedHost, RecordingSlow

from fst_agents.checkpoint import Checkpoints
from fst_agents.dspy_bridge import problems, seed_candidate
from fst_agents.outcomes import FailureScores
from fst_agents.rollouts import Limits, Runner
from fst_agents.run_dir import RunDir
from fst_agents.run_file import parse
from fst_agents.stream import ProblemStream
from fst_agents.tracking import MemoryTracker
from fst_agents.types import Completion, Outcome, Sampling, StepReport, TrainingSample
from optimizers.books import Ledgers
from optimizers.fast_gepa import GepaFast
from optimizers.loop import Loop, Parts, Silence
from optimizers.plan import plan
from optimizers.reflection import StandInReflection
from programs.catalog import TASKS

Tokens = tuple[tuple[int, ...], tuple[int, ...], tuple[float, ...]]
"""Prompt ids, completion ids and log-probabilities of one call."""

ANSWERS = {
    "category": ("refund", "delivery", "spam"),
    "urgency": ("normal", "high"),
    "order": ("SO-44466", "none"),
    "product": ("kettle", "none"),
    "amount": ("130.50", "none"),
    "date": ("2026-01-04", "none"),
    "action": ("refund", "human", "close"),
    "query": ("who directed the film", "the river through the town"),
    "verdict": ("supported", "refuted"),
}


def answer(prompt: str, sampling: Sampling, rng: random.Random) -> str:
    """Whatever fields are asked for; one time in twenty the last of them is forgotten."""
    asked = re.findall(r"\[\[ ## (\w+) ## \]\]", prompt.rpartition("Respond with")[2])
    names = [name for name in asked if name != "completed"]
    if rng.random() < 0.05:
        names.pop()
    said = [f"[[ ## {name} ## ]]\n{rng.choice(ANSWERS[name])}" for name in names]
    return "\n\n".join([*said, "[[ ## completed ## ]]"])


class Journal(LoggedHost):
    """A host that remembers what it has sampled since it was last asked."""

    def __init__(self) -> None:
        super().__init__(answer, [])
        self.sampled: Counter[Tokens] = Counter()

    def _answer(self, new: Any) -> Completion:
        made = super()._answer(new)
        if new.order:  # the probe of newly served weights belongs to no rollout
            self.sampled[new.prompt_ids, made.token_ids, made.logprobs] += 1
        return made


@dataclass
class Step:
    """What the host had sampled before a step, and what the trainer was given."""

    sampled: Counter[Tokens]
    samples: Sequence[TrainingSample]


@dataclass
class JournalSlow(RecordingSlow):
    """A trainer that takes the journal's page of each step."""

    host: Journal
    steps: list[Step] = field(default_factory=list[Step])

    def __post_init__(self) -> None:
        super().__init__([])

    def update(self, samples: Sequence[TrainingSample]) -> StepReport:
        self.steps.append(Step(self.host.sampled, samples))
        self.host.sampled = Counter()
        return super().update(samples)


class JournalFast(GepaFast):
    """gepa itself; what it samples stands on no step's page."""

    host: Journal

    def evolve(self, *args: Any, **kwargs: Any) -> Any:
        evolved = super().evolve(*args, **kwargs)
        self.host.sampled = Counter()
        return evolved


def run(name: str, folder: Path) -> tuple[JournalSlow, RunDir, Loop]:
    """Two cycles of fast-slow training of a shipped task, all parts real but host and trainer."""
    entry = TASKS[name]
    task = entry.build(entry.options(train_size=16, val_size=2, test_size=0), 0)
    config = parse(
        {
            "fast": {"population": 2, "rollouts": 40, "minibatch": 2},
            "slow": {"steps_per_cycle": 2, "batch_size": 4, "group_size": 4},
            "budget": {"cycles": 2},
            "sampling": {"max_tokens": 2000},
        }
    )
    host, tracker = Journal(), MemoryTracker()
    slow = JournalSlow(host)
    fast = JournalFast(config.fast, StandInReflection())
    fast.host = host
    runner = Runner(
        task.program,
        task.metric,
        host,
        limits=Limits(concurrency=8, timeout=60),
        failures=FailureScores(-0.1, 0.1),
        score_range=task.score_range,
    )
    run_dir = RunDir.create(folder / "run", config)
    stream = ProblemStream(problems(task.trainset), 4, seed=0)
    ledgers = Ledgers(run_dir, tracker, Checkpoints(run_dir.checkpoint_folder), None, {})
    parts = Parts(config, host, runner, stream, ledgers, Silence(), fast, slow)
    loop = Loop(parts, seed_candidate(task.program))
    loop.run(plan(config))
    runner.close()
    return slow, run_dir, loop


@pytest.mark.parametrize("name", ["triage", "claims"])
def test_the_trainer_sees_exactly_the_tokens_that_were_sampled(name: str, tmp_path: Path) -> None:
    slow, run_dir, loop = run(name, tmp_path)
    assert len(slow.steps) == 4
    outcomes: Counter[Outcome] = Counter()
    trained: Counter[str] = Counter()
    for number, step in enumerate(slow.steps, 1):
        rollouts = list(run_dir.rollouts(run_dir.path / f"rollouts/step-{number:05d}.jsonl"))
        outcomes.update(r.outcome for r in rollouts)
        calls = [call for r in rollouts for call in r.calls]
        assert step.sampled == Counter((c.prompt_ids, c.completion_ids, c.logprobs) for c in calls)
        kept = {sample.problem_id for sample in step.samples}
        expected = Counter(
            (c.prompt_ids, c.completion_ids, c.logprobs, c.predictor)
            for r in rollouts
            if r.problem_id in kept
            for c in r.calls
        )
        got = Counter(
            (s.prompt_ids, s.completion_ids_T, s.logprobs_T, s.predictor) for s in step.samples
        )
        assert got == expected
        assert all(set(s.logprobs_T) == {LOGPROB} and all(s.loss_mask_T) for s in step.samples)
        assert all(len(s.prompt_ids) > 0 for s in step.samples)
        trained.update(s.predictor for s in step.samples)
    names = set(loop.population.best.instructions)
    assert set(trained) == names
    assert set(outcomes) <= {Outcome.OK, Outcome.PARSE_FAILURE}
    assert outcomes[Outcome.OK] > 0
    assert {n: c.samples for n, c in loop.books.predictors.items()} == dict(trained)
    if name == "triage":  # after spam the others are not called
        assert trained["classify"] > trained["extract"] >= trained["decide"] > 0

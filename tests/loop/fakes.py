"""The loop's parts as small recorders that share one log of what was called, in order."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import dspy

from fst_agents.checkpoint import Checkpoints
from fst_agents.config import RunConfig
from fst_agents.rollouts import Limits, Runner
from fst_agents.run_dir import RunDir
from fst_agents.run_file import parse
from fst_agents.serving.scripted_host import Script, ScriptedHost
from fst_agents.stream import ProblemStream
from fst_agents.tracking import MemoryTracker
from fst_agents.types import Candidate, Policy, Population, Problem, StepReport, TrainingSample
from optimizers.books import Ledgers
from optimizers.loop import Loop, Parts, Silence
from optimizers.protocols import Evaluate

Log = list[tuple[Any, ...]]
LOGPROB = -0.1


def tiny(**sections: Any) -> RunConfig:
    """T = 2 steps of 4 problems with G = 4; a fast phase of 30 rollouts; 2 cycles."""
    data: dict[str, Any] = {
        "slow": {"steps_per_cycle": 2, "batch_size": 4, "group_size": 4},
        "fast": {"population": 2, "rollouts": 30},
        "budget": {"cycles": 2},
        "sampling": {"max_tokens": 200, "retries": 0},
    }
    for name, values in sections.items():
        data[name] = {**data.get(name, {}), **values} if isinstance(values, dict) else values
    return parse(data)


def guess(prompt: str, sampling: Any, rng: random.Random) -> str:
    """Right half of the time."""
    return f"[[ ## answer ## ]]\n{rng.choice(['yes', 'no'])}\n\n[[ ## completed ## ]]"


def right(gold: Any, prediction: Any) -> float:
    return float(prediction.answer == "yes")


class Answer(dspy.Signature):
    """Answer."""

    question: str = dspy.InputField()
    answer: str = dspy.OutputField()


class Ask(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.solve = dspy.Predict(Answer)

    def forward(self, question: str) -> Any:
        return self.solve(question=question)


SEED = Candidate({"solve": "Answer."})


def questions(count: int = 64) -> list[Problem]:
    return [
        Problem(f"p{k:02d}", dspy.Example(question=f"q{k}").with_inputs("question"))
        for k in range(count)
    ]


class LoggedHost(ScriptedHost):
    """A scripted host whose updates stand in the log. ``lag`` is how far its answers lie back."""

    def __init__(self, script: Script, log: Log, lag: int = 0) -> None:
        super().__init__(script, logprob=LOGPROB)
        self._log, self._lag = log, lag

    def update(self, policy: Policy) -> None:
        super().update(policy)
        self._log.append(("serve", policy.version))

    def _answer(self, new: Any) -> Any:
        answer = super()._answer(new)
        return replace(answer, policy_version=answer.policy_version - self._lag)


class RecordingSlow:
    """Learns nothing, counts versions. ``gap`` is how far its log-probabilities lie off."""

    def __init__(self, log: Log, gap: float = 0.0) -> None:
        self.policy = Policy("scripted")
        self._log, self._gap = log, gap

    def update(self, samples: Sequence[TrainingSample]) -> StepReport:
        versions = {s.policy_version for s in samples}
        problems = {s.problem_id for s in samples}
        self._log.append(("update", versions, problems))
        if samples:
            self.policy = Policy("scripted", version=self.policy.version + 1)
        return StepReport(self.policy.version, {"slow/samples": float(len(samples))})

    def publish(self, folder: Path) -> Policy:
        folder.mkdir()
        self.policy = Policy("scripted", adapter=folder, version=self.policy.version)
        return self.policy

    def save(self, folder: Path) -> None:
        (folder / "version.txt").write_text(str(self.policy.version))

    def logprobs(
        self,
        prompts: Sequence[Sequence[int]],
        completions: Sequence[Sequence[int]],
        *,
        temperature: float,
        base: bool = False,
    ) -> list[list[float]]:
        return [[LOGPROB + self._gap] * len(c) for c in completions]

    def kl_to_base(
        self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]
    ) -> float:
        return 0.0

    def close(self) -> None:
        self._log.append(("close",))


@dataclass
class Account:
    cycle: int

    def to_dict(self) -> dict[str, Any]:
        return {"cycle": self.cycle}


@dataclass
class RecordingFast:
    """Scores every member and one new candidate on the anchor set; keeps the new one too."""

    log: Log
    record: Account = field(default_factory=lambda: Account(-1))

    def evolve(
        self,
        population: Population,
        problems: Sequence[Problem],
        evaluate: Evaluate,
        *,
        rollouts: int,
        policy_version: int,
        cycle: int,
    ) -> tuple[Population, StepReport]:
        self.log.append(("evolve", cycle, [p.id for p in problems], policy_version, rollouts))
        new = Candidate({"solve": f"Answer {cycle}."}, (population.best.id,))
        members = (population.best, new)
        scores = {
            c.id: {r.problem_id: r.score for r in evaluate(c, problems) if r.score is not None}
            for c in members
        }
        self.record = Account(cycle)
        evolved = Population(members, scores, policy_version)
        metrics = {"fast/best_mean": evolved.mean(evolved.best.id) or 0.0}
        return evolved, StepReport(cycle, {**metrics, "fast/reflection_calls": 1.0})


@dataclass
class World:
    """A loop on fakes, and everything they were asked to do."""

    loop: Loop
    log: Log
    parts: Parts
    tracker: MemoryTracker

    @property
    def run_dir(self) -> RunDir:
        return self.parts.ledgers.run_dir


def world(
    folder: Path,
    config: RunConfig | None = None,
    *,
    script: Script = guess,
    metric: Callable[..., Any] = right,
    gap: float = 0.0,
    lag: int = 0,
) -> World:
    """Everything the loop needs, in ``folder/run``."""
    settings = tiny() if config is None else config
    log: Log = []
    host, tracker = LoggedHost(script, log, lag), MemoryTracker()
    run_dir = RunDir.create(folder / "run", settings)
    checkpoints = Checkpoints(run_dir.checkpoint_folder, settings.checkpoint.keep)
    limits = Limits(concurrency=4, timeout=30, retries=settings.sampling.retries)
    parts = Parts(
        config=settings,
        host=host,
        runner=Runner(Ask(), metric, host, limits=limits),
        stream=ProblemStream(questions(), settings.slow.batch_size, seed=settings.seed),
        ledgers=Ledgers(run_dir, tracker, checkpoints, None, {}),
        observer=Silence(),
        fast=RecordingFast(log),
        slow=RecordingSlow(log, gap),
    )
    return World(Loop(parts, SEED), log, parts, tracker)

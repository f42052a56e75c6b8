"""The finishing stage: fold the champion's instruction into the weights (``[distill]``).

Student and teacher are one policy. The student answers the next problems under the seed
instruction; a copy of it, frozen when the stage begins, reads these answers under the champion's;
the student is pulled towards what the copy would have said. See :mod:`optimizers.distill`.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from fst_agents.config import RunConfig
from fst_agents.errors import TrainerError
from fst_agents.rollouts import Runner
from fst_agents.run_dir import RunDir
from fst_agents.stream import ProblemStream
from fst_agents.types import Candidate, Policy, Problem, Rollout, Sampling, Spend, StepReport
from optimizers.books import copy_weights, weights_of
from optimizers.distill_pairs import DictatingHost, Pair, pairs_of
from optimizers.fast_rollouts import refuse_useless, tokens
from optimizers.loop import Loop
from optimizers.plan import distill_steps

if TYPE_CHECKING:  # it imports trl, which takes seconds
    from optimizers.distill import Distiller

TEACHER = "teacher"
"""Folder of the teacher's weights: in the run directory during the stage, and in checkpoints."""


def answers_name(number: int) -> str:
    """Of the rollout file of one of the stage's steps."""
    return f"distill-{number:05d}"


@dataclass(frozen=True)
class Stage:
    """What the stage works with. ``reader`` runs the same program on ``dictating``; ``loop`` is at
    its end, and its checkpoints go on to be those of the run."""

    config: RunConfig
    runner: Runner
    reader: Runner
    dictating: DictatingHost
    distiller: Distiller
    stream: ProblemStream
    run_dir: RunDir
    loop: Loop

    def run(self, seed: Candidate, champion: Candidate) -> None:
        """All its steps, or those that are left of them. The host serves the distilled weights
        when this returns.

        Its rollouts and gradient steps count as those of the slow phase. Where the champion is the
        seed there is nothing to fold in, and nothing is spent.

        Raises:
            TrainerError: no answer could be paired with the teacher's, or a step failed.
        """
        if seed.id == champion.id:
            return
        steps, books = distill_steps(self.config), self.loop.books
        for number in range(self.loop.distilled + 1, steps + 1):
            problems = self.stream.next()
            rollouts = self._answer(problems, seed, number)
            pairs, left_out = self._read(problems, rollouts, champion, number)
            if not pairs:
                raise TrainerError(
                    f"[distill]: none of {len(rollouts)} answers could be paired with a prompt "
                    "under the champion's instruction; the program goes another way under it"
                )
            report = self.distiller.distill(pairs)
            self._serve()
            books.pay(Spend(gradient_steps=1))
            scores = [r.score for r in rollouts if r.score is not None]
            more = {"distill/reward": fmean(scores), "distill/left_out": float(left_out)}
            step = self.loop.step + number
            books.enter("slow", step, StepReport(step, {**report.metrics, **more}))
            self.loop.distilled = number
            if number % self.config.checkpoint.every == 0 or number == steps:
                self.loop.save(self.distiller)

    def _answer(self, problems: Sequence[Problem], seed: Candidate, number: int) -> list[Rollout]:
        """What the student says under the seed instruction."""
        jobs = [(p, seed) for p in problems for _ in range(self.config.distill.samples)]
        rollouts = self.runner.collect(jobs, self._sampling, label=f"distill-{number}")
        self.loop.books.pay(Spend(slow_rollouts=len(rollouts), tokens=tokens(rollouts)))
        self.run_dir.add_rollouts(answers_name(number), rollouts)
        refuse_useless(rollouts, self.config)
        return rollouts

    def _read(
        self,
        problems: Sequence[Problem],
        rollouts: Sequence[Rollout],
        champion: Candidate,
        number: int,
    ) -> tuple[list[Pair], int]:
        """The same answers under the champion's instruction, and how many could not be paired."""
        self.dictating.dictate(rollouts)
        jobs = [(p, champion) for p in problems for _ in range(self.config.distill.samples)]
        read = self.reader.collect(jobs, self._sampling, label=f"distill-{number}")
        train = self.config.slow.train
        return pairs_of(rollouts, read, None if train == "*" else dict.fromkeys(train))

    def _serve(self) -> None:
        folder = self.run_dir.policy_folder(self.distiller.policy.version)
        self.runner.host.update(self.distiller.publish(folder))
        self.run_dir.prune_policies()

    @property
    def _sampling(self) -> Sampling:
        settings = self.config.sampling
        return Sampling(settings.temperature, max_tokens=settings.max_tokens)


def teacher_of(
    policy: Policy, base: Policy, run_dir: RunDir, begun: Path | None, stack: ExitStack
) -> Policy:
    """The policy that the finishing stage began with, its weights in a folder that stays.

    Args:
        base: what ``policy`` was before anything was trained.
        begun: the trainer's folder of a checkpoint of the stage, to go on from.
        stack: removes the folder at its end.
    """
    source = weights_of(policy) if begun is None else begun / TEACHER
    if source is None or not source.is_dir():
        return base  # nothing was trained before
    home = run_dir.path / TEACHER
    shutil.rmtree(home, ignore_errors=True)
    copy_weights(source, home)
    stack.callback(shutil.rmtree, home, ignore_errors=True)
    if policy.adapter is None:
        return Policy(policy.model, weights=home)
    return Policy(policy.model, adapter=home)

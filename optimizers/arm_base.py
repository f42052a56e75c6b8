"""What all arms share: a request is checked, a run put together, and what it learnt evaluated."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import dspy
from dspy.teleprompt.teleprompt import Teleprompter

from fst_agents.config import Arm, RunConfig
from fst_agents.dspy_bridge import problems, seed_candidate
from fst_agents.dspy_fixed import fixed_models
from fst_agents.errors import ConfigError
from fst_agents.json_files import write_json
from fst_agents.outcomes import FailureScores
from fst_agents.run_dir import RunDir
from fst_agents.run_file import conflicts
from fst_agents.scoring import Metric
from fst_agents.serving.host import PolicyHost
from fst_agents.stream import ProblemStream
from fst_agents.types import Policy, Problem, RunResult, Skill
from optimizers.assembly import Asked, Assembly
from optimizers.distill_pairs import DictatingHost
from optimizers.distill_stage import Stage, teacher_of
from optimizers.evaluation import Evaluation, Evaluator, evaluate_run, kl_of
from optimizers.loop import Loop, Observer, Parts, Silence
from optimizers.open_run import OpenRun, open_run
from optimizers.outcome import Outcome2x2, close_books, final_scores, ship
from optimizers.plan import FastPhase, distill_steps, plan, shipped_cell, trains
from optimizers.reflection import build_reflection, wrap_reflection
from optimizers.request import request_faults
from optimizers.resume import (
    Resumed,
    history,
    rollouts_seen,
    run_identity,
)
from optimizers.summary import summarize

if TYPE_CHECKING:
    from optimizers.distill import Distiller


class ArmBase(Teleprompter):
    """What all arms share.

    Args:
        metric: DSPy's metric: ``(gold, pred)``, with a trace, or GEPA's five arguments; a number
            or ``dspy.Prediction(score=…, feedback=…)``.
        policy: the model to train; its ``model`` is a folder or a Hugging Face name.
        reflection_lm: a ``dspy.LM`` or any function from prompt to text; otherwise
            ``config.fast.reflection_lm`` names a LiteLLM model.
        config: everything else; ``arm`` is this class's own.
        adapter: DSPy adapter of the policy's calls.
        eval_metric: scores the 2×2 instead of ``metric`` (exact match beside partial credit).
        skills: what should not be forgotten; evaluated before and after.
        observer: watches the run go by.
        report: writes a page about a finished run directory and returns its path; it is tracked.
            If it raises, the observer is told.
        host: serves the policy instead of the one ``config.serve`` asks for; it is brought to
            ``policy``, and not closed.
        task: what the books call the task; the name of the student's class by default.
        stream: the order in which training problems are met; shuffled epochs by default.
        resume: the directory of a stopped run to go on with, from where it stood; all else has to
            be as it was. ``config`` is then the run's own, unless secrets have to be given again.
    """

    arm: ClassVar[Arm]

    def __init__(
        self,
        *,
        metric: Metric,
        policy: Policy | str,
        reflection_lm: Callable[[str], Any] | None = None,
        config: RunConfig | None = None,
        adapter: dspy.Adapter | None = None,
        eval_metric: Metric | None = None,
        skills: Sequence[Skill] = (),
        observer: Observer | None = None,
        report: Callable[[Path], Path] | None = None,
        host: PolicyHost | None = None,
        task: str | None = None,
        stream: Callable[[Sequence[Problem]], ProblemStream] | None = None,
        resume: Path | None = None,
    ) -> None:
        super().__init__()
        self.metric = metric
        self.policy = Policy(policy) if isinstance(policy, str) else policy
        given = RunConfig() if config is None else config
        if resume is not None and config is None:
            given = RunDir.open(resume).config()
        if "model" not in given.policy.model_fields_set:  # commands on the run read it there
            named = given.policy.model_copy(update={"model": self.policy.model})
            given = given.model_copy(update={"policy": named})
        self.config = given.model_copy(update={"arm": self.arm})
        self.adapter = adapter
        self.eval_metric = metric if eval_metric is None else eval_metric
        self.skills = tuple(skills)
        self._reflection_lm = reflection_lm
        self._observer: Observer = Silence() if observer is None else observer
        self._report = report
        self._host = host
        self._task = task
        self._resume = resume
        self._stream = self._epochs if stream is None else stream

    def compile(
        self,
        student: dspy.Module,
        *,
        trainset: Sequence[dspy.Example],
        teacher: dspy.Module | None = None,
        valset: Sequence[dspy.Example] | None = None,
        **kwargs: Any,
    ) -> dspy.Module:
        """Train on ``trainset``; evaluate the 2×2 on ``valset`` if there is one.

        Returns a copy of the student with the fixed models and the instructions that ship: the
        champion's, or after ``[distill]``, which folds them into the weights, the student's own.
        Its attribute ``fst`` (:class:`Outcome2x2`) says where the weights, the run directory and
        the figures are.

        Raises:
            ConfigError: everything wrong with the request, before anything is started.
            FstError: the run failed; its directory keeps what it had.
        """
        if teacher is not None or kwargs:
            raise ConfigError(
                f"{type(self).__name__}.compile takes trainset and valset only; got "
                f"{sorted(kwargs) if kwargs else 'a teacher'}"
            )
        started = time.monotonic()
        asked = self._ask(student, trainset, () if valset is None else valset)
        with ExitStack() as stack:
            opened = open_run(
                self.config,
                stack,
                phases=asked.phases,
                identity=asked.identity,
                policy=self.policy,
                resume=self._resume,
            )
            if opened.resumed is not None:
                started -= opened.resumed.state.spend.seconds
            assembly = Assembly(asked, opened, self._observer)
            parts = assembly.parts()
            loop = Loop(parts, asked.seed)
            if opened.resumed is not None:
                self._take_up(loop, asked, opened.run_dir, opened.resumed)
            loop.run(asked.phases)
            trainer, shipped = parts.slow, loop.population.best
            if distill_steps(self.config):
                trainer, shipped = self._distill(assembly, loop, parts), asked.seed
            tuned = ship(student, shipped, loop.policy, opened.run_dir.result_folder, asked.fixed)
            evaluation = self._evaluate(assembly, loop, parts.host)
            kl = None
            if trainer is not None and evaluation is not None:
                kl = kl_of(trainer, evaluation.sequences)
            result = self._result(asked, opened, loop)
            summary = summarize(
                self.config,
                result,
                evaluation,
                kl,
                trainer is not None,
                time.monotonic() - started,
                loop.books.predictors,
                shipped,
            )
            summary["mlflow"] = opened.tracker.url_hint
            close_books(summary, opened.run_dir, opened.tracker, self._report, self._observer.note)
        tuned.fst = Outcome2x2(result, evaluation, summary)
        return tuned

    # -- the request --------------------------------------------------------------------------

    def _ask(
        self,
        student: dspy.Module,
        trainset: Sequence[dspy.Example],
        valset: Sequence[dspy.Example],
    ) -> Asked:
        """The request in the library's words, checked; nothing is started or written."""
        name = type(student).__name__ if self._task is None else self._task
        named = self.config.task.model_copy(update={"name": name})
        self.config = self.config.model_copy(update={"task": named})
        self._check(student, trainset, valset)
        phases, train = plan(self.config), problems(trainset)
        evolves = any(isinstance(phase, FastPhase) for phase in phases)
        return Asked(
            config=self.config,
            student=student,
            metric=self.metric,
            eval_metric=self.eval_metric,
            adapter=self.adapter,
            policy=self.policy,
            host=self._host,
            seed=seed_candidate(student),
            fixed=fixed_models(self.config),
            phases=phases,
            reflection=self._reflection() if evolves else None,
            reflection_lm=self._reflection_lm,
            stream=self._stream(train),
            val=problems(valset),
            identity=run_identity(phases, train),
        )

    def _check(
        self,
        student: dspy.Module,
        trainset: Sequence[dspy.Example],
        valset: Sequence[dspy.Example],
    ) -> None:
        """Raise all that is wrong. ``fst`` has looked before; twice costs a quarter of a second."""
        faults = conflicts(self.config)
        try:
            plan(self.config)
        except ConfigError as error:
            faults += error.problems
        faults += request_faults(
            student,
            self.config,
            self.metric,
            trainset=trainset,
            valset=valset,
            eval_metric=self.eval_metric,
            adapter=self.adapter,
            policy=self.policy.model if self._host is None else self._host,
            score_range=self.config.task.score_range,
        )
        if faults:
            raise ConfigError(faults)

    def _reflection(self) -> Callable[[str], str]:
        if self._reflection_lm is not None:
            return wrap_reflection(self._reflection_lm)
        return build_reflection(self.config.fast.reflection_lm, self.config.fast.reflection_args)

    def _epochs(self, found: Sequence[Problem]) -> ProblemStream:
        return ProblemStream(found, self.config.slow.batch_size, seed=self.config.seed)

    # -- going on -----------------------------------------------------------------------------

    def _take_up(self, loop: Loop, asked: Asked, run_dir: RunDir, resumed: Resumed) -> None:
        """Put the loop where the checkpoint stands."""
        state = resumed.state
        for fault in resumed.faults:
            self._observer.note(f"damaged checkpoint passed over: {fault}")
        self._observer.note(f"going on behind cycle {state.cycle + 1}, RL step {state.step}")
        seen = rollouts_seen(run_dir, asked.phases, state, self.config.fast.max_staleness)
        loop.take_up(state, seen)

    # -- the end ------------------------------------------------------------------------------

    def _distill(self, assembly: Assembly, loop: Loop, parts: Parts) -> Distiller:
        """The finishing stage, or what is left of it; returns what holds the distilled weights."""
        from optimizers.distill import Distiller  # trl takes seconds to import

        asked, opened = assembly.asked, assembly.opened
        resumed = opened.resumed
        begun = resumed.trainer if resumed is not None and resumed.state.distilled else None
        dictating = DictatingHost(parts.host)
        teacher = teacher_of(loop.policy, self.policy, opened.run_dir, begun, opened.stack)
        distiller = Distiller(loop.policy, self.config, teacher, begun)
        opened.stack.callback(distiller.close)
        Stage(
            self.config,
            parts.runner,
            assembly.runner(dictating, self.metric, FailureScores()),
            dictating,
            distiller,
            parts.stream,
            opened.run_dir,
            loop,
        ).run(asked.seed, loop.population.best)
        return distiller

    def _evaluate(self, assembly: Assembly, loop: Loop, host: PolicyHost) -> Evaluation | None:
        """The 2×2, if there are held-out problems."""
        asked = assembly.asked
        if not asked.val:
            return None
        judge, sampling = assembly.judge(host)
        evaluation = evaluate_run(
            Evaluator(judge, asked.val, self.config.eval.samples, sampling),
            judge,
            seed=asked.seed,
            champion=None if asked.reflection is None else loop.population.best,
            base=self.policy,
            trained=loop.policy if trains(self.config) else None,
            skills=self.skills,
            ships=shipped_cell(self.config),
        )
        write_json(assembly.opened.run_dir.path / "problems.json", final_scores(evaluation))
        return evaluation

    def _result(self, asked: Asked, opened: OpenRun, loop: Loop) -> RunResult:
        return RunResult(
            arm=self.arm,
            seed=self.config.seed,
            population=loop.population,
            policy=loop.policy,
            spend=loop.books.spend,
            cycles=loop.cycle + 1,
            run_dir=opened.run_dir.path,
            mlflow_run_id=opened.tracker.run_id,
            history=tuple(history(opened.run_dir, asked.phases)),
            stopped=loop.stopped or "done",
        )

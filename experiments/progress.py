"""Progress on standard error: a bar with the time left, and a line for what just happened."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from experiments.report_learning import shorten
from fst_agents.config import RunConfig
from fst_agents.types import Population, StepReport
from optimizers.plan import FastPhase, Phase, most_rollouts, slow_step_rollouts


class Bar:
    """A rich progress bar over the rollouts of the plan (an ``Observer``)."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("rollouts"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=False),
            console=console,
            transient=True,
            refresh_per_second=2,  # drawing takes the lock that rollouts need
            disable=not console.is_terminal,
        )
        self._console = console
        self._task = self._progress.add_task("starting", total=None)
        self._step_rollouts = 0

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def note(self, text: str) -> None:
        """One line that stays."""
        self._say(f"[dim]{escape(text)}[/]")

    def begin(self, phases: Sequence[Phase], config: RunConfig) -> None:
        """The plan is known: the bar gets its length."""
        self._step_rollouts = slow_step_rollouts(config)
        total = most_rollouts(phases, config)
        self._progress.update(self._task, total=total, description="cycle 1")

    def fast(self, phase: FastPhase, report: StepReport, population: Population) -> None:
        """A fast phase ended: say what Φ is now."""
        self._progress.update(
            self._task, advance=phase.rollouts, description=f"cycle {phase.cycle + 1}"
        )
        mean = report.metrics["fast/best_mean"]
        champion = next(iter(population.best.instructions.values()))
        self._say(
            f"cycle {phase.cycle + 1}  [bold]fast[/]  champion {mean:.2f} of "
            f"{len(population.candidates)}: [italic]{escape(shorten(champion, 90))}[/]"
        )

    def slow(self, step: int, report: StepReport) -> None:
        """An RL step ended."""
        self._progress.update(self._task, advance=self._step_rollouts)
        reward = report.metrics.get("slow/reward", float("nan"))
        flat = int(report.metrics.get("slow/flat_groups", 0))
        self._progress.update(
            self._task, description=f"step {step} reward {reward:.2f} ({flat} flat)"
        )

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False)

"""Who runs the cells of a grid: processes of this machine, or tasks of a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from experiments.studies.cell_runs import CellRuns
from experiments.studies.cells import Cell
from experiments.studies.grid import Records, RunCell, claim, run_grid

Backend = Literal["processes", "ray"]


@dataclass(frozen=True)
class Workers:
    """
    Attributes:
        jobs: cells at the same time; ``None`` for as many as the back end has places.
        note: is told what happens, a line each time.
        run: how a cell is run, instead of by the back end.
    """

    jobs: int | None = None
    backend: Backend = "processes"
    note: Callable[[str], None] = lambda _: None
    run: RunCell | None = None

    def __call__(self, cells: Sequence[Cell], out: Path, claimed: Mapping[str, Any]) -> Records:
        """Run in ``out`` what is missing of some cells.

        Args:
            claimed: what the folder is for; see :func:`experiments.studies.grid.claim`.

        Raises:
            ConfigError: ``out`` is for something else, or there is no such back end here.
        """
        if self.run is not None:
            claim(out, claimed)
            return run_grid(cells, out, self.run, jobs=self.jobs or 1, note=self.note)
        if self.backend == "ray":
            out = out.resolve()  # the cluster's processes stand elsewhere
        with closing(self._runs(out)) as runs:
            claim(out, claimed)
            return run_grid(cells, out, runs, jobs=self.jobs or runs.places, note=self.note)

    def _runs(self, out: Path) -> CellRuns:
        if self.backend == "ray":
            from experiments.studies.ray_tasks import RayTasks

            return RayTasks(out)
        from experiments.studies.processes import Processes

        return Processes(out)

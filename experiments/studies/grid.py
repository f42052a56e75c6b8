"""Arms × seeds × targets as a grid of runs that can be stopped and gone on with at any time.

``OUT/cells/<key>/`` belongs to one cell: ``run`` is its run directory, ``log.txt`` what it said and
``cell.json`` its record, written last. A cell with a record is never run again; one that failed is,
from its start, and one that was stopped goes on where it stood. Records are all that need be kept,
in a repository for instance: a cell whose weights are gone runs again where another starts from it.

Cells run seed by seed, and each before those that start from it, these next: a grid that is stopped
has whole seeds, and few weights that somebody still waits for.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from pydantic import ValidationError

from experiments.studies.cells import Cell, Record, digest
from experiments.studies.harvest import drop_bulk
from fst_agents.errors import ConfigError, FstError, RunDirError
from fst_agents.json_files import read_json, write_json

Records = Mapping[str, Record]
"""Key of a cell → its record."""


class CellStopped(FstError):
    """A cell was stopped from outside: nothing is known of it, and it can be gone on with."""


class RunCell(Protocol):
    """Runs one cell in its folder and returns what is kept of it.

    Raises:
        CellStopped: it was stopped.
        FstError: the cell failed; the message says why in one line.
    """

    def __call__(self, cell: Cell, folder: Path) -> Record: ...


def cell_folder(out: Path, cell: Cell) -> Path:
    return out / "cells" / cell.key


def claim(out: Path, configuration: Mapping[str, Any]) -> None:
    """Take a results folder for one configuration; going on with the same one is welcome.

    Raises:
        ConfigError: it holds results of another configuration, or something else.
    """
    file, mark = out / "grid.json", digest(configuration)
    if os.path.isfile(file):  # Path.is_file fails on a name that is too long
        held = read_json(file)
        if not isinstance(held, dict):
            raise ConfigError(f"{file}: is no mark of a results folder; choose another --out")
        if held.get("configuration") != mark:
            raise ConfigError(
                f"{out}: holds results of another configuration ({held.get('configuration')}, "
                f"asked for {mark}); nothing was changed. Choose another --out"
            )
        return
    try:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise ConfigError(f"{out}: is no results folder and not empty; choose another --out")
        out.mkdir(parents=True, exist_ok=True)
        write_json(file, {"configuration": mark, "settings": configuration})
    except (OSError, ValueError) as error:  # a name with a null character is a ValueError
        raise ConfigError(f"--out: {out} cannot be made: {error}; choose another") from error


def run_grid(
    cells: Sequence[Cell],
    out: Path,
    run: RunCell,
    *,
    jobs: int = 1,
    note: Callable[[str], None] = lambda _: None,
) -> Records:
    """Run the cells that have no record yet, ``jobs`` at a time, those they start from first.

    A cell that fails, or starts from one that failed, is a record with an error; the others go on.
    A stopped one is too, but leaves no record behind.
    """
    ordered = _in_turn(cells)
    missing = [cell for cell in ordered if stored(out, cell) is None]
    again = {c.start.key for c in missing if c.start is not None and not _weights(out, c.start)}
    lost: set[str] = set()  # what failed now, whether or not a record of it is known

    def one(number: int, cell: Cell) -> Record:
        known = stored(out, cell)
        if known is not None and cell.key not in again:
            return known
        if cell.start is not None and cell.start.key in lost:
            lost.add(cell.key)
            return _failed(cell, f"the cell it starts from failed: {cell.start.label}")
        note(f"{number} of {len(ordered)}: {cell.label}")
        record = _run(cell, cell_folder(out, cell), run, known)
        if not record.ok:
            lost.add(cell.key)
            note(f"failed: {cell.label}: {record.error}")
        return record if known is None else known

    waiting = dict(enumerate(ordered, start=1))
    running: dict[Future[Record], Cell] = {}
    records: dict[str, Record] = {}
    pool = ThreadPoolExecutor(jobs, thread_name_prefix="fst-cell")
    try:
        while waiting or running:
            ready = (n for n, c in waiting.items() if c.start is None or c.start.key in records)
            for number in [*islice(ready, jobs - len(running))]:
                cell = waiting.pop(number)
                running[pool.submit(one, number, cell)] = cell
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                records[running.pop(future).key] = future.result()
        return {cell.key: records[cell.key] for cell in ordered}
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def stored(out: Path, cell: Cell) -> Record | None:
    """The record of a cell that has finished.

    Raises:
        RunDirError: the file is no record of this cell.
    """
    file = cell_folder(out, cell) / "cell.json"
    if not file.exists():
        return None
    try:
        record = Record.model_validate(read_json(file))
    except ValidationError as error:
        raise RunDirError(f"{file}: no record as this version writes it: {error}") from error
    if record.key != cell.key:
        raise RunDirError(f"{file}: the record of another cell, {record.key}; move it away")
    return record if record.ok else None


def _run(cell: Cell, folder: Path, run: RunCell, known: Record | None) -> Record:
    """Run a cell and keep its record; a failure does not replace a record that is known."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        record = run(cell, folder)
    except CellStopped as error:
        return _failed(cell, str(error))
    except FstError as error:
        record = _failed(cell, " ".join(str(error).split()))
    if record.ok or known is None:
        write_json(folder / "cell.json", record.model_dump(mode="json"))
    if record.ok:
        drop_bulk(folder / "run")  # only now: its curve is read from what goes
    return record


def _weights(out: Path, cell: Cell) -> bool:
    """Whether what a cell has trained is still there."""
    return (cell_folder(out, cell) / "run" / "result").is_dir()


def _failed(cell: Cell, error: str) -> Record:
    arm, seed = cell.config.arm, cell.config.seed
    return Record(key=cell.key, label=cell.label, arm=arm, seed=seed, error=error)


def _in_turn(cells: Sequence[Cell]) -> list[Cell]:
    """Every cell once, and those that they start from: seed by seed, each with what starts from it
    right behind."""
    after: dict[str | None, dict[str, Cell]] = {}

    def add(cell: Cell) -> None:
        if cell.start is not None:
            add(cell.start)
        start = None if cell.start is None else cell.start.key
        after.setdefault(start, {}).setdefault(cell.key, cell)

    def chain(cell: Cell) -> list[Cell]:
        behind = after.get(cell.key, {}).values()
        return [cell, *(one for next_cell in behind for one in chain(next_cell))]

    for cell in cells:
        add(cell)
    roots = sorted(after.get(None, {}).values(), key=lambda cell: cell.config.seed)
    return [one for root in roots for one in chain(root)]

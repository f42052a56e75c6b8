"""The grid: what is run, what is never run again, and what a failure does."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from made_up import MadeUp, quick_scope

from experiments.studies.cells import Cell, Record, Stages
from experiments.studies.grid import cell_folder, claim, run_grid, stored
from experiments.studies.scope import Scope
from fst_agents.config import TrackConfig
from fst_agents.errors import ConfigError, RunDirError


@pytest.fixture(scope="module")
def scope() -> Scope:
    return quick_scope(seeds=2)


def cells_of(scope: Scope) -> list[Cell]:
    return [scope.cell(arm, *unit) for unit in scope.units for arm in ("fst", "rl")]


def test_a_key_says_what_is_run_and_not_where(scope: Scope, tmp_path: Path) -> None:
    cell = scope.cell("fst", scope.targets[0], 0)
    where = cell.config.model_copy(
        update={"run_dir": tmp_path, "track": TrackConfig(experiment="x")}
    )
    assert Cell(where).key == cell.key
    others = [
        scope.cell("rl", scope.targets[0], 0),
        scope.cell("fst", scope.targets[1], 0),
        scope.cell("fst", scope.targets[0], 1),
        scope.cell("fst", scope.targets[0], 0, changes={"slow": {"learning_rate": 1e-3}}),
        scope.cell("fst", scope.targets[0], 0, start=scope.cell("rl", scope.targets[1], 0)),
        scope.cell("fst", scope.targets[0], 0, start=scope.cell("fst", scope.targets[1], 0)),
        scope.cell("fst", scope.targets[0], 0, stages=Stages(scope.targets, 2)),
    ]
    assert len({cell.key, *(other.key for other in others)}) == 8


def test_the_rl_arm_has_its_own_rate_and_a_given_one_wins(scope: Scope) -> None:
    own = replace(scope, rl_learning_rate=3e-4)
    assert own.cell("rl", scope.targets[0], 0).config.slow.learning_rate == 3e-4
    assert own.cell("fst", scope.targets[0], 0).config.slow.learning_rate == 4e-4
    given = own.cell("rl", scope.targets[0], 0, changes={"slow": {"learning_rate": 1e-4}})
    assert given.config.slow.learning_rate == 1e-4


@pytest.mark.parametrize("jobs", [1, 3])
def test_every_cell_runs_once_and_never_again(scope: Scope, tmp_path: Path, jobs: int) -> None:
    cells, made = cells_of(scope), MadeUp()
    first = run_grid([*cells, *cells], tmp_path, made, jobs=jobs)
    assert sorted(made.ran) == sorted(c.key for c in cells)
    again = MadeUp()
    assert run_grid(cells, tmp_path, again, jobs=jobs) == first
    assert again.ran == []


def test_a_cell_starts_after_the_one_it_starts_from(scope: Scope, tmp_path: Path) -> None:
    first = scope.cell("fst", scope.targets[0], 0)
    second = scope.cell("rl", scope.targets[1], 0, start=first)
    made = MadeUp()
    run_grid([second], tmp_path, made, jobs=4)
    assert made.ran == [first.key, second.key]


def test_a_grid_has_whole_seeds_and_starts_are_followed_by_what_needs_them(
    scope: Scope, tmp_path: Path
) -> None:
    def of(seed: int) -> tuple[Cell, Cell, Cell]:
        first, other = (scope.cell("fst", target, seed) for target in scope.targets)
        return first, other, scope.cell("rl", scope.targets[1], seed, start=first)

    asked = [of(seed)[which] for which in (0, 1, 2) for seed in (1, 0)]
    made = MadeUp()
    records = run_grid(asked, tmp_path, made)
    turns = [of(seed)[which].key for seed in (0, 1) for which in (0, 2, 1)]
    assert made.ran == turns == list(records)


def test_nobody_waits_for_a_start_while_there_is_something_else_to_do(
    scope: Scope, tmp_path: Path
) -> None:
    """The start is held until the last of the others has run beside it."""
    start = scope.cell("fst", scope.targets[0], 0)
    behind = scope.cell("rl", scope.targets[1], 0, start=start)
    others = [scope.cell(arm, scope.targets[1], 0) for arm in ("fst", "rl", "gepa")]
    made, last = MadeUp(), threading.Event()

    def run(cell: Cell, folder: Path) -> Record:
        if cell.key == start.key:
            assert last.wait(60)
        record = made(cell, folder)
        if cell.key == others[-1].key:
            last.set()
        return record

    run_grid([start, behind, *others], tmp_path, run, jobs=2)
    assert set(made.ran[:3]) == {cell.key for cell in others}
    assert made.ran[3:] == [start.key, behind.key]


def test_a_start_whose_weights_are_gone_runs_again_where_it_is_needed(
    scope: Scope, tmp_path: Path
) -> None:
    first = scope.cell("fst", scope.targets[0], 0)
    second = scope.cell("rl", scope.targets[1], 0, start=first)
    run_grid([first], tmp_path, MadeUp())
    assert [p.name for p in cell_folder(tmp_path, first).iterdir()] == ["cell.json"]
    made = MadeUp()
    run_grid([first, second], tmp_path, made)
    assert made.ran == [first.key, second.key]
    run_grid([first, second], tmp_path, made)
    assert len(made.ran) == 2, "nobody needs its weights any more"


def test_weights_that_are_there_are_started_from(scope: Scope, tmp_path: Path) -> None:
    first = scope.cell("fst", scope.targets[0], 0)
    second = scope.cell("rl", scope.targets[1], 0, start=first)
    run_grid([first], tmp_path, MadeUp())
    (cell_folder(tmp_path, first) / "run" / "result").mkdir(parents=True)
    made = MadeUp()
    run_grid([first, second], tmp_path, made)
    assert made.ran == [second.key]


def test_a_failure_is_a_record_with_an_error_and_is_tried_again(
    scope: Scope, tmp_path: Path
) -> None:
    cells = cells_of(scope)
    said: list[str] = []
    records = run_grid(cells, tmp_path, MadeUp(broken=("rl, ",)), note=said.append)
    failed = {key for key, record in records.items() if not record.ok}
    assert failed == {c.key for c in cells if c.config.arm == "rl"}
    assert {records[key].error for key in failed} == {"the server died"}
    assert any(line.startswith("failed: rl, ") for line in said)
    again = MadeUp()
    assert all(r.ok for r in run_grid(cells, tmp_path, again).values())
    assert set(again.ran) == failed


def test_what_starts_from_a_failed_cell_fails_without_being_run(
    scope: Scope, tmp_path: Path
) -> None:
    first = scope.cell("fst", scope.targets[0], 0)
    second = scope.cell("rl", scope.targets[1], 0, start=first)
    made = MadeUp(broken=("fst, ",))
    records = run_grid([second], tmp_path, made, jobs=2)
    assert made.ran == [first.key]
    assert "the cell it starts from failed" in str(records[second.key].error)


def test_a_record_outlives_a_failed_second_run_for_its_weights(
    scope: Scope, tmp_path: Path
) -> None:
    first = scope.cell("fst", scope.targets[0], 0)
    seconds = [scope.cell("rl", target, 0, start=first) for target in scope.targets]
    known = run_grid([first, seconds[0]], tmp_path, MadeUp())
    records = run_grid([first, *seconds], tmp_path, MadeUp(broken=("fst, ",)))
    assert records[first.key] == stored(tmp_path, first) == known[first.key]
    assert records[seconds[0].key] == known[seconds[0].key]
    assert "the cell it starts from failed" in str(records[seconds[1].key].error)


def test_a_run_is_made_smaller_only_when_its_record_is_there(scope: Scope, tmp_path: Path) -> None:
    cell = scope.cell("fst", scope.targets[0], 0)
    bulk = cell_folder(tmp_path, cell) / "run" / "rollouts"

    def killed(cell: Cell, folder: Path) -> Record:
        bulk.mkdir(parents=True)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_grid([cell], tmp_path, killed)
    assert bulk.is_dir()
    run_grid([cell], tmp_path, MadeUp())
    assert stored(tmp_path, cell) is not None
    assert not bulk.exists()


def test_a_bug_is_not_taken_for_a_failed_cell(scope: Scope, tmp_path: Path) -> None:
    def buggy(cell: Cell, folder: Path) -> None:
        raise KeyError("oops")

    with pytest.raises(KeyError):
        run_grid(cells_of(scope)[:1], tmp_path, buggy)  # pyright: ignore[reportArgumentType]


def test_the_record_of_another_cell_is_refused(scope: Scope, tmp_path: Path) -> None:
    a, b = cells_of(scope)[:2]
    run_grid([a], tmp_path, MadeUp())
    cell_folder(tmp_path, a).rename(cell_folder(tmp_path, b))
    with pytest.raises(RunDirError, match=f"record of another cell, {a.key}"):
        stored(tmp_path, b)


def test_a_results_folder_belongs_to_one_configuration(tmp_path: Path) -> None:
    out = tmp_path / "out"
    claim(out, {"a": 1})
    claim(out, {"a": 1})
    before = (out / "grid.json").read_bytes()
    with pytest.raises(ConfigError, match="holds results of another configuration"):
        claim(out, {"a": 2})
    assert (out / "grid.json").read_bytes() == before
    assert json.loads(before)["settings"] == {"a": 1}


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ConfigError, match="not empty"):
        claim(tmp_path, {})
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]

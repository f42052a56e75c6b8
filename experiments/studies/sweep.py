"""``fst study sweep``: the rl arm's own learning rate, from targets that are never reported."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

from experiments.charts import number, percent
from experiments.studies.ablations import RATES
from experiments.studies.cells import Cell, Record
from experiments.studies.curves import area, peak
from experiments.studies.grid import Records
from experiments.studies.learning import CURVE, NO_PARTIAL, curve_of
from experiments.studies.page import Grid, Page, Section, points, write_page
from experiments.studies.provenance import run_facts
from experiments.studies.scope import Changes, Scope, name_of, read_targets
from experiments.studies.track import track
from experiments.studies.workers import Workers
from fst_agents.errors import ConfigError
from fst_agents.json_files import write_json
from fst_agents.redaction import public_config
from optimizers.plan import total_rollouts

REWARDS = ("partial", "exact")

VARIED = {"slow.learning_rate", "task.reward"}
"""Keys that the sweep sets itself."""

METHOD = (
    "rl on the development rules, with partial credit and with all-or-nothing reward. Chosen: the "
    "rate with the largest mean area under the learning curve, with partial credit, which is what "
    f"the studies train on. {CURVE} The area is the mean of the share of right answers over the "
    "budget; beside it, the peak says how high a curve rose, not how soon.",
)


def sweep_cells(scope: Scope) -> dict[tuple[str, float], list[Cell]]:
    """(reward, rate) → its cells, one per rule and seed.

    Raises:
        ConfigError: a rule of ``scope`` is reported, so that nothing may be chosen by it.
    """
    reported = [rule for rule in scope.targets if rule not in read_targets().development]
    if reported:
        raise ConfigError(
            [f"sweep: {name_of(rule)} is reported; it may choose nothing" for rule in reported]
        )
    # The instruction is chosen afterwards, at the chosen rate: fst study baseline.
    rules = replace(scope, rl_instruction=None)

    def cells(reward: str, rate: float) -> list[Cell]:
        exact: Changes = NO_PARTIAL if reward == "exact" else {}
        changes: Changes = {**exact, "slow": {"learning_rate": rate}}
        return [rules.cell("rl", *unit, changes=changes) for unit in rules.units]

    return {(reward, rate): cells(reward, rate) for reward, rate in product(REWARDS, RATES)}


def sweep(
    scope: Scope,
    out: Path,
    *,
    command: str,
    workers: Workers,
) -> dict[str, Any]:
    """Run the sweep; the JSON object has the chosen rate and a row per setting.

    Raises:
        ConfigError: ``out`` holds results of another configuration, or something else.
    """
    started = time.monotonic()
    table = sweep_cells(scope)
    cells = [cell for own in table.values() for cell in own]
    records = workers(cells, out, scope.claim)
    rows = [_row(scope, *setting, own, records) for setting, own in table.items()]
    best = choose(rows)
    result: dict[str, Any] = {"study": "sweep", "learning_rate": best, "rows": rows}
    facts = run_facts(command, started, records)
    headline = (
        "No rate could be chosen." if best is None else f"The rl arm learns best at {best:g}."
    )
    section = Section("Rates", METHOD, sweep_grid(rows))
    page = Page("The rl arm's learning rate", headline, (section,), facts)
    result["report"] = str(write_page(page, out / "sweep", "sweep"))
    write_json(out / "sweep" / "result.json", result)
    hint = track(out, "study sweep", records, public_config(scope.base), scope.track)
    return {**result, "mlflow": hint}


def choose(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """The rate with the largest mean area under partial credit; the lower one of equals."""
    whole = [r for r in rows if r["reward"] == "partial" and r["area"] is not None]
    if not whole:
        return None
    return min(whole, key=lambda r: (-r["area"], r["learning_rate"]))["learning_rate"]


def sweep_grid(rows: Sequence[Mapping[str, Any]]) -> Grid:
    """A row per reward and rate."""
    means = ("area", "peak", "score")  # shares
    heads = ("mean area", "mean peak", "mean final score")
    columns = ("reward", "rate", *heads, "mean KL", "other skills", "runs", "failed")
    return Grid(
        columns,
        tuple(
            (
                r["reward"],
                f"{r['learning_rate']:g}",
                *("–" if r[k] is None else percent(r[k]) for k in means),
                "–" if r["kl"] is None else number(r["kl"]),
                "–" if r["retention"] is None else points(r["retention"]),
                str(r["runs"]),
                str(r["failed"]),
            )
            for r in rows
        ),
    )


def _row(
    scope: Scope, reward: str, rate: float, cells: Sequence[Cell], records: Records
) -> dict[str, Any]:
    """Means over the runs that did not fail; with a failed one there is no mean to choose by."""
    done: list[Record] = [r for cell in cells if (r := records[cell.key]).ok]
    whole = len(done) == len(cells)
    curves = [curve_of(r) or () for r in done]
    budget = total_rollouts(scope.base)
    peaks = [top.exact if (top := peak(curve)) else 0.0 for curve in curves]
    kept = [change for r in done if (change := r.retention_change) is not None]
    return {
        "reward": reward,
        "learning_rate": rate,
        "area": fmean(area(curve, budget) for curve in curves) if whole else None,
        "peak": fmean(peaks) if whole else None,
        "score": fmean(r.final for r in done) if whole else None,
        "kl": fmean(float(r.result["kl"]) for r in done) if whole else None,
        "retention": fmean(kept) if whole else None,
        "runs": len(done),
        "failed": len(cells) - len(done),
    }

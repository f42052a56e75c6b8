"""What an ablation comes to: every measure with its interval, differences, and which to choose.

Pure but for the records it reads. Runs are compared on equal rules and seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.charts import number, percent
from experiments.studies.ablations import BASELINE, Ablation
from experiments.studies.cells import Cell, Record
from experiments.studies.curves import area, peak, reaching
from experiments.studies.grid import Records
from experiments.studies.inference import Estimate, bootstrap, paired
from experiments.studies.learning import curve_of
from experiments.studies.page import Grid, points
from experiments.studies.scope import Scope
from optimizers.plan import total_rollouts

HALF = 0.5
"""Share of right answers that ``half`` counts the rollouts to."""

Measure = Callable[[Scope, Record], float | None]


def _area(scope: Scope, record: Record) -> float | None:
    return area(curve_of(record) or (), total_rollouts(scope.base))


def _half(scope: Scope, record: Record) -> float | None:
    there = reaching(curve_of(record) or (), HALF)
    # A run that never gets there has taken at least its whole budget.
    return float(total_rollouts(scope.base) if there is None else there.rollouts)


def _peak(scope: Scope, record: Record) -> float | None:
    top = peak(curve_of(record) or ())
    return None if top is None else top.exact


MEASURES: Mapping[str, Measure] = {
    "score": lambda scope, record: record.final,
    "area": _area,
    "peak": _peak,
    "half": _half,
    "kl": lambda scope, record: float(record.result["kl"]),
    "retention": lambda scope, record: record.retention_change,
}
"""What is measured of a run: held-out score of what the arm ships; mean share of right answers of
its learning curve over the budget; its highest point; rollouts to half of them right; KL to the
base; change on other skills."""

COLUMNS: Mapping[str, tuple[str, Callable[[float], str], Callable[[float], str]]] = {
    "score": ("final score", percent, points),
    "area": ("area under the curve", percent, points),
    "peak": ("peak", percent, points),
    "half": ("rollouts to 50 %", number, number),
    "kl": ("KL", number, number),
    "retention": ("other skills, points", points, points),
}
"""Measure → its heading, how a value is written, how a difference is."""

PRIMARY = "area"
GUARDS = ("score", "retention")

FEWEST = 6
"""Pairs of runs from which something may follow: with five, even five differences of one sign come
about by chance one time in 16."""


def ablation_rows(
    ablation: Ablation, scope: Scope, table: Mapping[str, Sequence[Cell]], records: Records
) -> list[dict[str, Any]]:
    """A row per variant; a failed run is counted and in no figure."""
    values = {
        label: {name: _values(scope, own, records, of) for name, of in MEASURES.items()}
        for label, own in table.items()
    }
    standard = values[ablation.default]
    rows: list[dict[str, Any]] = []
    for label, own in table.items():
        done = [r for cell in own if (r := records[cell.key]).ok]
        pairs = zip(values[label][PRIMARY], standard[PRIMARY], strict=True)
        rows.append(
            {
                "variant": label,
                "default": label == ablation.default,
                "runs": len(done),
                "failed": len(own) - len(done),
                "pairs": sum(a is not None and b is not None for a, b in pairs),
                "never_half": sum(not _reached(scope, record) for record in done),
                "fast_phases": _fast_phases(done),
                **{name: _estimate(scope, found) for name, found in values[label].items()},
                "difference": None
                if label == ablation.default
                else {
                    name: _difference(scope, values[label][name], standard[name])
                    for name in MEASURES
                },
            }
        )
    return rows


def favoured(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """The variant that the evidence favours over the default, ``None`` where it stays.

    It is the one with the largest area under the learning curve among those whose area is larger
    over the whole 95 % interval, while neither final score nor retention is smaller over its own.
    With a failed run anywhere, or fewer than :data:`FEWEST` pairs of runs, nothing is favoured.
    """
    if any(row["failed"] or row["pairs"] < FEWEST for row in rows):
        return None
    better = [
        row
        for row in rows
        if row["difference"] is not None
        and (found := row["difference"][PRIMARY]) is not None
        and found["low"] > 0
        and all((g := row["difference"][name]) is None or g["high"] >= 0 for name in GUARDS)
    ]
    top = max(better, key=lambda row: row["difference"][PRIMARY]["estimate"], default=None)
    return None if top is None else top["variant"]


def best(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """The variant with the largest mean area, the first of equals; ``None`` if a run failed.

    A baseline gets what is best for it on average, whether or not the difference is certain.
    """
    if any(row["failed"] or row[PRIMARY] is None for row in rows):
        return None
    return max(rows, key=lambda row: row[PRIMARY]["estimate"])["variant"]


def words(ablation: Ablation, rows: Sequence[Mapping[str, Any]]) -> str:
    """What follows, in one sentence or two."""
    failed = sum(row["failed"] for row in rows)
    if failed:
        return f"Nothing can be told of {ablation.varied}: {failed} run(s) failed."
    if ablation.name == BASELINE.name:
        return (
            f"RL alone learns best under {best(rows)!r}; the studies give it {ablation.default!r}."
        )
    pairs = min(row["pairs"] for row in rows)
    if pairs < FEWEST:
        return (
            f"Nothing follows for {ablation.varied} from {pairs} pair(s) of runs; {FEWEST} are the "
            "fewest."
        )
    winner = favoured(rows)
    if winner is None:
        return (
            f"No setting of {ablation.varied} is better than the default, {ablation.default}, over "
            "a whole 95 % interval: the default stays."
        )
    found = next(row for row in rows if row["variant"] == winner)["difference"][PRIMARY]
    return (
        f"The evidence favours {winner} over the default, {ablation.default}: "
        f"{points(found['estimate'])} points [{points(found['low'])}, {points(found['high'])}] of "
        "area under the learning curve, at no certain cost in final score or other skills."
    )


def table_of(rows: Sequence[Mapping[str, Any]]) -> Grid:
    """Every measure with its interval, a row per variant."""
    heads = [head for head, _, _ in COLUMNS.values()]
    return Grid(
        ("", *heads, "fast phases", "never 50 %", "runs", "failed"),
        tuple(
            (
                f"{row['variant']}{' (default)' if row['default'] else ''}",
                *(_cell(row[name], write) for name, (_, write, _) in COLUMNS.items()),
                "–" if row["fast_phases"] is None else number(row["fast_phases"]),
                *(str(row[name]) for name in ("never_half", "runs", "failed")),
            )
            for row in rows
        ),
    )


def summary_of(rows: Sequence[Mapping[str, Any]]) -> Grid:
    """Means alone, for a terminal, which has no room for the intervals."""
    heads = ("score", "area", "peak", "to 50 %", "KL", "skills", "failed")
    return Grid(
        ("", *heads),
        tuple(
            (
                f"{row['variant']}{' *' if row['default'] else ''}",
                *(
                    "–" if row[name] is None else write(row[name]["estimate"])
                    for name, (_, write, _) in COLUMNS.items()
                ),
                str(row["failed"]),
            )
            for row in rows
        ),
    )


def differences_of(rows: Sequence[Mapping[str, Any]]) -> Grid:
    """Every variant minus the default, on equal rules and seeds."""
    heads = [head for head, _, _ in COLUMNS.values()]
    return Grid(
        ("minus the default", *heads),
        tuple(
            (
                row["variant"],
                *(_cell(row["difference"][name], write) for name, (_, _, write) in COLUMNS.items()),
            )
            for row in rows
            if row["difference"] is not None
        ),
    )


def _cell(found: Mapping[str, float] | None, write: Callable[[float], str]) -> str:
    if found is None:
        return "–"
    return f"{write(found['estimate'])} [{write(found['low'])}, {write(found['high'])}]"


def _values(
    scope: Scope, cells: Sequence[Cell], records: Records, measure: Measure
) -> list[float | None]:
    """A value per unit of the scope; ``None`` of a failed run, or where there is nothing."""
    found = [records[cell.key] for cell in cells]
    return [measure(scope, record) if record.ok else None for record in found]


def _by_rule(scope: Scope, values: Sequence[float | None]) -> list[list[float]]:
    """Grouped as they were drawn, the seeds of one rule together."""
    groups: dict[tuple[str, ...], list[float]] = {}
    for (target, _), value in zip(scope.units, values, strict=True):
        if value is not None:
            groups.setdefault(target, []).append(value)
    return list(groups.values())


def _estimate(scope: Scope, values: Sequence[float | None]) -> dict[str, float] | None:
    groups = _by_rule(scope, values)
    return _plain(bootstrap(groups)) if groups else None


def _difference(
    scope: Scope, first: Sequence[float | None], second: Sequence[float | None]
) -> dict[str, float] | None:
    """On the units that both have a value of."""
    whole = [a is not None and b is not None for a, b in zip(first, second, strict=True)]
    ours, theirs = (
        _by_rule(scope, [v if both else None for v, both in zip(values, whole, strict=True)])
        for values in (first, second)
    )
    return _plain(paired(ours, theirs).estimate) if ours else None


def _reached(scope: Scope, record: Record) -> bool:
    return reaching(curve_of(record) or (), HALF) is not None


def _fast_phases(done: Sequence[Record]) -> float | None:
    """How many fast phases a run had, on average."""
    found = [float(n) for r in done if (n := r.result.get("fast_phases")) is not None]
    return sum(found) / len(found) if found else None


def _plain(estimate: Estimate) -> dict[str, float]:
    return {"estimate": estimate.mean, "low": estimate.low, "high": estimate.high}

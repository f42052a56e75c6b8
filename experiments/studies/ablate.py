"""``fst study`` of an ablation, or of all: settings side by side."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.studies.ablation_table import (
    FEWEST,
    ablation_rows,
    best,
    differences_of,
    favoured,
    table_of,
    words,
)
from experiments.studies.ablations import BASELINE, TOGETHER, Ablation
from experiments.studies.cells import Cell
from experiments.studies.curves import Curve
from experiments.studies.figures import learning_figure
from experiments.studies.grid import Records
from experiments.studies.learning import CURVE, curve_of
from experiments.studies.page import Figure, Page, Section, write_page
from experiments.studies.provenance import run_facts
from experiments.studies.scope import Scope, name_of
from experiments.studies.track import track
from experiments.studies.workers import Workers
from fst_agents.json_files import write_json
from fst_agents.redaction import public_config

MEASURES = (
    f"Every setting on the same rules, seeds and rollouts. {CURVE} The area is the mean of the "
    "share of right answers over the budget, 0 before the first point. Where half of the answers "
    "never are right, the whole budget stands for the rollouts to it. Intervals are 95 % "
    "bootstraps over rules, and seeds within them; differences are between runs of equal rule and "
    "seed."
)
RULE = (
    "Fixed beforehand: a setting is favoured over the default if the whole interval of its area's "
    "difference lies above zero, while that of neither its final score nor its other skills lies "
    "below; the largest area among those. With a failed run, or fewer than "
    f"{FEWEST} pairs of runs, nothing is. Of three rules such an interval is too narrow: of two "
    "equal settings one in ten would be called the better, as simulations say. What is favoured "
    "has a hint behind it, not a proof."
)
OF_A_BASELINE = (
    "Fixed beforehand: a baseline gets the setting with the largest mean area, whether or not the "
    "difference is certain."
)

COLORS = ("c1", "c2", "c3", "c4", "c5", "c6")


def ablate(
    ablations: Sequence[Ablation],
    scope: Scope,
    out: Path,
    *,
    command: str,
    workers: Workers,
) -> dict[str, Any]:
    """Run what is missing and fill every table; each ablation gets a folder in ``out``.

    One ablation gives its own JSON object, several one object with all of them under ``studies``.

    Args:
        scope: on development rules.

    Raises:
        ConfigError: a setting cannot be run, or ``out`` holds results of another configuration.
    """
    started = time.monotonic()
    tables = [(one, one.cells(scope)) for one in ablations]
    cells = [cell for _, table in tables for own in table.values() for cell in own]
    records = workers(cells, out, scope.claim)
    facts = run_facts(command, started, records)
    results: list[dict[str, Any]] = []
    for one, table in tables:
        result = told(one, scope, table, records)
        page = ablation_page(one, scope, table, records, result, facts)
        result["report"] = str(write_page(page, out / one.name, one.name))
        write_json(out / one.name / "result.json", result)
        results.append(result)
    name = ablations[0].name if len(ablations) == 1 else TOGETHER
    hint = track(out, f"study {name}", records, public_config(scope.base), scope.track)
    whole = results[0] if len(results) == 1 else {"studies": results}
    return {**whole, "mlflow": hint}


def told(
    ablation: Ablation, scope: Scope, table: Mapping[str, Sequence[Cell]], records: Records
) -> dict[str, Any]:
    """The JSON object of an ablation."""
    rows = ablation_rows(ablation, scope, table, records)
    chosen = best(rows) if ablation.name == BASELINE.name else favoured(rows)
    return {
        "study": ablation.name,
        "question": ablation.question,
        "varied": ablation.varied,
        "default": ablation.default,
        "favoured": chosen,
        "words": words(ablation, rows),
        "n": {"targets": len(scope.targets), "seeds": len(scope.seeds)},
        "failed": sum(row["failed"] for row in rows),
        "rows": rows,
        "cells": [
            {"variant": label, **records[cell.key].summary}
            for label, own in table.items()
            for cell in own
        ],
    }


def ablation_page(
    ablation: Ablation,
    scope: Scope,
    table: Mapping[str, Sequence[Cell]],
    records: Records,
    result: Mapping[str, Any],
    facts: Mapping[str, str],
) -> Page:
    """Question, answer, tables, curves."""
    rules = f"{len(scope.seeds)} seed(s) of {'; '.join(map(name_of, scope.targets))}."
    rows = result["rows"]
    rule = OF_A_BASELINE if ablation.name == BASELINE.name else RULE
    sections = [
        Section("How it is measured", (ablation.question, MEASURES, rule)),
        Section("Settings", (rules,), table_of(rows), _curves(scope, table, records)),
        Section("Against the default", (), differences_of(rows)),
    ]
    failed = [
        f"{c['variant']}: {c['label']}: {c['error']}" for c in result["cells"] if "error" in c
    ]
    if failed:
        sections.append(Section("Failed cells", tuple(failed)))
    return Page(f"Ablation: {ablation.varied}", result["words"], tuple(sections), facts)


def _curves(
    scope: Scope, table: Mapping[str, Sequence[Cell]], records: Records
) -> tuple[Figure, ...]:
    curves: dict[str, list[Curve]] = {}
    for label, own in table.items():
        done = [records[cell.key] for cell in own if records[cell.key].ok]
        curves[label] = [curve for r in done if (curve := curve_of(r))]
    about = "Share of held-out answers right; mean over rules and seeds."
    colors = dict(zip(table, COLORS, strict=False))
    return learning_figure(
        "learning", "Learning", about, curves, lambda p: p.exact, share=True, colors=colors
    )

"""``fst study``: run the cells that studies need, and say of each finding whether it holds."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.charts import number
from experiments.studies.cells import Cell
from experiments.studies.grid import Records
from experiments.studies.inference import Estimate
from experiments.studies.page import Grid, Page, Section, write_page
from experiments.studies.protocol import Answer, Judgement, Lookup, Study, judge
from experiments.studies.provenance import run_facts
from experiments.studies.scope import Scope
from experiments.studies.track import track
from experiments.studies.workers import Workers
from fst_agents.json_files import write_json
from fst_agents.redaction import public_config


@dataclass(frozen=True)
class Told:
    """A study with its answer."""

    study: Study
    answer: Answer
    judgement: Judgement
    result: dict[str, Any]


def run_studies(
    studies: Sequence[Study],
    scope: Scope,
    out: Path,
    *,
    command: str,
    workers: Workers,
) -> dict[str, Any]:
    """Run what is missing and answer every study; each gets a folder in ``out``.

    A cell that several studies need runs once. One study gives its own JSON object, several one
    object with all of them under ``studies``.

    Args:
        workers: who runs the cells.

    Raises:
        ConfigError: ``out`` holds results of another configuration, or something else.
    """
    started = time.monotonic()
    cells = [cell for study in studies for cell in study.cells(scope)]
    records = workers(cells, out, scope.claim)
    facts = run_facts(command, started, records)
    told = [tell(study, scope, records) for study in studies]
    for one in told:
        folder = out / one.study.name
        one.result["report"] = str(write_page(study_page(one, facts), folder, one.study.name))
        write_json(folder / "result.json", one.result)
    if len(told) > 1:
        write_page(overview(told, facts), out, "fst study")
    name = told[0].study.name if len(told) == 1 else "all"
    public = public_config(scope.base)
    hint = track(out, f"study {name}", records, public, scope.track)
    if len(told) == 1:
        return {**told[0].result, "mlflow": hint}
    return {"studies": [one.result for one in told], "mlflow": hint}


def tell(study: Study, scope: Scope, records: Records) -> Told:
    """Read a study's answer off the records, and judge it."""
    own = {cell.key: records[cell.key] for cell in needed(study.cells(scope))}
    failed = sum(not record.ok for record in own.values())
    answer = study.answer(scope, Lookup(records))
    judgement = judge(study.protocol, answer, failed)
    result = {
        "study": study.name,
        "finding": study.protocol.finding,
        "paper": dict(study.protocol.paper),
        "ours": _ours(judgement.estimate),
        "difference": None if judgement.difference is None else _ours(judgement.difference),
        "measure": study.protocol.measure,
        "holds": judgement.verdict == "holds",
        "verdict": judgement.verdict,
        "words": words(study, judgement, failed),
        "n": {
            "targets": sum(map(bool, answer.groups)) if answer.targets is None else answer.targets,
            "seeds": len(scope.seeds),
            "values": sum(map(len, answer.groups)),
        },
        "failed": failed,
        "more": dict(answer.more),
        "cells": [record.summary for record in own.values()],
    }
    return Told(study, answer, judgement, result)


def needed(cells: Sequence[Cell]) -> list[Cell]:
    """The cells and those that they start from."""
    return [one for cell in cells for one in ([cell.start, cell] if cell.start else [cell])]


def words(study: Study, judgement: Judgement, failed: int) -> str:
    """The verdict as a sentence."""
    protocol, estimate = study.protocol, judgement.estimate
    if estimate is None:
        return f"{protocol.finding} cannot be told: no run had a value to measure."
    figure = _interval(estimate)
    sign = "at least" if protocol.larger else "at most"
    asked = f"{protocol.measure}: {figure}, asked for {sign} {number(protocol.threshold)}"
    if judgement.difference is not None:
        asked += f"; minus that of rl: {_interval(judgement.difference)}, asked for more than 0"
    if failed:
        return f"{protocol.finding} cannot be told, {failed} cell(s) failed. {asked}."
    return f"{protocol.finding} {judgement.verdict}. {asked}."


def overview_grid(results: Sequence[Mapping[str, Any]]) -> Grid:
    """The paper's figure beside ours, a row per study."""
    rows = [
        (
            f"{r['finding']} {r['study']}",
            "; ".join(f"{k}: {v}" for k, v in r["paper"].items()),
            _figure(r["ours"]),
            r["measure"],
            r["verdict"],
        )
        for r in results
    ]
    columns = ("finding", "the paper", "ours [95 %]", "measure", "verdict")
    return Grid(columns, tuple(rows), texts=("the paper", "measure", "verdict"))


def study_page(told: Told, facts: Mapping[str, str]) -> Page:
    """Question, protocol, answer, runs."""
    protocol = told.study.protocol
    result = told.result
    scope = f"{result['n']['targets']} targets, {result['n']['seeds']} seed(s)"
    sections = [
        Section("Protocol, fixed beforehand", (protocol.question, protocol.procedure)),
        Section("The paper's figure beside ours", (told.answer.words,), overview_grid([result])),
        Section("Runs", (f"Measured on {scope}.",), told.answer.grid, told.answer.figures),
    ]
    failed = [f"{c['label']}: {c['error']}" for c in result["cells"] if "error" in c]
    if failed:
        sections.append(Section("Failed cells", tuple(failed)))
    return Page(f"{protocol.finding}: {told.study.name}", result["words"], tuple(sections), facts)


def overview(told: Sequence[Told], facts: Mapping[str, str]) -> Page:
    """All findings on one page."""
    results = [one.result for one in told]
    held = sum(result["holds"] for result in results)
    headline = f"{held} of {len(results)} findings hold."
    texts = tuple(result["words"] for result in results)
    sections = (
        Section("The paper's figures beside ours", (), overview_grid(results)),
        Section("In words", texts),
    )
    return Page("Learning fast and slow: the findings", headline, sections, facts)


def _interval(estimate: Estimate) -> str:
    return f"{number(estimate.mean)} [{number(estimate.low)}, {number(estimate.high)}]"


def _ours(estimate: Estimate | None) -> dict[str, float | None]:
    if estimate is None:
        return {"estimate": None, "low": None, "high": None}
    return {"estimate": estimate.mean, "low": estimate.low, "high": estimate.high}


def _figure(ours: Mapping[str, float | None]) -> str:
    if ours["estimate"] is None or ours["low"] is None or ours["high"] is None:
        return "–"
    return f"{number(ours['estimate'])} [{number(ours['low'])}, {number(ours['high'])}]"

"""The demo's configuration, and the table at the end of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from experiments.check import check
from fst_agents.config import RunConfig

WEIGHTS = (("base", "base weights"), ("trained", "trained weights"))
INSTRUCTIONS = (("seed", "seed instruction"), ("evolved", "evolved instruction"))


def demo_config(task: str, seed: int, serve: str, overrides: Sequence[str]) -> RunConfig:
    """The run file of the demo: everything but its name, seed and host is the default."""
    data = {"seed": seed, "task": {"name": task}, "serve": {"host": serve}}
    return check(data, overrides)


def table(result: dict[str, Any]) -> Table:
    """The 2×2 with intervals."""
    grid = Table(title="Score on held-out problems (mean, 95 % interval)", title_justify="left")
    grid.add_column("")
    for _, label in INSTRUCTIONS:
        grid.add_column(label, justify="right")
    for weights, label in WEIGHTS:
        grid.add_row(label, *(_cell(result, f"{weights}_{text}") for text, _ in INSTRUCTIONS))
    return grid


def show(result: dict[str, Any], console: Console) -> None:
    """What a person wants to know at the end of a run."""
    console.print()
    console.print(table(result))
    facts = Table(show_header=False, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    for label, value in _facts(result):
        facts.add_row(label, Text(value))  # an instruction may look like markup
    console.print(facts)
    if result["mlflow"] is not None:
        console.print("\nTo browse the run in MLflow:", style="bold")
        console.print(result["mlflow"], soft_wrap=True, highlight=False, markup=False)


def _facts(result: dict[str, Any]) -> list[tuple[str, str]]:
    rollouts, kept = result["rollouts"], result["retention"]
    rows = [(f"instruction of {name}", text) for name, text in result["instructions"].items()]
    rows.append(
        ("rollouts", f"{rollouts['fast']:,} fast, {rollouts['slow']:,} slow "
         f"({_count(result['cycles'], 'cycle')}, {_count(result['steps'], 'RL step')})")
    )  # fmt: skip
    if result["kl"] is not None:
        rows.append(("KL to base", f"{result['kl']:.3f} nats per token"))
    if kept["base"] is not None:
        rows.append(("other skills", f"{kept['base']:.1%} before, {kept['final']:.1%} after"))
    rows.append(("training time", f"{result['seconds']:.0f} s"))
    rows.append(("run directory", result["run_dir"]))
    rows.append(("report", str(Path(result["report"]).absolute().as_uri())))
    if result["mlflow_run_id"] is not None:
        rows.append(("MLflow run", result["mlflow_run_id"]))
    return rows


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _cell(result: dict[str, Any], name: str) -> str:
    mean, interval = result["scores"][name], result["intervals"][name]
    if mean is None:
        return "–"
    return f"{mean:.1%}  [{interval[0]:.1%}, {interval[1]:.1%}]"

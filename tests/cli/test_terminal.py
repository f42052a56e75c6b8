"""What a terminal shows: text as it is, whatever it looks like."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from experiments import command
from experiments.demo import show
from experiments.progress import Bar
from experiments.studies.page import Grid, console_table
from fst_agents.types import Candidate, Population, StepReport
from optimizers.plan import FastPhase

ODD = "write [/answer] after [bold]it"


def terminal() -> Console:
    return Console(file=io.StringIO(), width=200)


def said(console: Console) -> str:
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def test_an_instruction_may_look_like_markup() -> None:
    console, champion = terminal(), Candidate({"solve": ODD})
    with Bar(console) as bar:
        bar.note(ODD)
        population = Population((champion,), {champion.id: {"a": 1.0}})
        bar.fast(
            FastPhase(0, 1, 10, passes=False), StepReport(0, {"fast/best_mean": 1.0}), population
        )
    console.print(console_table(Grid(("instruction",), ((ODD,),)), "Instructions"))
    assert said(console).count(ODD) == 3


def test_so_it_may_at_the_end_of_a_run() -> None:
    nothing = dict.fromkeys(("base_seed", "base_evolved", "trained_seed", "trained_evolved"))
    result: dict[str, Any] = {
        "scores": nothing, "intervals": nothing, "mlflow": None, "mlflow_run_id": None,
        "rollouts": {"fast": 1, "slow": 1}, "retention": {"base": None}, "cycles": 1, "steps": 1,
        "kl": None, "seconds": 1.0, "run_dir": "[/r]", "report": "r",
        "instructions": {"solve": ODD},
    }  # fmt: skip
    console = terminal()
    show(result, console)
    assert ODD in said(console)
    assert "[/r]" in said(console)


def test_so_may_an_error_that_a_grid_tells_of(monkeypatch: pytest.MonkeyPatch) -> None:
    console = terminal()
    monkeypatch.setattr(command, "err", console)
    command.note("failed: pip install 'fst-agents[ray]' [/tmp/x]")
    assert said(console) == "failed: pip install 'fst-agents[ray]' [/tmp/x]\n"

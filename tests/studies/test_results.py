"""What experiments/results says is what its records say: each command, run again, writes it."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from experiments.cli import app

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "experiments/results"
GRIDS = sorted(path.parent for path in RESULTS.glob("*/grid.json"))
FOLDERS = [grid for grid in GRIDS if any(grid.rglob("README.md"))]
OF_THIS_COMMAND = re.compile(r"^\| (command|machine|time|date|commit) \|.*\n", re.MULTILINE)


def pages(folder: Path) -> dict[str, str]:
    """Everything that is kept of the pages of a results folder, but what tells of the command."""
    kept = [p for kind in ("README.md", "*.svg", "result.json") for p in folder.rglob(kind)]
    texts = {str(p.relative_to(folder)): p.read_text("utf-8") for p in kept}
    here = str(folder)
    return {
        name: OF_THIS_COMMAND.sub("", text).replace(here, "OUT").replace(place(folder), "OUT")
        for name, text in texts.items()
        if not name.startswith("cells/")
    }


def values(text: str) -> tuple[dict[str, float], dict[str, str]]:
    """The fractions of a JSON text, and all its other values, by their paths."""
    fractions: dict[str, float] = {}
    others: dict[str, str] = {}

    def read(value: Any, path: str) -> None:
        if isinstance(value, dict | list) and value:
            for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
                read(inner, f"{path}/{key}")
        elif isinstance(value, float):
            fractions[path] = value
        else:
            others[path] = repr(value)

    read(json.loads(text), "")
    return fractions, others


def place(folder: Path) -> str:
    return f"experiments/results/{folder.name}"


def command(folder: Path) -> list[str]:
    """The command that wrote a results folder, by the first of its pages."""
    page = min(folder.rglob("README.md")).read_text("utf-8")
    found = re.search(r"^\| command \| `fst (.*)` \|$", page, re.MULTILINE)
    assert found is not None, page
    return shlex.split(found[1])


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda f: f.name)
def test_its_command_writes_the_same_from_the_records(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / folder.name
    shutil.copytree(
        folder, out, ignore=shutil.ignore_patterns("README.md", "*.svg", "result.json", "run")
    )
    asked = command(folder)
    assert asked[asked.index("--out") + 1] == place(folder)
    asked[asked.index("--out") + 1] = str(out)
    told = CliRunner().invoke(app, asked)
    assert told.exit_code == 0, told.output
    assert not list(out.glob("cells/*/run")), "a record is missing: a cell was run"
    written, kept = pages(out), pages(folder)
    assert set(written) == set(kept)
    for name, text in kept.items():
        if not name.endswith(".json"):
            assert written[name] == text, name
            continue
        (ours, others), (theirs, their_others) = values(written[name]), values(text)
        assert others == their_others, name
        # How wide a processor adds decides the last place of a sum.
        assert ours == pytest.approx(theirs, rel=1e-9), name


def test_the_index_names_every_page() -> None:
    index = (ROOT / "experiments/README.md").read_text("utf-8")
    for folder in GRIDS:
        for page in [*folder.rglob("README.md")] or [folder / "cells"]:  # of a grid that goes on
            assert str(page.relative_to(ROOT / "experiments")) in index

"""Pages agree with the code: run files, keys, commands, options, links, the quality table."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from statistics import fmean, median
from typing import Any

import pytest
import typer.main

from experiments.check import check
from experiments.cli import app
from experiments.forecast import forecast
from experiments.run_file_docs import render
from fst_agents.config import RunConfig
from fst_agents.run_file import read
from programs import micro
from programs.catalog import TASKS
from programs.micro import phrasebook

ROOT = Path(__file__).resolve().parents[2]
WHERE = ("*.md", "docs/*.md", "experiments/*.md", "programs/*/README.md")
PAGES = [p for where in WHERE for p in sorted(ROOT.glob(where))]
RUN_FILES = sorted(ROOT.glob("experiments/runs/*.toml"))
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # pyright: ignore


def sections(page: Path) -> dict[str, str]:
    """Title → text of the third-level sections of a page."""
    parts = re.split(r"^### (.*)$", page.read_text("utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_the_run_file_page_is_what_the_schema_says() -> None:
    assert (ROOT / "docs/run-file.md").read_text("utf-8") == render(), (
        "render it again: python -m experiments.run_file_docs > docs/run-file.md"
    )


def test_every_key_of_the_schema_is_on_its_page() -> None:
    page = render()
    for name, field in RunConfig.model_fields.items():
        section = hasattr(field.annotation, "model_fields")
        shown = (f"`[{name}]`",) if section else (f"`{name}`", f"`[{name}.")
        assert any(text in page for text in shown), name


def test_every_task_has_a_run_file_and_a_readme() -> None:
    asked = {read(file)["task"]["name"] for file in RUN_FILES}
    assert asked == set(TASKS)
    for name in TASKS:
        folder = ROOT / "programs" / name.partition("-")[0]
        assert name in (folder / "README.md").read_text("utf-8")


@pytest.mark.parametrize("file", RUN_FILES, ids=lambda f: f.stem)
def test_a_run_file_passes_check(file: Path) -> None:
    data = read(file)
    no_vllm = importlib.util.find_spec("vllm") is None
    elsewhere = data.get("serve", {}).get("host") == "vllm" and no_vllm
    here = ["serve.host=local"] if elsewhere else []
    check(data, here)
    assert forecast(check(data, [*here, "policy.model=Qwen/Qwen3-8B"]))["rollouts"]["limit"] > 0


@pytest.mark.parametrize("file", RUN_FILES, ids=lambda f: f.stem)
def test_the_rule_of_a_digits_run_file_is_held_out(file: Path) -> None:
    task = read(file)["task"]
    assert task["name"] != "digits" or tuple(task["target"]) in phrasebook.held_out_pairs()


def test_run_files_named_after_arms_differ_in_the_arm_only() -> None:
    files = {arm: read(ROOT / f"experiments/runs/{arm}.toml") for arm in ("fst", "rl", "gepa")}
    files["sequential"] = read(ROOT / "experiments/runs/sequential.toml")
    assert {name: data.pop("arm") for name, data in files.items()} == {n: n for n in files}
    assert all(data == files["fst"] for data in files.values())


def test_every_command_is_documented_and_every_documented_one_exists() -> None:
    titles = sections(ROOT / "docs/cli.md")
    assert set(titles) == {f"`fst {name}`" for name in COMMANDS}


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_options_of_a_command_are_documented(name: str) -> None:
    page = (ROOT / "docs/cli.md").read_text("utf-8")
    general, own = page.partition("###")[0], sections(ROOT / "docs/cli.md")[f"`fst {name}`"]
    options = {o for p in COMMANDS[name].params for o in p.opts if o.startswith("--")}
    missing = [o for o in options if not re.search(rf"{o}\b", general + own)]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    broken = [link for link in links if not leads_somewhere(page, link)]
    assert broken == []


def leads_somewhere(page: Path, link: str) -> bool:
    file, _, anchor = link.partition("#")
    target = page if not file else page.parent / file
    if not anchor:
        return target.exists()
    titles = re.findall(r"^#+ (.*)$", target.read_text("utf-8"), re.MULTILINE)
    return anchor in {re.sub(r"[^\w\- ]", "", t).lower().replace(" ", "-") for t in titles}


def test_every_page_can_be_found_from_the_readme() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    assert [p.name for p in ROOT.glob("docs/*.md") if f"docs/{p.name}" not in readme] == []


def test_the_quality_table_is_the_measured_one() -> None:
    record = json.loads((micro.path() / "quality.json").read_text("utf-8"))
    page = (ROOT / "docs/micro-policy.md").read_text("utf-8")
    rows = [
        quality_row("single operation | right", record["singles"]),
        quality_row("trained pair | right", record["trained"]),
        quality_row("held-out pair | right", record["held_out"]),
        quality_row("held-out pair | vague", record["held_out_vague"]),
    ]
    assert [row for row in page.splitlines() if row in rows] == rows, "\n".join(rows)


def quality_row(head: str, cells: dict[str, dict[str, float]]) -> str:
    sampled = [cell["sampled"] for cell in cells.values()]
    values = [fmean(sampled), min(sampled), median(sampled), max(sampled)]
    values.append(fmean(cell["greedy"] for cell in cells.values()))
    return f"| {head} | {len(cells)} | {' | '.join(f'{v:.1%}' for v in values)} |"


def test_the_operations_on_the_micro_policy_page_are_right() -> None:
    page = (ROOT / "docs/micro-policy.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (\d+) → (\d+) \| (.*) \|$", page, re.MULTILINE)
    assert [name for name, *_ in rows] == list(phrasebook.OPERATIONS)
    for name, given, answer, phrasing in rows:
        assert phrasebook.apply((name,), [int(c) for c in given]) == tuple(map(int, answer))
        assert phrasing in phrasebook.PHRASINGS[name]

"""What the documentation shows is what happens: its commands, snippets and run files are run.

A fenced block is run unless ``<!-- test: skip (reason) -->`` stands above it. ``sh`` blocks run in
a sandbox that looks like a checkout; the one block under ``<!-- test: first -->`` makes the run
directory that others use, and blocks under ``<!-- file: name -->`` are the files there. ``python``
blocks of a page share one namespace, in order.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from fst_agents.run_file import parse

ROOT = Path(__file__).resolve().parents[2]
WHERE = ("*.md", "docs/*.md", "experiments/*.md", "programs/*/README.md")
PAGES = [p for where in WHERE for p in sorted(ROOT.glob(where))]
BLOCK = re.compile(
    r"(?:^<!-- (?:test: (?P<marker>first|skip \([^)\n]{5,}\))|file: (?P<file>[\w.]+)) -->\n)?"
    r"^```(?P<kind>\w*)\n"
    r"(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
KINDS = {"sh", "python", "toml", "text", "json"}


@dataclass(frozen=True)
class Block:
    """A fenced block; ``where`` is ``page:line``."""

    where: str
    page: str
    kind: str
    text: str
    marker: str
    file: str


def blocks_of(page: Path) -> list[Block]:
    text, name = page.read_text(encoding="utf-8"), str(page.relative_to(ROOT))
    return [
        Block(
            where=f"{name}:{text.count(chr(10), 0, m.start('text'))}",
            page=name,
            kind=m["kind"],
            text=m["text"],
            marker=m["marker"] or "",
            file=m["file"] or "",
        )
        for m in BLOCK.finditer(text)
    ]


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def runnable(kind: str) -> list[Block]:
    return [b for b in BLOCKS if b.kind == kind and not b.marker]


# One thread: on a busy machine several threads wait for each other most of the time.
SETTINGS = {
    "HF_HUB_OFFLINE": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "OMP_NUM_THREADS": "1",
}


def shell(text: str, folder: Path) -> None:
    """Run a block as a person would paste it; the first failing line fails it."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")} | SETTINGS
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what commands refer to, and with the run of the block marked ``first``."""
    folder = tmp_path_factory.mktemp("checkout")
    (folder / ".venv").symlink_to(sys.prefix)
    (folder / "experiments").symlink_to(ROOT / "experiments")
    for block in (b for b in BLOCKS if b.file):
        (folder / block.file).write_text(block.text, encoding="utf-8")
    [first] = [b for b in BLOCKS if b.marker == "first"]
    shell(first.text, folder)
    return folder


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def documented(metric: str, page: str) -> bool:
    """Whether a metric's name, the names in it made general, stands in the row of its prefix; those
    of single candidates, which are not tracked, anywhere on the page."""
    general = re.sub(r"/(predictor|candidate)/[^/]+/", r"/\1/<name>/", metric)
    general = re.sub(r"/outcome/\w+$", "/outcome/<outcome>", general)
    if "/candidate/" in general:
        return f"`{general}`" in page
    prefix, _, name = general.partition("/")
    [row] = [line for line in page.splitlines() if line.startswith(f"| `{prefix}/` |")]
    return f"`{name}`" in row


def test_every_metric_of_a_run_is_documented(sandbox: Path) -> None:
    page = (ROOT / "docs/tracking.md").read_text("utf-8")
    lines = (sandbox / "runs/first/metrics.jsonl").read_text("utf-8").splitlines()
    names = {name for line in lines for name in json.loads(line)["metrics"]}
    assert {"slow", "fast", "serve"} <= {name.partition("/")[0] for name in names}
    assert sorted(n for n in names if not documented(n, page)) == []


def test_every_block_says_what_it_is() -> None:
    assert {b.where: b.kind for b in BLOCKS if b.kind not in KINDS} == {}


def test_every_fence_belongs_to_a_block() -> None:
    fences = sum(len(re.findall(r"^```", p.read_text("utf-8"), re.MULTILINE)) for p in PAGES)
    assert fences == 2 * len(BLOCKS)


def test_every_marker_stands_above_a_block() -> None:
    mark = re.compile("^<!-- (?:test|file):", re.MULTILINE)
    markers = sum(len(mark.findall(p.read_text("utf-8"))) for p in PAGES)
    assert markers == sum(bool(b.marker or b.file) for b in BLOCKS)


@pytest.mark.parametrize("block", runnable("sh"), ids=lambda b: b.where)
def test_a_shell_block_runs(block: Block, sandbox: Path) -> None:
    shell(block.text, sandbox)


@pytest.mark.parametrize("block", runnable("toml"), ids=lambda b: b.where)
def test_a_toml_block_is_a_run_file(block: Block) -> None:
    parse(tomllib.loads(block.text))


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("page", sorted({b.page for b in runnable("python")}))
def test_the_python_blocks_of_a_page_run(
    page: str, sandbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(sandbox)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    namespace: dict[str, object] = {"__name__": "snippet"}
    for block in runnable("python"):
        if block.page == page:
            exec(compile(block.text, block.where, "exec"), namespace)

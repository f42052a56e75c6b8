# pyright: reportMissingImports=false

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich import box
from rich.console import Console
from rich.table import Table

# Under --import-mode=importlib a test's own folder is not on the path.
ROOMS = ("faults", "cli", "loop", "resume", "serving")
sys.path.extend(str(Path(__file__).parents[1] / name) for name in ROOMS)

from faults import FAULT, Seen, Shared, Workshop  # noqa: E402 - found by the line above


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    made = Shared(tmp_path_factory.mktemp("shared"))
    with made.stack:
        yield made


@pytest.fixture
def workshop(tmp_path: Path, shared: Shared) -> Workshop:
    return Workshop(tmp_path, shared)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What became of every fault that was injected."""
    rows: dict[int, tuple[str, str, Seen]] = {}
    for kind in ("passed", "failed", "skipped"):
        for report in terminalreporter.getreports(kind):
            for key, (number, name, where, told) in getattr(report, "user_properties", ()):
                if key == FAULT and report.when == "call":
                    words = "NOT AS PROMISED" if report.failed else "not injected here"
                    seen = Seen(*told) if told else Seen(words, "?" * report.failed)
                    rows[number] = (name, where, seen)
    if not rows:
        return
    table = Table("fault", "where injected", "what happened", "what was lost", box=box.SIMPLE)
    for _, (name, where, seen) in sorted(rows.items()):
        table.add_row(name, where, seen.happened, seen.lost)
    console = Console(width=160, no_color=True)
    with console.capture() as printed:
        console.print(table)
    terminalreporter.section("faults")
    terminalreporter.write_line(printed.get())

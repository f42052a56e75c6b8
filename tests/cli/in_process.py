"""``fst`` in this process, which need not load the libraries again."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from experiments.cli import app


def printed(*arguments: str, cwd: Path) -> dict[str, Any]:
    """The JSON object that a command prints: one line, and nothing else, on standard output."""
    done = called(arguments, cwd)
    assert done.exit_code == 0, (done.stderr[-4000:], done.exception)
    [line] = done.stdout.splitlines()
    return json.loads(line)


def refused(*arguments: str, cwd: Path | None = None, alone: bool = True) -> list[str]:
    """The lines of a request that ``fst`` refuses in ``cwd``, or here; it writes nothing.

    Nothing else is said, unless they need not be ``alone``.
    """
    folder = cwd or Path()
    before = sorted(folder.rglob("*"))
    done = called(arguments, folder)
    assert done.exit_code == 2, (arguments, done.output, done.exception)
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert sorted(folder.rglob("*")) == before, arguments
    lines = done.stderr.splitlines()
    if done.stderr.startswith("Usage: "):  # typer's own words, which name the option
        return lines
    said = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    assert said
    assert all(line.isprintable() for line in said), said
    assert not alone or len(said) == len(lines), lines
    return said


def called(arguments: Sequence[str], folder: Path) -> Result:
    """What comes of ``fst`` in a folder."""
    with contextlib.chdir(folder), _signals_given_back():
        return CliRunner().invoke(app, list(arguments))


@contextlib.contextmanager
def _signals_given_back() -> Generator[None]:
    """``fst`` takes signals over."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)

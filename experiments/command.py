"""What every command of ``fst`` shares: options, exit codes, streams.

Standard output carries results only; progress and logs go to standard error. With ``--json`` the
last line of standard output is one JSON object. Exit codes: 0 done, 1 the run failed, 2 the
request was wrong (one line per problem), 130 interrupted.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
import warnings
from collections.abc import Generator
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from fst_agents.errors import ConfigError, FstError, RunDirError

err = Console(stderr=True)


def note(text: str) -> None:
    """One line on standard error, as it is: what is quoted in it may look like markup."""
    err.print(text, markup=False, highlight=False, soft_wrap=True)


RunFile = Annotated[Path, typer.Argument(help="Run file (TOML); see docs/run-file.md.")]
RunFolder = Annotated[Path, typer.Argument(help="Run directory.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="key=value over the run file; repeatable.")
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on the last line.")]


@contextlib.contextmanager
def command(as_json: bool) -> Generator[dict[str, Any]]:
    """What every command shares: exit codes, a clean standard output, the JSON line."""
    result: dict[str, Any] = {}
    quiet_libraries()
    interrupt = _Interrupt()
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell's background jobs ignore SIGINT
        signal.signal(number, interrupt)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield result
    except (ConfigError, RunDirError) as error:
        lines = error.problems if isinstance(error, ConfigError) else [str(error)]
        for line in lines:
            print(f"error: {one_line(line)}", file=sys.stderr)
        raise typer.Exit(2) from None
    except FstError as error:
        print(f"error: {one_line(str(error))}", file=sys.stderr)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        print("interrupted; the run directory keeps what it had", file=sys.stderr)
        raise typer.Exit(130) from None
    if as_json:
        print(json.dumps(result))


def one_line(text: str) -> str:
    """A message as one printable line: what is quoted in it may be anything."""
    words = " ".join(text.split())
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in words)


class _Interrupt:
    """The first signal lets the command tidy up; the second ends the process where it stands, which
    a run survives as it does SIGKILL, and the guardian of a server notices."""

    def __init__(self) -> None:
        self._asked = False

    def __call__(self, *_: object) -> None:
        if self._asked:
            os.write(2, b"interrupted again: ended at once; 'fst train --resume' goes on\n")
            os._exit(130)
        self._asked = True
        raise KeyboardInterrupt


def speak_to(log: Path, mode: Literal["wb", "ab"]) -> None:
    """Have a file take both streams of this process, whoever writes to them."""
    with log.open(mode) as said:
        for stream in (1, 2):
            os.dup2(said.fileno(), stream)


def quiet_libraries() -> None:
    """Settings that must stand before the libraries are imported."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    logging.getLogger("dspy").setLevel(logging.ERROR)
    # The tracker says in a line what did not reach MLflow; this one adds a traceback.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", category=FutureWarning)

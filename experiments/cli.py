"""The ``fst`` command: parse, call, print.

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
from typing import Annotated, Any

import typer
from rich.console import Console

from fst_agents._layout import check_layout
from fst_agents.errors import ConfigError, FstError, RunDirError

app = typer.Typer(
    help="Fast-slow training for DSPy programs.", no_args_is_help=True, add_completion=False,
    pretty_exceptions_enable=False,
)  # fmt: skip
err = Console(stderr=True)

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
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell's background jobs ignore SIGINT
        signal.signal(number, _interrupt)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield result
    except (ConfigError, RunDirError) as error:
        lines = error.problems if isinstance(error, ConfigError) else [str(error)]
        for line in lines:
            print(f"error: {line}", file=sys.stderr)
        raise typer.Exit(2) from None
    except FstError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        print("interrupted; the run directory keeps what it had", file=sys.stderr)
        raise typer.Exit(130) from None
    if as_json:
        print(json.dumps(result))


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def quiet_libraries() -> None:
    """Settings that must stand before the libraries are imported."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    logging.getLogger("dspy").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)


@app.command()
def demo(
    seed: Annotated[int, typer.Option(help="Seed of data, sampling and reflection.")] = 0,
    serve: Annotated[str, typer.Option(help="Who samples: local, vllm or auto.")] = "local",
    task: Annotated[str, typer.Option(help="Task to learn.")] = "digits",
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """The whole loop on the embedded policy: CPU, no key, no network."""
    from experiments.demo import demo_config, show
    from experiments.train import train as run

    with command(as_json) as result:
        result |= run(demo_config(task, seed, serve, overrides or []), err)
    if not as_json:
        show(result, Console())


@app.command()
def train(run_file: RunFile, overrides: Overrides = None, as_json: Json = False) -> None:
    """One run of a run file."""
    from experiments.check import check as examine
    from experiments.demo import show
    from experiments.train import train as run
    from fst_agents.config import read

    with command(as_json) as result:
        result |= run(examine(read(run_file), overrides or []), err)
    if not as_json:
        show(result, Console())


@app.command()
def check(run_file: RunFile, overrides: Overrides = None, as_json: Json = False) -> None:
    """Resolve a run file, list all its problems at once, forecast what it spends."""
    from experiments.check import check as examine
    from experiments.check import forecast
    from fst_agents.config import read
    from fst_agents.redaction import public_config

    with command(as_json) as result:
        config = examine(read(run_file), overrides or [])
        result |= {"ok": True, "config": public_config(config), "forecast": forecast(config)}
    if not as_json:
        Console().print_json(data=result)


@app.command("eval")
def evaluate(run_dir: RunFolder, overrides: Overrides = None, as_json: Json = False) -> None:
    """The 2×2 of a finished run again: base/trained weights × seed/evolved instructions."""
    from experiments.demo import table
    from experiments.evaluate import evaluate_again

    with command(as_json) as result:
        result |= evaluate_again(run_dir, overrides or [], err)
    if not as_json:
        Console().print(table(result))


@app.command()
def export(
    run_dir: RunFolder,
    out: Annotated[Path, typer.Argument(help="New folder for what ships.")],
    as_json: Json = False,
) -> None:
    """What ships: program JSON, adapter or weights, a card, and the command that serves it."""
    from experiments.export import export as write

    with command(as_json) as result:
        result |= write(run_dir, out)
    if not as_json:
        for name, value in result.items():
            print(f"{name}: {value}")


@app.command()
def report(run_dir: RunFolder, as_json: Json = False) -> None:
    """One self-contained HTML page of a run."""
    from experiments.report import write_report

    with command(as_json) as result:
        result["report"] = str(write_report(run_dir))
    if not as_json:
        print(result["report"])


@app.command()
def serve(
    model: Annotated[str, typer.Argument(help="'micro', a model folder or name, or a run.")],
    port: Annotated[
        int | None, typer.Option(help="Port on 127.0.0.1; a free one if absent.")
    ] = None,
) -> None:
    """The guarded vLLM server by itself, until Ctrl-C."""
    from experiments.serve import serve_until_interrupted

    with command(False):
        serve_until_interrupted(model, port)


@app.command()
def tasks(
    name: Annotated[str | None, typer.Argument(help="One task, in detail.")] = None,
    as_json: Json = False,
) -> None:
    """The shipped tasks; with a name, what it is made of."""
    from experiments.tasks import FACTS, SUMMARIES

    with command(as_json) as result:
        if name is not None and name not in FACTS:
            raise ConfigError(f"no task {name!r}; there are {', '.join(sorted(FACTS))}")
        result |= SUMMARIES if name is None else FACTS[name]()
    if not as_json:
        Console().print_json(data=result)


@app.command()
def bench(
    name: Annotated[str, typer.Argument(help="Benchmark: rollouts, rollouts-local or slow-step.")],
    pairs: Annotated[int, typer.Option(min=1, help="Interleaved pairs of ours and peer.")] = 5,
    as_json: Json = False,
) -> None:
    """A ratio against a peer, measured in the same run."""
    from experiments.bench import BENCHES

    with command(as_json) as result:
        if name not in BENCHES:
            raise ConfigError(f"no benchmark {name!r}; there are {', '.join(sorted(BENCHES))}")
        result |= BENCHES[name](pairs)
    if not as_json:
        Console().print_json(data=result)


@app.command()
def doctor(as_json: Json = False) -> None:
    """What this machine can run, and what is missing."""
    from dataclasses import asdict

    from experiments.doctor import examine_machine

    with command(as_json) as result:
        findings = examine_machine()
        result |= {"ok": all(f.ok is not False for f in findings)}
        result["findings"] = [asdict(f) for f in findings]
    if not as_json:
        marks = {True: "ok", False: "MISSING", None: "-"}
        for finding in findings:
            print(f"{marks[finding.ok]:>8}  {finding.what}: {finding.detail}")
    if not result["ok"]:
        raise typer.Exit(1)


@app.command()
def pretrain(
    out: Annotated[Path, typer.Argument(help="New folder for the policy.")],
    seed: Annotated[int, typer.Option(help="Seed of weights and lessons.")] = 0,
    as_json: Json = False,
) -> None:
    """Train the embedded policy from nothing (CPU, minutes) and measure it."""
    from programs.micro.pretrain import Recipe
    from programs.micro.pretrain import pretrain as run

    with command(as_json) as result:
        result |= run(out, Recipe(seed=seed)).summary()
    if not as_json:
        Console().print_json(data=result)


def main() -> None:
    """Entry point of ``fst``."""
    check_layout()
    app()

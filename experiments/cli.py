"""The ``fst`` command: parse, call, print.

Standard output carries results only; progress and logs go to standard error. With ``--json`` the
last line of standard output is one JSON object. Exit codes: 0 done, 1 the run failed, 2 the
request was wrong (one line per problem), 130 interrupted.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import shlex
import signal
import sys
import warnings
from collections.abc import Generator
from pathlib import Path
from typing import Annotated, Any, Literal

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
Jobs = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Runs at the same time; by default two, one where there is a GPU, on Ray one per CPU "
        "of the cluster.",
    ),
]
BackEnd = Annotated[
    Literal["processes", "ray"],
    typer.Option(help="Where runs are: processes of this machine, or tasks of a Ray cluster."),
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
def train(
    run_file: Annotated[
        Path | None, typer.Argument(help="Run file (TOML); see docs/run-file.md.")
    ] = None,
    program: Annotated[
        str | None, typer.Option(help="Your own program, 'module:name'; see docs/own-task.md.")
    ] = None,
    metric: Annotated[str | None, typer.Option(help="Its metric, 'module:name'.")] = None,
    data: Annotated[Path | None, typer.Option(help="Its examples, JSONL.")] = None,
    model: Annotated[
        str | None, typer.Option(help="The policy: 'micro', a folder, a Hugging Face name.")
    ] = None,
    reflection_lm: Annotated[
        str | None, typer.Option(help="LiteLLM name of the reflection model.")
    ] = None,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="The least of everything: do all parts work?")
    ] = False,
    resume: Annotated[
        Path | None, typer.Option(help="Go on with the stopped run in this run directory.")
    ] = None,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """One run of a run file, or of a program of your own, or the rest of a stopped run."""
    from experiments.check import check as examine
    from experiments.demo import show
    from experiments.train import resume as go_on
    from experiments.train import train as run
    from fst_agents.config import merge, read

    with command(as_json) as result:
        given = [run_file, program, metric, data, model, reflection_lm]
        if resume is not None and (smoke or any(value is not None for value in given)):
            raise ConfigError(
                "--resume takes all but --set from the run directory; leave out the rest"
            )
        if resume is None and run_file is None and program is None:
            raise ConfigError(
                "nothing to train: give a run file, or --program, --metric and --data, or --resume"
            )
        options = {
            "task": {"program": program, "metric": metric, "data": data},
            "policy": {"model": model},
            "fast": {"reflection_lm": reflection_lm},
        }
        if resume is not None:
            result |= go_on(resume, overrides or [], err)
        else:
            content = merge({} if run_file is None else read(run_file), options)
            result |= run(examine(content, overrides or [], small=smoke), err, stand_in=smoke)
    if not as_json:
        show(result, Console())


@app.command()
def check(
    run_file: RunFile,
    rate: Annotated[
        float | None,
        typer.Option(help="Rollouts per second that you have measured: forecasts time, too."),
    ] = None,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Resolve a run file, list all its problems at once, forecast what it spends."""
    from experiments.check import check as examine
    from experiments.forecast import forecast
    from fst_agents.config import read
    from fst_agents.redaction import public_config

    with command(as_json) as result:
        if rate is not None and not 0 < rate < math.inf:
            raise ConfigError(f"--rate: got {rate:g}; expected rollouts per second, above 0")
        config = examine(read(run_file), overrides or [])
        costs = forecast(config, rate)
        result |= {"ok": True, "config": public_config(config), "forecast": costs}
    if not as_json:
        Console().print_json(data=result)


@app.command("eval")
def evaluate(
    run_dir: Annotated[Path | None, typer.Argument(help="Run directory.")] = None,
    task: Annotated[
        str | None, typer.Option(help="Instead of a run: a task's program as it is shipped.")
    ] = None,
    lm: Annotated[
        str | None, typer.Option(help="With --task: any LiteLLM model, sampled as it is.")
    ] = None,
    model: Annotated[
        str, typer.Option(help="With --task: a policy, 'micro', a folder or Hugging Face name.")
    ] = "micro",
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """The 2×2 of a finished run again, or the seed program of a task on any model."""
    from experiments.demo import table
    from experiments.evaluate import evaluate_again
    from experiments.evaluate_task import evaluate_task, task_table

    with command(as_json) as result:
        if (run_dir is None) == (task is None):
            raise ConfigError("expected either a run directory or --task NAME")
        if run_dir is not None:
            result |= evaluate_again(run_dir, overrides or [], err)
        else:
            data = {"task": {"name": task}, "policy": {"model": model if lm is None else lm}}
            result |= evaluate_task(data, overrides or [], lm, err)
    if not as_json:
        Console().print(table(result) if run_dir is not None else task_table(result))


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
        int | None, typer.Option(min=1, max=65535, help="Port; a free one if absent.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address; beyond 127.0.0.1 it takes --api-key-env.")
    ] = "127.0.0.1",
    api_key_env: Annotated[
        str | None, typer.Option(help="Variable with the key that clients must send.")
    ] = None,
) -> None:
    """The guarded vLLM server by itself, until Ctrl-C."""
    from experiments.serve import serve_until_interrupted

    with command(False):
        serve_until_interrupted(model, port, host, api_key_env)


@app.command()
def tasks(
    name: Annotated[str | None, typer.Argument(help="One task, in detail.")] = None,
    as_json: Json = False,
) -> None:
    """The shipped tasks; with a name, what it is made of."""
    from experiments.tasks import describe
    from programs.catalog import TASKS

    with command(as_json) as result:
        result |= {n: e.summary for n, e in TASKS.items()} if name is None else describe(name)
    if not as_json:
        Console().print_json(data=result)


@app.command()
def compare(
    run_file: RunFile,
    arms: Annotated[
        str, typer.Option(help="Arms, with commas between them.")
    ] = "fst,rl,gepa,sequential,distill",
    seeds: Annotated[int, typer.Option(help="Runs per arm; seeds count up from the file's.")] = 3,
    jobs: Jobs = None,
    backend: BackEnd = "processes",
    out: Annotated[
        Path, typer.Option(help="Results folder; the same one goes on where it was.")
    ] = Path("runs/compare"),
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Arms × seeds on equal rollouts: a table with intervals and paired tests."""
    from experiments.compare import compare as run
    from experiments.compare import plan_comparison
    from experiments.studies.comparison_page import arms_grid, pairs_grid
    from experiments.studies.page import console_table
    from experiments.studies.workers import Workers
    from fst_agents.config import read

    with command(as_json) as result:
        names = [name.strip() for name in arms.split(",") if name.strip()]
        asked = plan_comparison(read(run_file), overrides or [], names, seeds)
        workers = Workers(jobs, backend, err.print)
        result |= run(asked, out, command=_command_line(), workers=workers)
    if not as_json:
        Console().print(console_table(arms_grid(result), "Mean, 95 % interval"))
        Console().print(console_table(pairs_grid(result), "Pairs of arms on equal seeds"))
        print(result["report"])


@app.command()
def study(
    name: Annotated[
        str,
        typer.Argument(
            help="A finding's study, 'all', or what chooses settings: 'ablations', "
            "'baseline', 'sweep'; see docs/studies.md."
        ),
    ],
    quick: Annotated[
        bool, typer.Option("--quick", help="Two targets, one seed, three quarters of the budget.")
    ] = False,
    targets: Annotated[
        int | None, typer.Option(help="The first so many of the fixed targets.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="Runs per target and arm.")] = None,
    jobs: Jobs = None,
    backend: BackEnd = "processes",
    out: Annotated[
        Path | None, typer.Option(help="Results folder; the same one goes on where it was.")
    ] = None,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """One of the paper's findings, or all: the protocol, our figure beside theirs, a verdict."""
    from experiments.studies.ablate import ablate
    from experiments.studies.ablation_table import summary_of
    from experiments.studies.ablations import asked_for
    from experiments.studies.catalog import SWEEP, chosen
    from experiments.studies.page import console_table
    from experiments.studies.run import overview_grid, run_studies
    from experiments.studies.scope import make_scope
    from experiments.studies.sweep import sweep, sweep_grid
    from experiments.studies.workers import Workers

    folder = out or Path("runs/studies-quick" if quick else "runs/studies")
    with command(as_json) as result:
        ablations = asked_for(name)
        studies = [] if name == SWEEP or ablations else chosen(name)
        own = bool(ablations)
        scope = make_scope(
            overrides or [], quick=quick, targets=targets, seeds=seeds, development=own
        )
        line, workers = _command_line(), Workers(jobs, backend, err.print)
        for one in studies:
            err.print(f"[bold]{one.protocol.finding}[/] {one.name}: {one.protocol.procedure}")
        if studies:
            result |= run_studies(studies, scope, folder, command=line, workers=workers)
        elif ablations:
            result |= ablate(ablations, scope, folder, command=line, workers=workers)
        else:
            result |= sweep(scope, folder, command=line, workers=workers)
    if not as_json:
        if studies:
            told = result.get("studies", [result])
            Console().print(console_table(overview_grid(told), "The paper and this run"))
            for one in told:
                print(one["words"])
        elif ablations:
            for one in result.get("studies", [result]):
                title = f"Means (* default): {one['varied']}"
                Console().print(console_table(summary_of(one["rows"]), title))
                print(one["words"])
                print(one["report"])
        else:
            Console().print(console_table(sweep_grid(result["rows"]), "Learning rates of rl"))


def _command_line() -> str:
    """What was typed, for the page that it leads to."""
    return shlex.join(["fst", *sys.argv[1:]])


@app.command()
def bench(
    name: Annotated[
        str, typer.Argument(help="rollouts, rollouts-local, slow-step, resume, soak, soak-vllm.")
    ],
    pairs: Annotated[int, typer.Option(min=1, help="Interleaved pairs of ours and peer.")] = 5,
    kills: Annotated[int, typer.Option(min=1, help="resume: how often the run is killed.")] = 20,
    minutes: Annotated[int, typer.Option(min=1, help="soak: how long the run is watched.")] = 120,
    as_json: Json = False,
) -> None:
    """A ratio against a peer; whether a killed run loses anything; whether a long one grows."""
    from experiments.bench import BENCHES

    with command(as_json) as result:
        if name not in BENCHES:
            raise ConfigError(f"no benchmark {name!r}; there are {', '.join(sorted(BENCHES))}")
        count = {"resume": kills, "soak": minutes, "soak-vllm": minutes}.get(name, pairs)
        result |= BENCHES[name](count)
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
    from experiments.folders import new_folder
    from programs.micro.pretrain import Recipe
    from programs.micro.pretrain import pretrain as run

    with command(as_json) as result:
        new_folder(out)
        result |= run(out, Recipe(seed=seed)).summary()
    if not as_json:
        Console().print_json(data=result)


def main() -> None:
    """Entry point of ``fst``."""
    check_layout()
    app()

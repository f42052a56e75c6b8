"""The ``fst`` command: parse, call, print. See :mod:`experiments.command` for what all share."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from experiments.cli_studies import compare, study
from experiments.command import Json, Overrides, RunFile, RunFolder, command, err
from fst_agents._layout import check_layout
from fst_agents.errors import ConfigError

app = typer.Typer(
    help="Fast-slow training for DSPy programs.", no_args_is_help=True, add_completion=False,
    pretty_exceptions_enable=False,
)  # fmt: skip


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
    from fst_agents.run_file import merge, read

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
    from fst_agents.redaction import public_config
    from fst_agents.run_file import read

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
        str | None,
        typer.Option(
            help="With --task: a policy, 'micro' (as without), a folder or a Hugging Face name."
        ),
    ] = None,
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
        if run_dir is not None and (lm or model):
            raise ConfigError("--lm and --model are for --task; a run has a model of its own")
        if lm and model:
            raise ConfigError("expected --lm or --model, got both")
        if run_dir is not None:
            result |= evaluate_again(run_dir, overrides or [], err)
        else:
            data = {"task": {"name": task}, "policy": {"model": lm or model or "micro"}}
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
    overrides: Overrides = None,
) -> None:
    """The guarded vLLM server by itself, until Ctrl-C."""
    from experiments.serve import serve_until_interrupted

    with command(False):
        serve_until_interrupted(model, port, host, api_key_env, overrides or [])


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


app.command()(compare)
app.command()(study)


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

"""``fst compare`` and ``fst study``: commands that run grids."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from experiments.command import Json, Overrides, RunFile, command, err, note
from experiments.studies.workers import Backend, Workers

Jobs = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Runs at the same time; by default two, one where there is a GPU, on Ray one per CPU "
        "of the cluster.",
    ),
]
BackEnd = Annotated[
    Backend,
    typer.Option(help="Where runs are: processes of this machine, or tasks of a Ray cluster."),
]


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
    from fst_agents.run_file import read

    with command(as_json) as result:
        names = [name.strip() for name in arms.split(",") if name.strip()]
        asked = plan_comparison(read(run_file), overrides or [], names, seeds)
        workers = Workers(jobs, backend, note)
        result |= run(asked, out, command=_command_line(), workers=workers)
    if not as_json:
        Console().print(console_table(arms_grid(result), "Mean, 95 % interval"))
        Console().print(console_table(pairs_grid(result), "Pairs of arms on equal seeds"))
        print(result["report"])


def study(
    name: Annotated[
        str,
        typer.Argument(
            help="A finding's study, 'all', or what chooses settings: 'ablations', "
            "'baseline', 'sweep'; see docs/studies.md."
        ),
    ],
    quick: Annotated[
        bool, typer.Option("--quick", help="Two targets, one seed, two thirds of the budget.")
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
    from experiments.studies.ablations import asked_for, varied_keys
    from experiments.studies.catalog import SWEEP, chosen
    from experiments.studies.page import console_table
    from experiments.studies.run import overview_grid, run_studies
    from experiments.studies.scope import make_scope
    from experiments.studies.sweep import VARIED, sweep, sweep_grid

    folder = out or Path("runs/studies-quick" if quick else "runs/studies")
    with command(as_json) as result:
        ablations = asked_for(name)
        studies = [] if name == SWEEP or ablations else chosen(name)
        scope = make_scope(
            overrides or [],
            quick=quick,
            targets=targets,
            seeds=seeds,
            development=not studies,
            varied=VARIED if name == SWEEP else varied_keys(ablations),
        )
        line, workers = _command_line(), Workers(jobs, backend, note)
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

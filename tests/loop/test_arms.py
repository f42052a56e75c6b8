"""The arms end to end: embedded policy, real trainer, real gepa, MLflow on SQLite; tiny budgets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dspy
import pytest
from fakes import Ask, guess, questions, right
from rich.console import Console

from experiments.forecast import forecast
from experiments.tasks import build_task, policy_adapter
from experiments.train import train
from fst_agents.config import BudgetConfig, FastConfig, RunConfig, SlowConfig
from fst_agents.dspy_bridge import seed_candidate
from fst_agents.errors import ConfigError, RunDirError
from fst_agents.run_dir import RunDir
from fst_agents.run_file import parse
from fst_agents.serving.scripted_host import ScriptedHost
from fst_agents.types import Policy
from optimizers.request import request_faults

KEYS = {
    "arm", "task", "seed", "scores", "kl", "retention", "rollouts", "cycles", "policy_version",
    "instructions", "seconds", "run_dir", "mlflow_run_id",
}  # fmt: skip
NONE_OF = {
    "fst": set[str](),
    "sequential": set[str](),
    "full": set[str](),
    "rl": {"base_evolved", "trained_evolved"},
    "gepa": {"trained_seed", "trained_evolved"},
}


def tiny(folder: Path, arm: str, **other: Any) -> RunConfig:
    """Two cycles of a fast phase (20 rollouts: K = 2 and two proposals) and one step of 4 × 4."""
    data: dict[str, Any] = {
        "arm": arm,
        "run_dir": str(folder / arm),
        "task": {"target": ["sort_ascending", "increment"], "train_size": 64, "val_size": 8},
        "serve": {"host": "local"},
        "fast": {"population": 2, "rollouts": 20, "minibatch": 2},
        "slow": {"steps_per_cycle": 1, "batch_size": 4, "group_size": 4},
        "budget": {"cycles": 2},
        "eval": {"samples": 1},
        "track": {"uri": f"sqlite:///{folder / 'mlflow.db'}"},
    }
    return parse({**data, **other})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        path = tmp_path_factory.mktemp("arms")
        patch.chdir(path)  # MLflow keeps artifacts of a SQLite store beside the caller
        yield path


def run(folder: Path, arm: str, **other: Any) -> dict[str, Any]:
    config = tiny(folder, "fst" if arm == "full" else arm, **other)
    config = config.model_copy(update={"run_dir": folder / arm})
    return train(config, Console(quiet=True))


@pytest.fixture(scope="module", params=["fst", "rl", "gepa", "sequential", "full"])
def result(request: pytest.FixtureRequest, folder: Path) -> dict[str, Any]:
    other = {"policy": {"train": "full"}} if request.param == "full" else {}
    return {**run(folder, request.param, **other), "name": request.param}


def test_every_arm_gives_the_same_object(result: dict[str, Any]) -> None:
    assert set(result) >= KEYS
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert set(result["scores"]) == {"base_seed", "base_evolved", "trained_seed", "trained_evolved"}
    assert {name for name, v in result["scores"].items() if v is None} == NONE_OF[result["name"]]
    assert set(result["retention"]) == {"base", "final"}
    assert all(v is not None for v in result["retention"].values())
    assert isinstance(result["kl"], float)
    assert list(result["instructions"]) == ["solve"]


def test_rollouts_are_what_the_plan_allows_and_what_was_written(result: dict[str, Any]) -> None:
    """One cycle is 20 + 1·4·4 = 36, all arms have 72; rl: 72 // 16 = 4 steps."""
    limits = {"fst": (40, 32), "full": (40, 32), "sequential": (40, 32), "rl": (0, 64)}
    fast, slow = limits.get(result["name"], (72, 0))
    assert result["rollouts"]["slow"] == slow
    assert result["rollouts"]["fast"] <= fast
    assert (result["rollouts"]["fast"] == 0) == (fast == 0)
    run_dir = RunDir.open(Path(result["run_dir"]))
    written = {"fast": 0, "step": 0}
    for file in run_dir.rollout_files():
        written[file.name.split("-")[0]] += len(list(run_dir.rollouts(file)))
    assert written == {"fast": result["rollouts"]["fast"], "step": slow}


def test_the_run_directory_is_complete(result: dict[str, Any]) -> None:
    run_dir = RunDir.open(Path(result["run_dir"]))
    assert run_dir.finished
    stored = run_dir.result()
    assert stored == {k: result[k] for k in stored}
    assert (run_dir.path / "report.html").is_file()
    assert run_dir.state().policy.version == result["policy_version"]
    evolved = result["name"] != "rl"
    assert bool(run_dir.populations()) == evolved
    assert run_dir.metrics()


def test_the_program_loads_with_dspy(result: dict[str, Any]) -> None:
    program = build_task(tiny(Path(), "fst")).program
    program.load(str(Path(result["run_dir"]) / "result" / "program.json"))
    assert seed_candidate(program).instructions == result["instructions"]


def test_the_weights_load_without_us(result: dict[str, Any]) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from programs import micro

    where = Path(result["run_dir"]) / "result"
    trained = result["policy_version"] > 0
    if result["name"] == "full" and trained:
        AutoModelForCausalLM.from_pretrained(str(where / "weights"))
        return
    name = "weights" if result["name"] == "full" else "adapter"
    assert (where / name).is_dir() == trained
    if trained:
        base: Any = AutoModelForCausalLM.from_pretrained(str(micro.path()))
        PeftModel.from_pretrained(base, str(where / "adapter"))


def test_mlflow_holds_both_phases_and_what_ships(result: dict[str, Any], folder: Path) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    stored = client.get_run(result["mlflow_run_id"])
    assert stored.info.status == "FINISHED"
    prefixes = {name.split("/")[0] for name in stored.data.metrics}
    phases = {"rl": {"slow"}, "gepa": {"fast"}}
    assert prefixes >= {"eval", "budget", *phases.get(result["name"], {"slow", "fast"})}
    assert ("serve" in prefixes) == (result["policy_version"] > 0)
    assert stored.data.params["slow.group_size"] == "4"
    files = {f.path for f in client.list_artifacts(result["mlflow_run_id"], "result")}
    assert "result/program.json" in files
    if result["policy_version"]:
        name = "weights" if result["name"] == "full" else "adapter"
        assert f"result/{name}" in files


def test_kl_is_zero_without_training_and_positive_with_it(result: dict[str, Any]) -> None:
    assert (result["kl"] > 0) == (result["policy_version"] > 0)


@pytest.mark.parametrize(
    ("arm", "every", "places"),
    [
        ("fst", 1, [("fast", 0), ("slow", 1), ("fast", 1), ("slow", 2)]),
        ("fst", 2, [("fast", 1), ("slow", 2)]),
        ("gepa", 1, [("fast", 0)]),
        ("rl", 2, [("slow", 2), ("slow", 4)]),
    ],
)
def test_validations_watch_a_run_and_change_nothing(
    arm: str, every: int, places: list[tuple[str, int]], tmp_path: Path
) -> None:
    """Three problems, two answers each, at the end of every phase of every ``every``-th cycle."""
    track = {"enabled": False}
    watch = {"samples": 2, "every": every, "problems": 3}
    config = tiny(tmp_path / "watched", arm, eval=watch, track=track)
    alone = tiny(tmp_path / "alone", arm, eval={"samples": 2}, track=track)
    watched, unwatched = (train(c, Console(quiet=True)) for c in (config, alone))
    lines = RunDir.open(tmp_path / "watched" / arm).metrics()
    found = [n for n, line in enumerate(lines) if "eval/score" in line["metrics"]]
    shown = [(lines[n - 1]["phase"], lines[n]["step"]) for n in found]
    assert shown[: len(places)] == places
    assert arm == "gepa" or shown == places
    assert {lines[n]["metrics"]["eval/rollouts"] for n in found} == {6.0}
    assert watched["rollouts"]["eval"] == unwatched["rollouts"]["eval"] + 6 * len(found)
    assert watched["rollouts"]["eval"] <= forecast(config)["rollouts"]["eval"]
    for key in ("scores", "champion", "population", "kl", "steps"):
        assert watched[key] == unwatched[key]


def test_a_finished_run_is_never_overwritten(folder: Path) -> None:
    finished = next(p for p in folder.iterdir() if (p / "result.json").is_file())
    before = (finished / "result.json").read_bytes()
    with pytest.raises(RunDirError, match="holds a finished run, which is never overwritten"):
        run(folder, finished.name)
    assert (finished / "result.json").read_bytes() == before


def test_a_compiled_program_carries_its_run_and_leaves_the_student_alone(folder: Path) -> None:
    from optimizers import Gepa
    from programs.micro.reflector import OfflineReflector

    config = tiny(folder, "gepa", run_dir=str(folder / "python"))
    task = build_task(config)
    before = seed_candidate(task.program)
    optimizer: Any = Gepa(
        metric=task.metric,
        policy=_micro(),
        reflection_lm=OfflineReflector(seed=0),
        config=config,
        adapter=policy_adapter(config),
    )
    tuned: Any = optimizer.compile(task.program, trainset=task.trainset)
    assert tuned.fst.evaluation is None  # no valset, no 2×2
    assert all(v is None for v in tuned.fst.summary["scores"].values())
    assert tuned.fst.summary["task"] == "DigitsProgram"
    assert seed_candidate(task.program) == before


def test_a_given_host_is_brought_to_the_policy_that_is_asked_for(tmp_path: Path) -> None:
    """It may still serve what an earlier run has trained, under that run's version."""
    from optimizers import Gepa

    earlier, asked = Policy("scripted", version=3), Policy("scripted")
    host = ScriptedHost(guess, policy=earlier)
    optimizer: Any = Gepa(
        metric=right,
        policy=asked,
        reflection_lm=lambda prompt: f"```\nAnswer yes, {len(prompt)}.\n```",
        config=tiny(tmp_path, "gepa", track={"enabled": False}),
        host=host,
    )
    examples = [p.example.copy(id=p.id) for p in questions(8)]
    optimizer.compile(Ask(), trainset=examples)
    assert host.updates == [earlier, asked]


@pytest.mark.parametrize(
    ("serve", "short"), [({"host": "local"}, False), ({"url": "http://h:1"}, True)]
)
def test_only_a_server_heeds_the_context_length_of_the_run_file(
    serve: dict[str, Any], short: bool, tmp_path: Path
) -> None:
    config = tiny(tmp_path, "fst", serve={**serve, "context_length": 20})
    task = build_task(config)  # DSPy's own prompts are of hundreds of tokens
    found = request_faults(
        task.program,
        config,
        task.metric,
        trainset=task.trainset[:1],
        valset=(),
        adapter=dspy.ChatAdapter(),
        policy=_micro(),
        score_range=None,
    )
    assert any("the policy's context is 20" in line for line in found) == short


def test_a_wrong_configuration_is_refused_before_anything_is_started(tmp_path: Path) -> None:
    from optimizers import FastSlow

    config = RunConfig(
        run_dir=tmp_path / "run",
        fast=FastConfig(population=3, evolve=("absent",)),
        slow=SlowConfig(group_size=8),
    )
    task = build_task(config)
    optimizer: Any = FastSlow(metric=task.metric, policy=_micro(), config=config)
    with pytest.raises(ConfigError) as caught:
        optimizer.compile(task.program, trainset=task.trainset)
    starts = [line.split(":")[0] for line in caught.value.problems]
    assert starts == ["fast.population", "fast.evolve"]
    assert not (tmp_path / "run").exists()


def test_everything_wrong_with_a_request_is_said_at_once(tmp_path: Path) -> None:
    """The same as ``fst check`` says, and before there is a run directory."""
    from optimizers import FastSlow

    def forgetful(gold: Any, prediction: Any) -> None:
        return None

    def broken(gold: Any, prediction: Any) -> float:
        raise LookupError("no such corpus")

    rows = [{"id": "a", "question": "q"}, {"id": "a", "question": "r"}, {"id": "b"}]
    examples = [dspy.Example(row).with_inputs(*({"question"} & set(row))) for row in rows]
    config = RunConfig(run_dir=tmp_path / "run", budget=BudgetConfig(rollouts=5))
    optimizer: Any = FastSlow(
        metric=forgetful,
        eval_metric=broken,
        policy=Policy("scripted"),
        reflection_lm=lambda prompt: prompt,
        config=config,
        host=ScriptedHost(guess),
    )
    with pytest.raises(ConfigError) as caught:
        optimizer.compile(Ask(), trainset=examples[:2], valset=examples[2:])
    said = caught.value.problems
    for line in (
        "budget.rollouts: got 5",
        "example 'a': 2 examples have this id",
        "example 'b': field 'question' is missing",
        "example 'a': on its own labels the metric returned no score",
        "eval_metric: example 'a': on its own labels the metric raised LookupError",
        "slow.batch_size: got 16, but there are 2 training problems",
    ):
        assert any(text.startswith(line) for text in said), (line, said)
    assert list(tmp_path.iterdir()) == []


def _micro() -> str:
    from programs import micro

    return str(micro.path())

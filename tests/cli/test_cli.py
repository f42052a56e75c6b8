"""The ``fst`` command as a user meets it: its exit code and its two streams."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from in_process import called, printed, refused
from processes import ROOT, environment, fst, interrupted, mentioning, result

from fst_agents.serving import vllm_process
from tests.serving.stand_in import command as stand_in_command

TINY = """
arm = "fst"
seed = 1
run_dir = "run"
[task]
name = "digits"
target = ["sort_ascending", "increment"]
train_size = 32
val_size = 8
[serve]
host = "local"
[fast]
population = 2
rollouts = 20
minibatch = 2
[slow]
steps_per_cycle = 1
batch_size = 4
group_size = 4
[budget]
cycles = 1
[eval]
samples = 1
"""

LONG = [
    *("--set", 'run_dir="run"', "--set", "budget.cycles=1000", "--set", "slow.steps_per_cycle=1"),
    *("--set", "fast.population=1", "--set", "fast.rollouts=48"),
]
"""A demo that begins soon and does not end by itself."""

KEYS = {
    "arm", "task", "seed", "scores", "kl", "retention", "rollouts", "cycles", "policy_version",
    "instructions", "seconds", "run_dir", "mlflow_run_id",
}  # fmt: skip


def test_help_names_every_command(tmp_path: Path) -> None:
    done = fst("--help", cwd=tmp_path)
    assert done.returncode == 0
    for name in ("demo", "train", "check", "eval", "export", "report", "serve", "tasks", "doctor"):
        assert f" {name} " in done.stdout


def test_tasks_lists_operations_and_pairs(tmp_path: Path) -> None:
    facts = result(fst("tasks", "digits", "--json", cwd=tmp_path))
    assert len(facts["operations"]) == 10
    assert len(facts["trained"]) == 62
    assert len(facts["held_out"]) == 28
    assert ["rotate_left", "swap_ends"] in facts["held_out"]


def test_an_unknown_task_or_command_is_a_wrong_request(tmp_path: Path) -> None:
    assert "no task 'chess'" in refused("tasks", "chess", cwd=tmp_path)[0]
    assert "No such command 'conquer'" in "".join(refused("conquer", cwd=tmp_path))


def test_check_resolves_a_good_file_and_spends_nothing(tmp_path: Path) -> None:
    """Evaluation: four cells of 8 problems, and ten skills of 32 before and after."""
    (tmp_path / "run.toml").write_text(TINY)
    answer = printed("check", "run.toml", "--json", "--set", "seed=7", cwd=tmp_path)
    assert answer["ok"] is True
    assert answer["config"]["seed"] == 7
    assert answer["forecast"]["rollouts"] == {"limit": 36, "fast": 20, "slow": 16, "eval": 672}
    assert [p.name for p in tmp_path.iterdir()] == ["run.toml"]


def test_check_lists_every_problem_of_a_bad_file(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text(
        'arm = "fst"\ncolour = 1\n'
        '[task]\ntarget = ["rotate_left", "fly"]\n'
        '[policy]\nmodel = "./nowhere"\n'
        "[fast]\npopulation = 3\n"
        '[slow]\nlearning_rate = "fast"\ntrain = ["absent"]\n'
    )
    starts = sorted(line.split(":")[0] for line in refused("check", "bad.toml", cwd=tmp_path))
    assert starts == [
        "colour", "fast.population", "policy.model", "slow.learning_rate", "slow.train",
        "task.target",
    ]  # fmt: skip


def test_check_knows_the_programs_predictors(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(TINY)
    wrong = ["--set", 'slow.train=["absent"]', "--set", 'fast.evolve=["gone"]']
    lines = refused("check", "run.toml", *wrong, cwd=tmp_path)
    assert [line.split(":")[0] for line in lines] == ["fast.evolve", "slow.train"]
    assert "it has 'solve'" in lines[0]


@pytest.mark.parametrize("command", ["check", "train"])
def test_a_missing_or_unreadable_file_is_a_wrong_request(tmp_path: Path, command: str) -> None:
    assert "no such run file" in refused(command, "absent.toml", cwd=tmp_path)[0]
    (tmp_path / "run.toml").write_text("arm = ")
    assert "not readable as TOML" in refused(command, "run.toml", cwd=tmp_path)[0]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A finished run in ``<folder>/run``, and the object that it printed."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "tiny.toml").write_text(TINY)
    return folder, result(fst("train", "tiny.toml", "--json", cwd=folder))


def test_train_prints_one_object(trained: tuple[Path, dict[str, Any]]) -> None:
    folder, answer = trained
    assert set(answer) >= KEYS
    assert (answer["arm"], answer["task"], answer["seed"]) == ("fst", "digits", 1)
    assert answer["rollouts"]["eval"] == 672  # as forecast
    assert (folder / "run" / "result.json").is_file()


def test_a_finished_run_is_a_wrong_request_for_train(trained: tuple[Path, dict[str, Any]]) -> None:
    [line] = refused("train", "tiny.toml", "--json", cwd=trained[0])
    assert "holds a finished run, which is never overwritten" in line


def test_eval_measures_the_same_again(trained: tuple[Path, dict[str, Any]]) -> None:
    folder, answer = trained
    again = printed("eval", "run", "--json", cwd=folder)
    assert again.pop("run_dir") == answer["run_dir"]
    assert set(again) == {"scores", "intervals", "retention"}
    assert again == {what: answer[what] for what in again}


def test_export_writes_what_ships(trained: tuple[Path, dict[str, Any]]) -> None:
    folder, answer = trained
    shipped = result(fst("export", "run", "shipped", "--json", cwd=folder))
    assert {"README.md", "program.json"} <= set(shipped["files"])
    assert ("adapter/adapter_config.json" in shipped["files"]) == (answer["policy_version"] > 0)
    words = shipped["serve"].split()
    assert words[:2] == ["vllm", "serve"]
    assert (Path(words[2]) / "config.json").is_file()
    card = (folder / "shipped" / "README.md").read_text()
    assert all(text in card for text in answer["instructions"].values())
    assert "exists already" in refused("export", "run", "shipped", cwd=folder)[0]


def test_what_is_no_run_is_a_wrong_request(tmp_path: Path) -> None:
    for command in (["eval", "."], ["export", ".", "out"], ["report", "."]):
        assert "no run directory" in refused(*command, cwd=tmp_path)[0]


def test_doctor_says_what_this_machine_has(tmp_path: Path) -> None:
    done = fst("doctor", "--json", cwd=tmp_path)
    answer = json.loads(done.stdout.splitlines()[-1])
    assert {"python", "torch", "vllm", "micro policy"} <= {f["what"] for f in answer["findings"]}
    assert answer["ok"] == (done.returncode == 0)


@pytest.mark.parametrize(
    ("host", "number", "moment"),
    [
        ("local", signal.SIGINT, "metrics.jsonl"),
        ("local", signal.SIGTERM, "metrics.jsonl"),
        pytest.param("vllm", signal.SIGINT, "metrics.jsonl", marks=pytest.mark.vllm),
        # The server has only been started.
        pytest.param("vllm", signal.SIGINT, "serve", marks=pytest.mark.vllm),
    ],
)
def test_an_interrupted_demo_leaves_nothing_running(
    tmp_path: Path, host: str, number: signal.Signals, moment: str
) -> None:
    code, error, alive = interrupted(
        ["demo", "--serve", host, "--json", *LONG],
        tmp_path,
        ready=lambda: (tmp_path / "run" / moment).exists(),
        number=number,
        timeout=240,
    )
    assert code == 130, error[-2000:]
    assert "interrupted; the run directory keeps what it had" in error
    assert "Traceback" not in error
    assert alive == []
    assert mentioning(str(tmp_path)) == []
    assert (tmp_path / "run" / "state.json").is_file() == (moment == "metrics.jsonl")
    assert not (tmp_path / "run" / "result.json").exists()


def test_an_error_in_the_middle_stops_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No completion arrives within a rollout's microsecond: all masked, the run stops."""
    monkeypatch.setattr(vllm_process, "command", stand_in_command)
    broken = ["--set", "sampling.timeout=1e-6"]
    done = called(["demo", "--serve", "vllm", "--json", *LONG, *broken], tmp_path)
    assert done.exit_code == 1, done.output
    assert "failed outside the policy" in done.stderr
    assert "started" in (tmp_path / "run" / "serve" / "vllm.log").read_text()
    assert mentioning(str(tmp_path)) == []


def test_an_error_in_the_middle_is_one_line_and_exit_1(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(TINY)
    broken = ["--set", "sampling.timeout=1e-6"]
    done = called(["train", "run.toml", "--json", *broken], tmp_path)
    assert done.exit_code == 1
    assert done.stdout == ""
    assert "failed outside the policy" in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "run" / "state.json").is_file()


def test_importing_the_nouns_is_light(tmp_path: Path) -> None:
    code = (
        "import sys, fst_agents; "
        "print(*({'torch', 'trl', 'vllm', 'gepa', 'mlflow', 'transformers', 'dspy', 'litellm'}"
        " & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_importing_the_trainer_leaves_vllm_alone(tmp_path: Path) -> None:
    """TRL imports it wherever it is installed: seconds, and 300 MB, for a path that is not used."""
    code = "import sys, optimizers.trl_bridge; print('trl' in sys.modules, 'vllm' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-W", "error:TRL currently", "-c", code],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "True False"), done.stderr


@pytest.mark.parametrize("name", ["optimizers", "programs", "experiments"])
def test_a_folder_that_shadows_ours_is_an_import_error_that_names_both(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("")
    env = environment(PYTHONPATH=f"{tmp_path}:{ROOT}")
    command = [sys.executable, "-c", "import fst_agents"]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = subprocess.run(
        command, cwd=elsewhere, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"ImportError: 'import {name}' finds {tmp_path / name}, but fst-agents'")
    assert str(ROOT / name) in last

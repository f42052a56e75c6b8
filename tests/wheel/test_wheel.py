"""What is installed is what was tested: the wheel, used by a script of somebody else's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

SCRIPT = '''
"""A user's own program, metric and reflection function; nothing of the repository's."""

import json
import sys

import dspy

import fst_agents
import optimizers
from fst_agents import Policy
from fst_agents.run_file import parse
from optimizers import FastSlow
from programs import micro


class Compose(dspy.Module):
    def __init__(self):
        super().__init__()
        self.first = dspy.Predict(dspy.Signature("digits: str -> half: str", "reverse the digits"))
        self.second = dspy.Predict(dspy.Signature("half: str -> answer: str", "do the task"))

    def forward(self, digits):
        return self.second(half=self.first(digits=digits).half)


class Plain(dspy.Adapter):
    """Instruction and input in, the answer's text out."""

    def format(self, signature, demos, inputs):
        text = " ".join(str(v) for v in inputs.values())
        return [{"role": "user", "content": f"{signature.instructions}\\n{text}"}]

    def parse(self, signature, completion):
        return {name: completion.strip() for name in signature.output_fields}


def metric(gold, pred, trace=None, pred_name=None, pred_trace=None):
    right = sum(a == b for a, b in zip(gold.answer, pred.answer))
    score = right / max(len(gold.answer), len(pred.answer), 1)
    return dspy.Prediction(score=score, feedback=f"expected {gold.answer}, got {pred.answer}")


prompts = []


def reflect(prompt):
    prompts.append(prompt)
    return f"```\\nincrease every digit by one, attempt {len(prompts)}\\n```"


def examples(start, count):
    for k in range(start, start + count):
        digits = f"{k * 7919 % 9000 + 1000}"
        yield dspy.Example(digits=digits, answer=digits[::-1]).with_inputs("digits")


config = parse({
    "run_dir": "run",
    "serve": {"host": "local"},
    "sampling": {"max_tokens": 12},
    "fast": {"population": 2, "rollouts": 20, "minibatch": 2},
    "slow": {"steps_per_cycle": 1, "batch_size": 4, "group_size": 4},
    "budget": {"cycles": 1},
    "eval": {"samples": 1},
    "track": {"uri": "sqlite:///mlflow.db"},
})
tuned = FastSlow(
    metric=metric,
    policy=Policy(str(micro.path())),
    reflection_lm=reflect,
    config=config,
    adapter=Plain(),
).compile(Compose(), trainset=list(examples(0, 16)), valset=list(examples(16, 4)))
print(json.dumps({
    "files": [fst_agents.__file__, optimizers.__file__, micro.__file__],
    "reflections": len(prompts),
    "summary": tuned.fst.summary,
    "texts": {n: p.signature.instructions for n, p in tuned.named_predictors()},
}))
'''


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    [file] = folder.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of pure Python is installed by unpacking it."""
    site = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    return site


def test_the_wheel_holds_the_four_packages_the_weights_and_no_tests(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {t for t in tops if not t.endswith(".dist-info")} == {
        "fst_agents", "programs", "optimizers", "experiments",
    }  # fmt: skip
    weights = "programs/micro/weights/"
    for name in ("model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"):
        assert weights + name in names
    assert not [n for n in names if "test" in n.split("/")[-1] or n.endswith((".pyc", ".pkl"))]
    [entry] = [n for n in names if n.endswith("entry_points.txt")]
    assert "fst = experiments.cli:main" in zipfile.ZipFile(wheel).read(entry).decode()


def run(arguments: list[str], site: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    settings = {
        "PYTHONPATH": str(site),
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_a_users_own_program_trains_on_the_installed_wheel(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(SCRIPT)
    done = run(["mine.py"], installed, tmp_path)
    assert done.returncode == 0, done.stderr[-4000:]
    answer = json.loads(done.stdout.splitlines()[-1])
    assert all(Path(file).is_relative_to(installed) for file in answer["files"])
    assert answer["reflections"] > 0
    summary = answer["summary"]
    assert set(summary["instructions"]) == {"first", "second"}
    assert summary["instructions"] == answer["texts"]
    assert summary["rollouts"]["slow"] == 16
    assert all(v is not None for v in summary["scores"].values())
    assert summary["task"] == "Compose"
    assert (tmp_path / "run" / "result" / "program.json").is_file()


def test_the_command_works_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    main = ["-c", "from experiments.cli import main; main()"]
    done = run([*main, "tasks", "digits", "--json"], installed, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(json.loads(done.stdout)["held_out"]) == 28

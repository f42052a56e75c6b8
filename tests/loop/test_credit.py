"""What the loop and the arms know of single predictors: what learns, and what each one did."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy.lm15 import Message, Request, Response, TextPart, Usage
from fakes import tiny, world

from fst_agents.bridge_report import PredictorCounts
from fst_agents.errors import ConfigError
from fst_agents.run_file import parse
from fst_agents.serving.scripted_host import ScriptedHost
from optimizers import Gepa
from optimizers.plan import plan


def test_the_loop_adds_up_what_each_predictor_did(tmp_path: Path) -> None:
    """One call a rollout, of which the trainer gets those of kept groups; the run directory has
    figures of each candidate, the tracker has none."""
    config = tiny()
    made = world(tmp_path, config)
    made.loop.run(plan(config))
    [(name, counts)] = made.loop.books.predictors.items()
    spend = made.loop.books.spend
    assert name == "solve"
    assert counts.calls == spend.fast_rollouts + spend.slow_rollouts
    assert 0 < counts.trained_calls <= spend.slow_rollouts
    assert (counts.samples, counts.parse_failures, counts.truncated) == (counts.trained_calls, 0, 0)
    lines = [line["metrics"] for line in made.run_dir.metrics() if line["phase"] == "slow"]
    trained = sum(line["slow/predictor/solve/trained_calls"] for line in lines)
    assert trained == counts.trained_calls
    rewards = [n for line in lines for n in line if re.fullmatch(r"slow/candidate/.+/reward", n)]
    assert rewards
    tracked = {name for event in made.tracker.events for name in event.get("values", {})}
    assert "slow/predictor/solve/calls" in tracked
    assert not [name for name in tracked if "candidate" in name]


class Script:
    """The judge's engine; it can be asked, not saved."""

    def __init__(self) -> None:
        self.asked = 0

    def complete(self, request: Request) -> Response:
        self.asked += 1
        said = "[[ ## verdict ## ]]\ngood\n\n[[ ## completed ## ]]"
        return Response(
            id=None,
            model=request.model,
            message=Message.assistant([TextPart(said)]),
            finish_reason="stop",
            usage=Usage(input_tokens=1, output_tokens=1),
        )


class Judged(dspy.Module):
    def __init__(self, judge: Any) -> None:
        super().__init__()
        self.solve = dspy.Predict("question -> answer")
        self.judge: Any = dspy.Predict("answer -> verdict")
        self.judge.lm = judge

    def forward(self, question: str) -> Any:
        answer = self.solve(question=question).answer
        return dspy.Prediction(answer=answer, verdict=self.judge(answer=answer).verdict)


def guess(prompt: str, sampling: Any, rng: random.Random) -> str:
    return f"[[ ## answer ## ]]\n{rng.choice(['yes', 'no', 'no'])}\n\n[[ ## completed ## ]]"


asked: list[str] = []


def reflect(prompt: str) -> str:
    asked.append(prompt)
    return f"```\nAnswer with yes, please. {len(asked)}\n```"


def compile_gepa(folder: Path, judge: Any, **sections: Any) -> Any:
    config = parse(
        {
            "run_dir": str(folder / "run"),
            "fast": {"population": 2, "rollouts": 40, "minibatch": 2},
            "slow": {"steps_per_cycle": 1, "batch_size": 4, "group_size": 4},
            "budget": {"cycles": 1},
            "sampling": {"max_tokens": 200, "retries": 0},
            "track": {"enabled": False},
            "eval": {"samples": 1},
        }
        | sections
    )
    examples = [
        dspy.Example(id=f"e{k}", question=f"q{k}").with_inputs("question") for k in range(12)
    ]
    optimizer: Any = Gepa(
        metric=lambda gold, pred: float(pred.answer == "yes" and pred.verdict == "good"),
        policy="scripted",
        reflection_lm=reflect,
        config=config,
        host=ScriptedHost(guess),
    )
    return optimizer.compile(Judged(judge), trainset=examples[:8], valset=examples[8:])


def test_a_fixed_predictor_keeps_its_instruction_and_its_model(tmp_path: Path) -> None:
    engine = Script()
    judge = dspy.LM("other/judge", engine=engine, cache=False)
    tuned = compile_gepa(tmp_path, judge)
    seed = Judged(judge)
    assert engine.asked > 0
    assert tuned.judge.lm is judge
    assert tuned.solve.lm is None
    population = json.loads((tmp_path / "run" / "population" / "cycle-000.json").read_text())
    tried = [*population["candidates"], *population["record"]["candidates"]]
    texts = {c["instructions"]["judge"] for c in tried}
    assert texts == {seed.judge.signature.instructions}
    assert len({c["instructions"]["solve"] for c in tried}) > 1
    saved = json.loads((tmp_path / "run" / "result" / "program.json").read_text())
    assert (saved["judge"]["lm"], saved["solve"]["lm"]) == (None, None)
    summary = tuned.fst.summary
    assert list(summary["predictors"]) == ["solve"]
    assert summary["predictors"]["solve"]["calls"] == tuned.fst.run.spend.fast_rollouts
    assert summary["predictors"]["solve"]["trained_calls"] == 0
    assert set(summary["predictors"]["solve"]) == set(PredictorCounts.__slots__)


def test_what_cannot_be_learned_is_refused_before_anything_is_started(tmp_path: Path) -> None:
    judge = dspy.LM("other/judge", engine=Script(), cache=False)
    with pytest.raises(ConfigError) as caught:
        compile_gepa(tmp_path, judge, fast={"evolve": ["judge"]}, fixed={"x": {"model": "a/b"}})
    assert [line.split(":")[0] for line in caught.value.problems] == ["fixed.x", "fast.evolve"]
    assert not (tmp_path / "run").exists()

"""The shipped tasks from the command line: listed, evaluated, run on the least of everything."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from in_process import printed, refused
from processes import fst, result

from programs.catalog import TASKS
from tests.chat_endpoint import Asked, ChatEndpoint, chat_endpoint
from tests.serving.checkpoints import save_model

SMALL = ["--set", "task.val_size=4", "--set", "task.train_size=16", "--set", "eval.samples=1"]


def none(asked: Asked) -> str:
    """Answers every field that is asked for with ``none``."""
    wanted = asked.text.rpartition("Respond with")[2]
    names = [n for n in re.findall(r"\[\[ ## (\w+) ## \]\]", wanted) if n != "completed"]
    said = [f"[[ ## {name} ## ]]\nnone" for name in names]
    return "\n\n".join([*said, "[[ ## completed ## ]]"])


@pytest.fixture
def endpoint() -> Iterator[ChatEndpoint]:
    with chat_endpoint(none) as found:
        yield found


def test_tasks_lists_them_all_and_shows_one(tmp_path: Path) -> None:
    assert list(printed("tasks", "--json", cwd=tmp_path)) == list(TASKS)
    shown = printed("tasks", "star_graph", "--json", cwd=tmp_path)
    assert shown["summary"] == TASKS["star_graph"].summary
    assert shown["options"]["degree"] == 4
    [line] = refused("tasks", "chess", cwd=tmp_path)
    assert "no task 'chess'; there are digits" in line


def test_the_seed_program_runs_on_the_embedded_policy(tmp_path: Path) -> None:
    found = printed("eval", "--task", "digits-pipeline", "--json", *SMALL, cwd=tmp_path)
    assert found["model"] == "micro"
    assert (found["examples"], found["runs"]) == (4, 4)
    assert found["outcomes"] == {"ok": 4}
    assert 0.0 <= found["interval"][0] <= found["score"] <= found["interval"][1] <= 1.0
    assert list(tmp_path.iterdir()) == []


def test_the_seed_program_runs_on_any_litellm_model(tmp_path: Path, endpoint: ChatEndpoint) -> None:
    found = printed(
        *("eval", "--task", "triage", "--lm", "openai/any", "--json", *SMALL),
        *("--set", f'fast.reflection_args.api_base="{endpoint.url}"'),
        *("--set", 'fast.reflection_args.api_key="k"'),
        cwd=tmp_path,
    )
    assert (found["model"], found["runs"]) == ("openai/any", 4)
    assert found["outcomes"] == {"ok": 4}
    assert {"action", "category", "urgency", "fields"} <= set(found["objectives"])
    bodies = [asked.body for asked in endpoint.requests]
    assert len(bodies) == 4 * 3  # three predictors
    limits = {body.get("max_tokens", body.get("max_completion_tokens")) for body in bodies}
    assert limits == {None}  # none was asked for: how long answers may be is the model's affair


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["eval"], "either a run directory or --task"),
        (["eval", "--task", "chess"], "task.name: no task 'chess'"),
        (["eval", "--task", "digits", "--lm", "nobody"], "not a LiteLLM model name"),
        (["train"], "nothing to train"),
        (["train", "--program", "m:b"], "task.metric: a program of your own needs it"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(
    arguments: list[str], words: str, tmp_path: Path
) -> None:
    lines = refused(*arguments, cwd=tmp_path, alone=False)  # LiteLLM has its own words
    assert any(words in line for line in lines)


@pytest.mark.parametrize("name", ["star_graph", "code_output", "math_word", "claims", "triage"])
def test_a_task_runs_on_the_least_of_everything(name: str, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(f'run_dir = "run"\n[task]\nname = "{name}"\n')
    done = printed("train", "run.toml", "--smoke", "--json", cwd=tmp_path)
    assert (done["task"], done["cycles"]) == (name, 1)
    assert done["rollouts"]["slow"] == 2 * 4
    assert 2 * 2 <= done["rollouts"]["fast"] <= 12
    assert all(calls["calls"] > 0 for calls in list(done["predictors"].values())[:1])
    assert (tmp_path / "run" / "result" / "program.json").exists()


@pytest.mark.vllm
def test_a_task_runs_on_a_checkpoint_of_one_s_own_served_by_vllm(tmp_path: Path) -> None:
    save_model(tmp_path / "model", tied=False, context=4096)
    (tmp_path / "run.toml").write_text(
        'run_dir = "run"\n[task]\nname = "math_word"\n[policy]\nmodel = "./model"\n'
        '[serve]\nhost = "vllm"\n'
    )
    done = result(fst("train", "run.toml", "--smoke", "--json", cwd=tmp_path, timeout=500))
    assert done["rollouts"]["slow"] == 2 * 4
    assert done["predictors"]["solve.predict"]["calls"] > 0

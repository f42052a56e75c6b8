"""What a run leaves on disk, what it refuses to touch, and what it never writes down."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fst_agents.config import RunConfig
from fst_agents.errors import ConfigError, RunDirError
from fst_agents.json_files import dumps, to_json
from fst_agents.redaction import public_config, refuse_redacted
from fst_agents.run_dir import RunDir, default_name, from_json, population_record
from fst_agents.run_file import parse
from fst_agents.types import (
    Call,
    Candidate,
    Feedback,
    Outcome,
    Policy,
    Population,
    Rollout,
    RunState,
    Spend,
)

names = st.text("abcdefg_", min_size=1, max_size=6)
texts = st.text(max_size=20)
floats = st.floats(allow_nan=False)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(-1e9, 1e9) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=6,
)
mappings = st.dictionaries(names, plain, max_size=3)
scores = st.dictionaries(names, floats, max_size=3)
versions = st.integers(0, 10**6)
tokens = st.lists(st.integers(0, 2**31), max_size=6).map(tuple)
candidates = st.builds(
    Candidate,
    st.fixed_dictionaries({"solve": st.text(min_size=1).filter(lambda t: t.strip() != "")}),
    st.lists(names, max_size=2).map(tuple),
)
populations = st.builds(
    Population,
    st.lists(candidates, min_size=1, max_size=4, unique_by=lambda c: c.id).map(tuple),
    st.dictionaries(names, scores, max_size=3),
    st.none() | versions,
)
policies = st.builds(Policy, texts, st.none() | st.just(Path("a/b")), st.none(), versions)
spends = st.builds(Spend, *[versions] * 5, st.floats(0, 1e9))
states = st.builds(
    RunState, versions, versions, populations, policies, spends, versions, st.none() | texts
)
calls = st.builds(
    Call,
    names,
    st.lists(mappings, max_size=2).map(tuple),
    tokens,
    tokens,
    st.lists(floats, max_size=4).map(tuple),
    names,
    versions,
    floats,
    texts,
    mappings,
    st.none() | mappings,
)
feedbacks = st.builds(
    Feedback, st.none() | floats, texts, scores, st.dictionaries(names, texts, max_size=2), scores
)
rollouts = st.builds(
    Rollout,
    names,
    names,
    versions,
    st.lists(calls, max_size=2).map(tuple),
    feedbacks,
    st.sampled_from(Outcome),
    mappings,
    mappings,
    st.none() | texts,
    st.floats(0, 1e6),
)


def through_disk(value: Any) -> Any:
    return json.loads(dumps(value))


@given(candidates)
def test_candidates_survive_the_disk(candidate: Candidate) -> None:
    back = from_json(Candidate, through_disk(candidate))
    assert (back, back.parents) == (candidate, candidate.parents)


@given(populations)
def test_populations_survive_the_disk(population: Population) -> None:
    assert from_json(Population, through_disk(population)) == population
    assert from_json(Population, through_disk(population_record(0, population))) == population


@given(policies | spends | states)
def test_policies_spends_and_states_survive_the_disk(noun: Any) -> None:
    assert from_json(type(noun), through_disk(noun)) == noun


@given(rollouts)
def test_rollouts_survive_the_disk_token_by_token(rollout: Rollout) -> None:
    assert from_json(Rollout, through_disk(rollout)) == rollout


def test_what_json_lacks_is_written_as_text() -> None:
    class Odd:
        def __str__(self) -> str:
            return "an odd thing"

    values = {"nan": math.nan, "inf": -math.inf, "odd": Odd()}
    as_text = {"nan": "NaN", "inf": "-Infinity", "odd": "an odd thing"}
    assert through_disk(values) == as_text
    assert through_disk({**values, "half": "\ud800"}) == {**as_text, "half": "\ud800"}
    feedback = from_json(Feedback, {"score": "NaN"})
    assert feedback.score is not None
    assert math.isnan(feedback.score)


def test_something_else_is_refused_with_the_reason() -> None:
    with pytest.raises(RunDirError, match=r"not a Policy.*version"):
        from_json(Policy, {"model": "m", "version": "newest"})


PHI = Population((Candidate({"solve": "a"}), Candidate({"solve": "b"})), {}, 1)
ROLLOUT = Rollout("p", "c", 0, (), Feedback(0.5), Outcome.OK)


def state(version: int = 0, step: int = 0) -> RunState:
    return RunState(0, step, PHI, Policy("m", version=version), Spend(), 0)


def contents(path: Path) -> dict[str, bytes]:
    return {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file()}


def test_a_new_run_writes_its_resolved_configuration(tmp_path: Path) -> None:
    config = parse({"arm": "rl", "seed": 3, "task": {"target": ["reverse", "double"]}})
    run = RunDir.create(tmp_path / "deep" / "run", config)
    data = tomllib.loads((run.path / "run.toml").read_text())
    assert (data["arm"], data["slow"]["group_size"]) == ("rl", config.slow.group_size)
    assert RunDir.open(run.path).config() == config


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    assert RunDir.create(tmp_path, parse({})).path == tmp_path


@pytest.mark.parametrize("finished", [True, False])
def test_a_folder_with_a_run_is_refused_and_left_as_it_is(tmp_path: Path, finished: bool) -> None:
    run = RunDir.create(tmp_path, parse({"seed": 1}))
    run.add_metrics(1, "slow", {"slow/reward": 0.5}, rollouts=8, seconds=1.0)
    if finished:
        run.finish({"arm": "fst"})
    before = contents(tmp_path)
    with pytest.raises(RunDirError, match=" finished run" if finished else "unfinished run"):
        RunDir.create(tmp_path, parse({"seed": 2}))
    assert contents(tmp_path) == before


def test_a_folder_with_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(RunDirError, match=r"is not empty.*choose another run_dir"):
        RunDir.create(tmp_path, parse({}))
    assert contents(tmp_path) == {"thesis.tex": b"x"}


def test_a_file_in_the_way_is_a_run_dir_error(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("x")
    with pytest.raises(RunDirError, match="is no folder"):
        RunDir.create(tmp_path / "run", parse({}))


def test_opening_what_is_no_run_directory_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunDirError, match="no run directory"):
        RunDir.open(tmp_path)


def test_default_names_say_what_runs_and_never_collide(tmp_path: Path) -> None:
    config = parse({"seed": 7})
    taken = [default_name(config, tmp_path) for _ in range(3) if _make(tmp_path, config)]
    assert len(set(taken)) == 3
    assert re.fullmatch(r"\d{8}-\d{6}-fst-digits-seed7(-\d+)?", taken[0].name)


def _make(parent: Path, config: RunConfig) -> Path:
    path = default_name(config, parent)
    path.mkdir(parents=True)
    return path


SECRETS = {
    "api_key": "sk-1",
    "max_tokens": 100,
    "api_base": "https://me:sk-2@host/v1",
    "extra_headers": {"Authorization": "Bearer sk-3", "X-Trace": "visible"},
    "clients": [{"hf_token": "sk-4"}],
    "credentials": {"user": "sk-5", "nested": ["sk-6"]},
}


def test_secrets_never_reach_the_disk(tmp_path: Path) -> None:
    config = parse(
        {
            "fast": {"reflection_args": SECRETS},
            "serve": {"extra_args": ["--api-key", "sk-7", "--hf-token=sk-8", "--port", "1"]},
            "track": {"uri": "postgresql://me:sk-9@host/db"},
        }
    )
    text = (RunDir.create(tmp_path, config).path / "run.toml").read_text()
    assert "sk-" not in text
    args = tomllib.loads(text)["fast"]["reflection_args"]
    assert args["max_tokens"] == 100
    assert args["extra_headers"] == {"Authorization": "<redacted>", "X-Trace": "visible"}
    assert args["api_base"] == "https://me:<redacted>@host/v1"
    assert public_config(config)["serve"]["extra_args"][-2:] == ["--port", "1"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--max-num-batched-tokens", "4096", "--tokenizer-mode", "auto"],
        ["--max-num-batched-tokens=8k", "--tokenizer=some/folder", "--skip-tokenizer-init"],
        ["--return-tokens-as-token-ids", "--long-prefill-token-threshold", "256"],
    ],
)
def test_what_is_only_about_tokens_is_no_secret(arguments: list[str]) -> None:
    config = parse({"serve": {"extra_args": arguments}})
    assert public_config(config)["serve"]["extra_args"] == arguments
    refuse_redacted(parse(public_config(config)))


def test_every_value_of_an_option_that_takes_several_is_hidden() -> None:
    arguments = ["--api-key", "12345678", "sk-2", "--port", "1", "--hf-token=123x"]
    hidden = public_config(parse({"serve": {"extra_args": arguments}}))["serve"]["extra_args"]
    expected = ["--api-key", "<redacted>", "<redacted>", "--port", "1", "--hf-token=<redacted>"]
    assert hidden == expected


def test_a_configuration_without_its_secrets_starts_nothing() -> None:
    """Those of the sections that are used; each key has a line that says how to mend it."""
    config = parse(
        {
            "serve": {"extra_args": ["--api-key", "<redacted>"]},
            "fast": {"reflection_args": {"api_key": "<redacted>"}},
        }
    )
    with pytest.raises(ConfigError) as caught:
        refuse_redacted(config)
    assert [line.partition(":")[0] for line in caught.value.problems] == [
        "serve.extra_args",
        "fast.reflection_args.api_key",
    ]
    assert "(--set fast.reflection_args.api_key=…)" in caught.value.problems[1]
    with pytest.raises(ConfigError, match=r"^serve\.extra_args: [^\n]*$"):
        refuse_redacted(config, "serve", "fixed")


def test_rollouts_are_appended_per_step_and_read_back(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path, parse({}))
    file = run.add_rollouts(3, [ROLLOUT])
    run.add_rollouts(3, [ROLLOUT, ROLLOUT])
    run.add_rollouts("eval-base_seed", [ROLLOUT])
    assert [f.name for f in run.rollout_files()] == ["eval-base_seed.jsonl", "step-00003.jsonl"]
    assert list(run.rollouts(file)) == [ROLLOUT] * 3


def test_metrics_have_one_line_per_phase_and_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path, parse({}))
    assert run.metrics() == []
    run.add_metrics(0, "fast", {"fast/best_mean": math.nan}, rollouts=48, seconds=1.5)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 1, "pha')
    assert run.metrics() == [
        {
            "step": 0,
            "phase": "fast",
            "rollouts": 48,
            "seconds": 1.5,
            "metrics": {"fast/best_mean": "NaN"},
        }
    ]


def test_a_broken_line_names_file_and_line(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path, parse({}))
    (tmp_path / "metrics.jsonl").write_text("{}\nnonsense\n{}\n")
    with pytest.raises(RunDirError, match=r"metrics\.jsonl, line 2"):
        run.metrics()


def test_populations_are_written_with_ids_and_champion(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path, parse({}))
    first, second = PHI.candidates
    scored = Population(PHI.candidates, {second.id: {"p": 1.0}}, 2)
    run.write_population(0, scored, {"proposals": 4})
    (record,) = run.populations()
    assert (record["cycle"], record["champion"], record["policy_version"]) == (0, second.id, 2)
    assert [(c["id"], c["mean"]) for c in record["candidates"]] == [
        (first.id, None),
        (second.id, 1.0),
    ]
    assert record["record"] == {"proposals": 4}


def test_the_state_is_replaced_whole(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path, parse({}))
    run.write_state(state(step=1))
    run.write_state(state(step=2))
    assert run.state() == state(step=2)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["run.lock", "run.toml", "state.json"]


def test_a_kill_while_writing_state_leaves_a_whole_state(tmp_path: Path) -> None:
    """A process writes states as fast as it can and is killed; what is there can be read."""
    RunDir.create(tmp_path, parse({}))
    script = """
import sys
from pathlib import Path
from fst_agents.run_dir import RunDir
from fst_agents.types import *
run = RunDir.open(Path(sys.argv[1]))
phi = Population((Candidate({"solve": "x" * 100_000}),))
print("go", flush=True)
for step in range(10**9):
    run.write_state(RunState(0, step, phi, Policy("m"), Spend(), 0))
    step or print("written", flush=True)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert [process.stdout.readline().strip() for _ in range(2)] == ["go", "written"]
    process.kill()
    process.wait()
    process.stdout.close()
    assert len(RunDir.open(tmp_path).state().population.best.instructions["solve"]) == 100_000


def test_old_policies_go_but_not_the_one_the_state_names(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path, parse({}))
    for version in range(6):
        run.policy_folder(version).mkdir()
    run.write_state(state(version=1))
    gone = run.prune_policies(keep=2)
    assert [f.name for f in gone] == ["v00000", "v00002", "v00003"]
    left = sorted(f.name for f in (tmp_path / "policy").iterdir())
    assert left == ["v00001", "v00004", "v00005"]
    assert run.prune_policies(keep=2) == []


def test_a_host_may_still_read_the_version_before(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 2"):
        RunDir.create(tmp_path, parse({})).prune_policies(keep=1)


def test_a_finished_run_is_finished_once(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path, parse({}))
    assert not run.finished
    (run.result_folder / "program.json").write_text("{}")
    run.finish({"arm": "fst", "kl": None})
    assert run.finished
    with pytest.raises(RunDirError, match="finished run already"):
        run.finish({"arm": "rl"})
    assert run.result() == to_json({"arm": "fst", "kl": None})


def test_a_place_that_cannot_be_written_is_a_run_dir_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunDirError, match="cannot be used"):
        RunDir.create(tmp_path / "file" / "run", parse({}))

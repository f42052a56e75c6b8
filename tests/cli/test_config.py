"""The run file: all problems at once, defaults that stand in, junk that is refused as such."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import tomlkit
from hypothesis import given, settings
from hypothesis import strategies as st

from fst_agents.config import RunConfig
from fst_agents.errors import ConfigError
from fst_agents.run_file import examine, load, parse

SECTIONS = ("task", "policy", "serve", "sampling", "fast", "slow", "budget", "eval", "track")


def problems(data: dict[str, Any], *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(data, overrides)
    return caught.value.problems


def test_nothing_at_all_is_a_valid_run_file() -> None:
    assert parse({}) == RunConfig()


def test_every_problem_is_reported_at_once() -> None:
    found = problems(
        {
            "arm": "magic",
            "slow": {"group_size": 8, "batch_sise": 3, "learning_rate": -1.0},
            "fast": {"population": 3},
            "task": {"train_size": "all"},
            "nonsense": {"a": 1},
        },
        "serve.port=99999",
        "no-equals-sign",
    )
    starts = [line.split(":")[0] for line in found]
    assert sorted(starts) == [
        "--set 'no-equals-sign'",
        "arm",
        "fast.population",
        "nonsense",
        "serve.port",
        "slow.batch_sise",
        "slow.learning_rate",
        "task.train_size",
    ]
    assert all("\n" not in line for line in found)
    [divides] = [line for line in found if line.startswith("fast.population")]
    assert "K = 3, G = 8; use K in [1, 2, 4, 8]" in divides


def test_a_wrong_value_is_replaced_by_its_default_for_further_examination() -> None:
    config, found = examine({"slow": {"group_size": "eight", "batch_size": 4}})
    assert len(found) == 1
    assert (config.slow.group_size, config.slow.batch_size) == (8, 4)


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("slow", "group_size", "8"),
        ("slow", "group_size", True),
        ("slow", "group_size", 8.5),
        ("slow", "learning_rate", "1e-3"),
        ("slow", "learning_rate", math.inf),
        ("slow", "learning_rate", math.nan),
        ("track", "enabled", "yes"),
        ("track", "enabled", 1),
        ("fast", "evolve", {}),
        ("fast", "evolve", {"solve": 1}),
        ("fast", "reflection_args", [1]),
        ("policy", "lora_targets", {"a": {"b": 1}}),
        ("policy", "lora_targets", 3),
        ("task", "name", ["digits"]),
        ("policy", "model", 3),
    ],
)
def test_a_wrong_type_is_an_error_with_its_key(section: str, key: str, value: Any) -> None:
    found = problems({section: {key: value}})
    assert found
    assert all(line.startswith(f"{section}.{key}") for line in found)


def test_a_section_that_is_a_value_is_an_error() -> None:
    assert problems({"slow": 3})[0].startswith("slow: ")
    assert "is a value, not a section" in problems({"slow": 3}, "slow.group_size=4")[0]


def test_overrides_win_over_the_file_and_are_read_as_toml(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('seed = 3\n[slow]\nlearning_rate = 0.1\n[task]\ntarget = ["reverse"]\n')
    config = load(
        file,
        [
            "slow.learning_rate=3e-4",
            'task.target=["double", "increment"]',
            "policy.model=/some/folder",
            "track.enabled=false",
            "run_dir=out",
        ],
    )
    assert config.seed == 3
    assert config.slow.learning_rate == 3e-4
    assert config.task.options == {"target": ["double", "increment"]}
    assert config.policy.model == "/some/folder"
    assert config.track.enabled is False
    assert config.run_dir == Path("out")


def test_an_integer_stands_for_a_float() -> None:
    assert parse({"sampling": {"temperature": 1}}).sampling.temperature == 1.0


def test_a_fast_phase_must_afford_one_proposal() -> None:
    """T = 2 batches of 4 make an anchor set of 8; K = 2 members and a proposal cost 3 · 8 = 24."""
    data = {"slow": {"steps_per_cycle": 2, "batch_size": 4}, "fast": {"population": 2}}
    assert parse(data, ["fast.rollouts=24"]).fast.rollouts == 24
    [line] = problems(data, "fast.rollouts=23")
    assert line.startswith("fast.rollouts: got 23")
    assert "costs 24" in line
    assert parse(data, ["fast.rollouts=1", 'arm="rl"']).arm == "rl"


def test_fewer_problems_than_a_batch_is_an_error() -> None:
    [line] = problems({"task": {"train_size": 8}, "fast": {"rollouts": 10_000}})
    assert line.startswith("slow.batch_size: got 16")


@pytest.mark.parametrize("content", ["= 3", "a = [", "\x00", 'a = "\ud800"'])
def test_what_is_no_toml_is_a_config_error(tmp_path: Path, content: str) -> None:
    file = tmp_path / "run.toml"
    file.write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(ConfigError, match="not readable as TOML"):
        load(file)


def test_a_missing_file_and_a_folder_are_config_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such run file"):
        load(tmp_path / "absent.toml")
    with pytest.raises(ConfigError):
        load(tmp_path)


KEYS = sorted({key for name in SECTIONS for key in RunConfig().model_dump()[name]})
leaves = st.one_of(
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(st.characters(exclude_categories=("Cs",)), max_size=8),
    st.datetimes(),
    st.sampled_from(["fst", "rl", "*", "local", "lora", "micro"]),
)
names = st.sampled_from([*SECTIONS, *KEYS, "arm", "seed", "run_dir", "unknown"])
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4)
)
junk = st.dictionaries(names, values, max_size=6)
sets = st.lists(st.tuples(names, names, st.text(max_size=6)).map(lambda t: f"{t[0]}.{t[1]}={t[2]}"))


@settings(max_examples=300, deadline=None)
@given(data=junk, overrides=sets)
def test_whatever_toml_can_say_parses_or_is_a_config_error(
    data: dict[str, Any], overrides: list[str]
) -> None:
    try:
        config = parse(data, overrides)
    except ConfigError as error:
        assert error.problems  # noqa: PT017
        assert all(line.strip() for line in error.problems)  # noqa: PT017
    else:
        assert isinstance(config, RunConfig)


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**31 - 1),
    rate=st.floats(1e-8, 1.0),
    target=st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1)),
)
def test_a_resolved_run_file_reads_back_as_itself(
    seed: int, rate: float, target: list[str]
) -> None:
    config = parse({"seed": seed, "slow": {"learning_rate": rate}, "task": {"target": target}})
    text = tomlkit.dumps(config.model_dump(mode="json", exclude_none=True))
    assert parse(dict(tomlkit.parse(text).unwrap())) == config

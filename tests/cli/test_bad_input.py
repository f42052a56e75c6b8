"""Whatever a user gives: exit code 2 and a line for each fault, no traceback, nothing written."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import in_process
import pytest
import tomlkit
from fuzz import Key, Place, junk, keys, placed, texts, wrong
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from processes import fst

from experiments.bench import BENCHES
from experiments.check import check
from experiments.cli import app
from experiments.forecast import forecast
from experiments.studies.catalog import ALL, STUDIES, SWEEP
from fst_agents.config import ARMS, RunConfig
from fst_agents.errors import ConfigError
from fst_agents.run_file import examine

refused = partial(in_process.refused, alone=False)
"""Studies and LiteLLM may say more than what is wrong."""

KEYS = keys()
SECTIONS = {key.place[0] for key in KEYS}
MODULE = """
import dspy

class QA(dspy.Module):
    def __init__(self):
        super().__init__()
        self.solve = dspy.Predict("question -> answer")

    def forward(self, question):
        return self.solve(question=question)

def metric(gold, pred):
    return float(gold.answer == pred.answer)
"""


def examples(count: int) -> Any:
    """The same examples every time, and no deadline: the machine may be busy."""
    return settings(
        max_examples=count,
        derandomize=True,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def faults(data: dict[str, Any], overrides: Sequence[str] = ()) -> list[str]:
    """The lines about a run file's content; none if it is good."""
    try:
        config = check(data, overrides)
    except ConfigError as error:
        return error.problems
    forecast(config)
    return []


# -- the run file -------------------------------------------------------------------------------


def test_the_schema_has_every_key() -> None:
    assert {"slow.group_size", "seed", "fast.reflection_args"} <= {key.name for key in KEYS}
    assert {"task", "serve", "budget", "distill", "checkpoint"} <= SECTIONS
    assert len(KEYS) > 70


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.name)
def test_a_value_that_the_schema_refuses_is_named_by_its_key(key: Key) -> None:
    @examples(8)
    @given(value=wrong(key))
    def try_it(value: Any) -> None:
        config, lines = examine(placed({key.place: value}))
        assert any(line.startswith(key.name) for line in lines), (value, lines)
        assert isinstance(config, RunConfig)

    try_it()


@examples(30)
@given(
    chosen=st.lists(st.sampled_from(KEYS), min_size=1, max_size=5, unique_by=lambda k: k.place),
    data=st.data(),
)
def test_all_faults_are_reported_at_once(chosen: list[Key], data: st.DataObject) -> None:
    values: dict[Place, Any] = {key.place: data.draw(wrong(key)) for key in chosen}
    lines = faults(placed(values))
    for key in chosen:
        assert any(line.startswith(key.name) for line in lines), (key.name, lines)


names = st.sampled_from(sorted(SECTIONS)) | texts
leaves = st.sampled_from([key.place[-1] for key in KEYS]) | texts
DEEP = ".".join("a" * 999) + "=1"
overrides = st.lists(
    st.tuples(names, leaves, texts).map(lambda t: f"{t[0]}.{t[1]}={t[2]}")
    | texts
    | st.sampled_from([".=1", "=", "a=", "slow=1", DEEP, "seed=0x" + "f" * 9999]),
    max_size=2,
)  # fmt: skip


@examples(35)
@given(
    values=st.dictionaries(st.sampled_from([k.place for k in KEYS]), junk, max_size=4),
    unknown=st.dictionaries(names, junk, max_size=1),
    more=overrides,
)
def test_anything_for_a_run_file_is_good_or_refused(
    values: dict[Place, Any], unknown: dict[str, Any], more: list[str]
) -> None:
    lines = faults({**placed(values), **unknown}, more)
    assert all(line.strip() for line in lines)
    assert os.listdir() == []


@examples(60)
@given(content=st.binary(max_size=60), command=st.sampled_from(["check", "train", "compare"]))
def test_bytes_are_no_run_file(content: bytes, command: str) -> None:
    Path("run.toml").write_bytes(content + b"\n= [")
    [line] = refused(command, "run.toml")
    assert "run.toml: not readable as TOML" in line


@examples(10)
@given(
    values=st.dictionaries(st.sampled_from([k.place for k in KEYS]), junk, max_size=3),
    more=overrides,
    command=st.sampled_from(["check", "train", "compare"]),
)
def test_a_faulty_run_file_leaves_nothing_behind(
    values: dict[Place, Any], more: list[str], command: str
) -> None:
    """One fault is always there, so that nothing of it may begin."""
    text = _toml({**placed(values), "colour": 1})
    Path("run.toml").write_text(text, encoding="utf-8")
    sets = [argument for value in more for argument in ("--set", value)]
    assert any(
        line.startswith("colour: unknown key") for line in refused(command, "run.toml", *sets)
    )


def _toml(data: dict[str, Any]) -> str:
    """What TOML can say of it."""

    def sayable(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: sayable(v) for k, v in value.items() if v is not None and "\0" not in k}
        if isinstance(value, list):
            return [sayable(item) for item in value if item is not None]
        return value

    return tomlkit.dumps(sayable(data))


@pytest.mark.parametrize("name", [".", "absent.toml", "x" * 300, "run.toml/x"])
def test_what_is_no_run_file(name: str) -> None:
    Path("run.toml").write_text("seed = 1")
    assert refused("check", name)[0].startswith(f"{Path(name)}: ")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_run_file_and_data_that_nobody_may_read() -> None:
    Path("run.toml").write_text("seed = 1")
    Path("run.toml").chmod(0)
    assert "Permission denied" in refused("check", "run.toml")[0]


# -- what a run file refers to ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "start"),
    [
        ({"run_dir": "x" * 300}, "run_dir: "),
        ({"run_dir": "file/run"}, "run_dir: "),
        ({"run_dir": "file"}, "run_dir: "),
        ({"run_dir": "full"}, "run_dir: "),
        ({"policy": {"model": "file"}}, "policy.model: "),
        ({"policy": {"model": "full"}}, "policy.model: "),
        ({"policy": {"model": "a b"}}, "policy.model: "),
        ({"policy": {"model": "~nobody-of-this-name/x"}}, "policy.model: "),
        ({"serve": {"url": "localhost:8000"}}, "serve.url: "),
        ({"serve": {"url": "http://localhost:1", "host": "local"}}, "serve.url: "),
        ({"serve": {"url": "http://localhost:1", "api_key_env": "FST_NO_SUCH_KEY"}},
         "serve.api_key_env: "),
        ({"serve": {"extra_args": ["--host", "0.0.0.0"]}}, "serve.extra_args: "),
        ({"fast": {"reflection_lm": "no-such-provider/x"}}, "fast.reflection_lm: "),
        ({"fast": {"reflection_lm": "openai/x", "reflection_args": {"messages": []}}},
         "fast.reflection_args: "),
        ({"fast": {"reflection_args": {"temperature": 1}}}, "fast.reflection_args: "),
        ({"fixed": {"nobody": {"model": "openai/x"}}}, "fixed.nobody: "),
        ({"budget": {"rollouts": 10**9}, "fast": {"rollouts": 10, "population": 1},
          "slow": {"batch_size": 1, "steps_per_cycle": 1}}, "budget: "),
        ({"budget": {"rollouts": 5}}, "budget.rollouts: "),
        ({"arm": "distill", "distill": {"steps": 10**6}}, "budget.rollouts: "),
    ],
)  # fmt: skip
def test_what_a_key_refers_to_is_looked_at_before_anything_is_written(
    values: dict[str, Any], start: str
) -> None:
    Path("file").write_text("")
    Path("full").mkdir()
    (Path("full") / "other").write_text("")
    Path("run.toml").write_text(tomlkit.dumps(values))
    for command in ("check", "train"):
        assert any(line.startswith(start) for line in refused(command, "run.toml"))


def test_an_adaptive_forecast_has_either_phase_at_its_most() -> None:
    """12 cycles of 576 + 6 · 128 rollouts; with a single fast phase, 15552 // 128 RL steps."""
    told = forecast(check({"fast": {"schedule": "adaptive"}}))
    assert told["rollouts"]["limit"] == 12 * 1344
    assert (told["rollouts"]["fast"], told["rollouts"]["slow"]) == (12 * 576, 121 * 128)
    assert told["steps"] == 121


# -- data ---------------------------------------------------------------------------------------

fields = st.sampled_from(["id", "question", "answer", "other", ""])
rows = st.dictionaries(
    fields, st.none() | st.integers(0, 2) | st.text(max_size=3) | junk, max_size=4
)
good = st.builds(lambda n: {"id": f"g{n}", "question": f"q{n}", "answer": "a"}, st.integers())


def _line(row: Any) -> bytes:
    try:
        return json.dumps(row).encode()
    except (TypeError, ValueError):  # dates; integers of thousands of digits
        return repr(row).encode("utf-8", "replace")


lines = st.one_of(
    good.map(_line),
    rows.map(_line),
    junk.map(_line),
    st.sampled_from([
        b"", b"\r", b"\xef\xbb\xbf{}", b"[1]", b"null", b'"a"', b'{"question": "\\ud800"}',
        b'{"question": 1, "question": 2}', b'{"question": NaN}', b'{"question": 1e999}',
        b"[" * 5000, b'{"a":' * 5000, b'{"question": "' + b"x" * 200_000 + b'"}', b"\xff\xfe",
    ]),
)  # fmt: skip


@pytest.fixture
def own() -> dict[str, Any]:
    """A run file's content with a program of one's own, whose data are ``my.jsonl``."""
    Path("mine.py").write_text(MODULE)
    Path("my.jsonl").write_bytes(b"".join(_line(_row(n)) + b"\n" for n in range(20)))
    return {
        "task": {"program": "mine.py:QA", "metric": "mine.py:metric", "data": "my.jsonl"},
        "slow": {"batch_size": 2},
        "fast": {"reflection_lm": "openai/x"},
    }


def _row(number: int) -> dict[str, Any]:
    return {"id": number, "question": f"q{number}", "answer": "a"}


@examples(60)
@given(content=st.lists(lines, max_size=5), end=st.sampled_from([b"\n", b"\r\n", b"\n\n"]))
def test_data_are_good_or_every_fault_has_its_line(
    own: dict[str, Any], content: list[bytes], end: bytes
) -> None:
    Path("my.jsonl").write_bytes(end.join(content))
    for line in faults(own):
        assert line.startswith(("my.jsonl:", "task.", "slow.batch_size", "example ")), line
        assert line.isprintable()


def test_a_byte_order_mark_and_windows_line_ends_are_no_fault(own: dict[str, Any]) -> None:
    text = Path("my.jsonl").read_bytes()
    Path("my.jsonl").write_bytes(b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n"))
    assert faults(own) == []


def test_every_bad_line_of_data_is_named(own: dict[str, Any]) -> None:
    bad = [b"{", b"[]", b'{"id": 3, "question": null, "answer": "a"}', b'{"id": 3, "answer": "a"}']
    Path("my.jsonl").write_bytes(b"\n".join(bad))
    Path("run.toml").write_text(tomlkit.dumps(own))
    for command in ("check", "train"):
        said = refused(command, "run.toml")
        assert [line.split(": ")[0] for line in said] == [
            "my.jsonl:1", "my.jsonl:2", "my.jsonl:3", "my.jsonl:4", "my.jsonl:4",
        ]  # fmt: skip
        assert "'question' is null" in said[2]
        assert "'question' is missing" in said[3]
        assert "id 3 is that of my.jsonl:3 too" in said[4]


@pytest.mark.parametrize("place", ["absent.jsonl", ".", "x" * 300, "my.jsonl/x"])
def test_data_that_cannot_be_read(own: dict[str, Any], place: str) -> None:
    own["task"]["data"] = place
    assert any(place in line for line in faults(own))


# -- arguments ----------------------------------------------------------------------------------

other = texts.filter(lambda t: t.strip() and not t.startswith("-") and "\0" not in t)
known = {*STUDIES, ALL, SWEEP, *BENCHES, *ARMS}
OWN, LM = ["--program", "mine.py:QA"], ["--task", "digits", "--lm", "openai/x"]
WRONG: dict[str, st.SearchStrategy[list[str]]] = {
    "demo": st.one_of(
        other.map(lambda t: ["--task", t]),
        other.map(lambda t: ["--serve", t]),
        st.sampled_from(["-1", "x", "1.5", str(2**31), "9" * 30]).map(lambda t: ["--seed", t]),
    ),
    "train": st.one_of(
        other.map(lambda t: [t]),
        st.just([]),
        other.map(lambda t: ["--resume", t]),
        other.map(lambda t: ["--program", t]),
        st.tuples(other, other).map(lambda t: [*OWN, "--data", t[0], "--metric", t[1]]),
        other.map(lambda t: ["run.toml", "--resume", t]),
    ),
    "check": other.map(lambda t: [t]),
    "eval": st.one_of(
        st.just([]),
        other.map(lambda t: [t]),
        other.map(lambda t: ["--task", t]),
        other.map(lambda t: ["--task", "digits", "--lm", f"no-such-provider/{t}"]),
        other.map(lambda t: ["--task", "digits", "--model", f"./{t}"]),
        st.just([*LM, "--set", "fast.reflection_args={model=1}"]),
    ),
    "export": st.tuples(other, other).map(list),
    "report": other.map(lambda t: [t]),
    "serve": st.one_of(
        other.map(lambda t: [t, "--host", "0.0.0.0"]),
        other.map(lambda t: [f"./{t}"]),
        st.sampled_from(["0", "65536", "x", "-1"]).map(lambda t: ["micro", "--port", t]),
        st.just(["micro", "--api-key-env", "FST_NO_SUCH_KEY"]),
    ),
    "tasks": other.map(lambda t: [t]),
    "compare": st.one_of(
        other.map(lambda t: ["run.toml", "--arms", t]),
        st.sampled_from(["0", "-1", "x"]).map(lambda t: ["run.toml", "--seeds", t]),
        st.just(["run.toml", "--jobs", "0"]),
        st.just(["run.toml", "--set", "budget.rollouts=9"]),
    ),
    "study": st.one_of(
        other.map(lambda t: [t]),
        st.sampled_from(["0", "-1", "99", "x"]).map(lambda t: ["drift", "--targets", t]),
        st.sampled_from(["0", "-1", "x"]).map(lambda t: ["drift", "--seeds", t]),
        st.just(["all", "--set", "budget.rollouts=9"]),
    ),
    "bench": other.map(lambda t: [t]),
    "pretrain": st.sampled_from(["full", "run.toml", "run.toml/x", "x" * 300]).map(lambda t: [t]),
    "doctor": other.map(lambda t: [t]),
}  # fmt: skip


def test_every_command_is_tried() -> None:
    assert set(WRONG) == {
        c.name or c.callback.__name__ for c in app.registered_commands if c.callback
    }


@pytest.mark.parametrize("command", list(WRONG))
def test_wrong_arguments_are_refused(command: str) -> None:
    Path("run.toml").write_text("seed = 1")
    Path("mine.py").write_text(MODULE)
    Path("full").mkdir()
    (Path("full") / "other").write_text("")

    @examples(15)
    @given(arguments=WRONG[command])
    def try_it(arguments: list[str]) -> None:
        if not known & set(arguments[:1]) or command == "study":
            refused(command, *arguments)

    try_it()


@pytest.mark.parametrize("command", [["compare", "run.toml"], ["study", "drift"]])
@pytest.mark.parametrize("out", ["run.toml", "run.toml/x", "full", "x" * 300])
def test_a_results_folder_that_is_none(command: list[str], out: str) -> None:
    Path("run.toml").write_text("seed = 1")
    Path("full").mkdir()
    (Path("full") / "other").write_text("")
    [line] = refused(*command, "--out", out)[-1:]
    assert out[:100] in line


def test_a_results_folder_of_another_configuration_stays_as_it_is() -> None:
    """Its mark decides, before any cell is run."""
    Path("out").mkdir()
    mark = Path("out") / "grid.json"
    mark.write_text('{"configuration": "0123456789ab"}')
    [line] = refused("study", "drift", "--out", "out")[-1:]
    assert "holds results of another configuration (0123456789ab" in line
    mark.write_text("[]")
    assert "grid.json" in refused("study", "drift", "--out", "out")[-1]


def test_a_process_of_its_own_says_the_same(here: Path) -> None:
    """Bytes that are no UTF-8, as a shell may hand them over."""
    (here / "run.toml").write_text('colour = 1\n[slow]\ngroup_size = "8"\n')
    done = fst("train", "run.toml", "--set", os.fsdecode(b"seed=\xff"), cwd=here)
    assert done.returncode == 2
    assert done.stdout == ""
    starts = [line.split(": ")[1] for line in done.stderr.splitlines()]
    assert sorted(starts) == ["colour", "seed", "slow.group_size"]
    assert [p.name for p in here.iterdir()] == ["run.toml"]

"""A program of one's own: what is found, how data are split, and a line for every fault."""

from __future__ import annotations

import codecs
import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dspy
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from experiments.own_task import own_task
from fst_agents.errors import ConfigError
from programs.task import Task

SOURCE = """
import dspy


class QA(dspy.Module):
    def __init__(self, depth=1):
        super().__init__()
        self.solve = dspy.Predict("question, context -> answer")

    def forward(self, question, context=None):
        return self.solve(question=question, context=context)


class Deep(QA):
    def __init__(self, depth):
        super().__init__()


class Anything(QA):
    def forward(self, **kwargs):
        return self.solve(**kwargs)


class ByPosition(QA):
    def forward(self, question, /):
        return self.solve(question=question)


class Later(dspy.Module):
    async def aforward(self, question):
        return None


class Headless(dspy.Module):
    pass


def build():
    return QA()


def broken():
    raise LookupError("no such corpus")


def leaves():
    raise SystemExit(3)


def count():
    return 3


def metric(gold, pred):
    return float(gold.answer == pred.answer)


def exact(gold, pred, trace=None):
    return gold.answer == pred.answer


def short(pred):
    return 1.0


qa = QA()
plain = dspy.Predict("question -> answer")
thoughtful = dspy.ChainOfThought("question, context -> answer")
number = 3
"""

FRESH = itertools.count()


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of one's own in the current directory; its name is new, as imports are kept."""
    monkeypatch.chdir(tmp_path)
    name = f"own_module_{next(FRESH)}"
    Path(f"{name}.py").write_text(SOURCE)
    return name


def rows(count: int, **more: Any) -> list[dict[str, Any]]:
    return [
        {"id": f"a{n}", "question": f"{n} + 1?", "answer": str(n + 1)} | more for n in range(count)
    ]


def write(content: Sequence[Any] | str | bytes, name: str = "my.jsonl") -> Path:
    path = Path(name)
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, str):
        path.write_text(content)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in content))
    return path


def task(own: str, program: str = "QA", **options: Any) -> Task:
    given: dict[str, Any] = {"metric": f"{own}:metric", "data": Path("my.jsonl")} | options
    return own_task(program=f"{own}:{program}" if ":" not in program else program, **given)


def faults(own: str, program: str = "QA", **options: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        task(own, program, **options)
    return caught.value.problems


def of(fault: Sequence[str], start: str) -> str:
    [line] = fault
    assert line.startswith(start), line
    return line


def ids(examples: Sequence[dspy.Example]) -> list[str]:
    return [example["id"] for example in examples]


# -- the program and the metric -----------------------------------------------------------------


@pytest.mark.parametrize("program", ["QA", "build", "qa", "plain", "thoughtful"])
def test_a_program_is_a_class_a_function_or_an_object(own: str, program: str) -> None:
    write(rows(10, context="c"))
    made = task(own, program, eval_metric=f"{own}:exact", score_range=(0.0, 2.0))
    answer = dspy.utils.DummyLM([{"answer": "1", "reasoning": "r"}])
    with dspy.context(lm=answer, adapter=dspy.ChatAdapter()):
        prediction = made.program(**made.trainset[0].inputs())
    assert prediction.answer == "1"
    assert made.metric(dspy.Example(answer="1"), prediction) == 1.0
    assert made.eval_metric is not None
    assert made.eval_metric(dspy.Example(answer="2"), prediction) is False
    assert made.score_range == (0.0, 2.0)
    assert list(made.testset) == []


def test_an_asynchronous_program_has_inputs_too(own: str) -> None:
    write(rows(2))
    assert set(task(own, "Later").trainset[0].inputs().keys()) == {"question"}


def test_a_file_is_loaded_once_and_afresh_when_it_has_changed(own: str) -> None:
    write(rows(5))
    folder = Path("deep") / "down"
    folder.mkdir(parents=True)
    (folder / f"{own}_helper.py").write_text("ANSWER = 42")
    path = folder / "mine.py"
    path.write_text(
        f"from {own}_helper import ANSWER\nfrom {own} import QA as Base, metric\n" + SOURCE
    )
    before = list(sys.path)
    first, again = (task(own, f"{path}:QA", metric=f"{path}:metric") for _ in range(2))
    assert type(first.program) is type(again.program)
    assert first.metric is again.metric
    path.write_text(SOURCE.replace("float(", "int("))
    assert task(own, f"{path}:QA", metric=f"{path}:metric").metric is not first.metric
    assert sys.path == before


def test_a_name_may_have_dots(own: str) -> None:
    with Path(f"{own}.py").open("a") as file:
        file.write("class Space:\n    made = QA\n    score = staticmethod(metric)\n")
    write(rows(5))
    made = task(own, "Space.made", metric=f"{own}:Space.score")
    assert type(made.program).__name__ == "QA"


@pytest.mark.parametrize(
    "reference", ["x", "x:", ":QA", "a-b:QA", ".x:QA", "a..b:QA", "", ":", "a/b:c"]
)
def test_what_is_no_reference(own: str, reference: str) -> None:
    write(rows(5))
    with pytest.raises(ConfigError) as caught:
        own_task(program=reference, metric=f"{own}:metric", data=Path("my.jsonl"))
    assert caught.value.problems == [
        f"task.program: got {reference!r}; expected 'module:name' or 'path/to/file.py:name'"
    ]


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("Absent", "{own} has no 'Absent'; it defines QA, Deep, Anything, ByPosition, Later, "),
        ("QA.absent", "{own} has no 'QA.absent'; it defines QA, "),
        ("number", "{own}:number is of type int; expected a dspy.Module, or a class or function "),
        ("count", "{own}:count made something of type int; expected a dspy.Module"),
        ("Deep", "{own}:Deep needs depth, but it is called without arguments; give them defaults"),
        ("metric", "{own}:metric needs gold, pred, but it is called without arguments; "),
        ("broken", "calling {own}:broken raised LookupError: no such corpus ({file}:{broken})"),
        ("leaves", "calling {own}:leaves raised SystemExit: 3 ({file}:{leaves})"),
        ("Headless", "Headless has neither forward nor aforward, so it cannot be run; define "),
        ("ByPosition", "ByPosition.forward takes question by position only, but inputs are given "),
    ],
)
def test_programs_that_are_none(own: str, program: str, said: str) -> None:
    write(rows(5))
    lines = SOURCE.splitlines()
    facts = {
        "own": own,
        "file": Path(f"{own}.py").resolve(),
        "broken": lines.index("def broken():") + 2,
        "leaves": lines.index("def leaves():") + 2,
    }
    of(faults(own, program), "task.program: " + said.format(**facts))


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        ("number", "{own}:number is of type int; expected a function of (gold, prediction), "),
        ("QA", "{own}:QA is a class; expected a function of (gold, prediction), "),
        ("short", "metric <function short"),
        ("absent", "{own} has no 'absent'; it defines "),
    ],
)
@pytest.mark.parametrize("key", ["metric", "eval_metric"])
def test_metrics_that_are_none(own: str, key: str, metric: str, said: str) -> None:
    write(rows(5))
    of(faults(own, **{key: f"{own}:{metric}"}), f"task.{key}: " + said.format(own=own))


def test_what_a_module_raises_is_a_line_with_the_place_in_it(own: str) -> None:
    write(rows(5))
    deep, broken = f"{own}_deep", f"{own}_broken"
    Path(f"{deep}.py").write_text("import json\n\njson.loads('{')\n")
    Path(f"{broken}.py").write_text("x = (\n")
    for name, text in {
        "value": "\nraise ValueError('no\\n  luck')",
        "needs": "import no_such_thing_at_all",
        "deeper": f"import {deep}",
        "leaves": "import sys\nsys.exit()",
    }.items():
        Path(f"{own}_{name}.py").write_text(text)
    here = Path.cwd()

    def line(module: str) -> str:
        return of(faults(own, f"{own}_{module}:x"), f"task.program: importing {own}_{module} ")

    assert line("value").endswith(f"raised ValueError: no luck ({here / own}_value.py:2)")
    assert line("needs").endswith(
        f"ModuleNotFoundError: No module named 'no_such_thing_at_all' ({here / own}_needs.py:1)"
    )
    assert "raised JSONDecodeError: " in line("deeper")
    assert line("deeper").endswith(f" ({here / deep}.py:3)")
    assert line("leaves").endswith(f"raised SystemExit ({here / own}_leaves.py:2)")
    assert line("broken").endswith(
        f"raised SyntaxError: '(' was never closed ({broken}.py, line 1) ({here / broken}.py:1)"
    )
    assert str(here) not in sys.path


def test_a_module_that_is_not_there(own: str) -> None:
    write(rows(5))
    found = faults(own, "no_such_module.at_all:QA")
    assert found == [
        f"task.program: no module 'no_such_module' in {Path.cwd()} or among what is installed; "
        "change to its folder, or give the path of the file: 'path/to/file.py:name'"
    ]
    of(faults(own, "gone.py:QA"), "task.program: gone.py cannot be read: ")


@pytest.mark.parametrize(
    ("local", "owner"),
    [
        ("programs.py", "a package of fst-agents"),
        ("experiments/mine.py", "a package of fst-agents"),
        ("optimizers/__init__.py", "a package of fst-agents"),
        ("dspy.py", "a module in use"),
    ],
)
def test_a_name_that_is_taken_is_refused(own: str, local: str, owner: str) -> None:
    write(rows(5))
    root = local.partition("/")[0].removesuffix(".py")
    Path(local).parent.mkdir(exist_ok=True)
    Path(local).write_text(SOURCE)
    module = "experiments.mine" if "mine" in local else root
    line = of(faults(own, f"{module}:QA"), f"task.program: {Path.cwd() / root}")
    assert f"for {root!r} is already the name of {owner} ({sys.modules[root].__file__})" in line
    assert task(own, f"{local}:QA").program is not None  # by its path it can be had


# -- the data -----------------------------------------------------------------------------------


def test_inputs_are_the_parameters_and_optional_ones_where_they_are_given(own: str) -> None:
    write([{"question": "a", "answer": "b"}, {"question": "c", "context": "d", "more": [1]}])
    made = task(own)
    inputs = {e.question: set(e.inputs().keys()) for e in [*made.trainset, *made.valset]}
    assert inputs == {"a": {"question"}, "c": {"question", "context"}}


def test_inputs_can_be_named(own: str) -> None:
    write(rows(5, context="c"))
    made = task(own, "Anything", inputs=["question", "id"])
    assert set(made.trainset[0].inputs().keys()) == {"question", "id"}
    assert faults(own, "Anything") == [
        "task.inputs: the program's forward takes **kwargs, so it does not say which fields it "
        'needs; name them, for example inputs = ["question"]'
    ]
    assert faults(own, inputs=["context", "answer"]) == [
        "task.inputs: 'answer' is not taken; the program's forward takes question, context; "
        "leave it out",
        "task.inputs: 'question' is needed; the program's forward takes question, context; add it",
    ]
    found = faults(own, "Anything", inputs=["question", "hint"])
    assert found[0] == (
        "my.jsonl:1: example 'a0': field 'hint' is missing; task.inputs names question, hint"
    )
    assert len(found) == 5


def test_fields_may_have_the_names_of_what_examples_can_do(own: str) -> None:
    row = {"question": "q", "base": {"a": 1}, "_store": 1, "inputs": 2, "items": [3], "toDict": 4}
    write([row, {"question": "r"}])
    made = task(own)
    [example] = [e for e in [*made.trainset, *made.valset] if e.question == "q"]
    assert {name: example[name] for name in row} == row
    assert dict(example.inputs()) == {"question": "q"}


def test_blank_lines_a_byte_order_mark_and_other_line_ends_are_allowed(own: str) -> None:
    write(codecs.BOM_UTF8 + b'\r\n{"question": "\xe2\x80\xa8x"}\r\n \t\n\n{"question": "y"}')
    made = task(own)
    assert {e.question for e in [*made.trainset, *made.valset]} == {"\u2028x", "y"}


FAULTY = {
    b'{"question": "x"': "not JSON: Expecting ',' delimiter (column 17)",
    b"[1, 2]": "expected a JSON object, the fields of an example; got [1, 2]",
    b'"question"': "expected a JSON object, the fields of an example; got 'question'",
    b'{"question": NaN}': "NaN is no JSON number; leave the field out, or write it as a string",
    b'{"question": [-Infinity]}': (
        "-Infinity is no JSON number; leave the field out, or write it as a string"
    ),
    b'{"question": 1e999}': "the number 1e999 is too large; write it as a string",
    b'{"question": {"a": 1, "a": 2}}': "key 'a' occurs twice in one object; keep one of them",
    b'{"question": "\xff"}': "byte 0xff at position 15 is not UTF-8; save the file as UTF-8",
    rb'{"question": "\ud83d"}': (
        r"'\ud83d' is half a character (a lone surrogate), which is no text; write the whole "
        "character"
    ),
    b"[" * 100_000: "nested too deeply to be read",
    b'{"id": "a17"}': (
        "example 'a17': field 'question' is missing; the program's forward takes question, context"
    ),
    b'{"answer": 3}': "field 'question' is missing; the program's forward takes question, context",
    b'{"id": 18, "question": null}': (
        "example 18: field 'question' is null, but it is an input; give it a value"
    ),
    b'{"question": "w", "context": null}': (
        "field 'context' is null, but it is an input; give it a value, or leave it out"
    ),
    b'{"id": null, "question": "i"}': (
        "id is None; expected a string or an integer, or no id at all"
    ),
    b'{"id": true, "question": "j"}': (
        "id is True; expected a string or an integer, or no id at all"
    ),
    b'{"id": "good", "question": "k"}': "id 'good' is that of my.jsonl:1 too; give each its own",
    b'{"id": "other", "question": "fine"}': (
        "the same example as my.jsonl:1, apart from ids; drop one of them"
    ),
}


def test_all_faults_of_the_data_are_reported_at_once_with_their_lines(own: str) -> None:
    lines = [b'{"id": "good", "question": "fine"}', b"", *FAULTY]
    write(b"\n".join(lines))
    expected = [f"my.jsonl:{n}: {text}" for n, text in enumerate(FAULTY.values(), start=3)]
    assert faults(own) == expected


def test_files_that_hold_no_examples(own: str) -> None:
    write(b"\n \n")
    assert faults(own) == ["my.jsonl: no examples in it; expected one JSON object a line"]
    write("[\n{}\n]")
    assert faults(own) == [
        "my.jsonl: starts with a list; expected one JSON object a line, without commas"
    ]
    assert faults(own, data=Path("gone.jsonl")) == [
        "gone.jsonl: no such file; expected JSONL, one example a line"
    ]
    of(faults(own, data=Path(".")), ".: cannot be read: ")
    of(faults(own, data=Path("a\0b")), "a\0b: cannot be read: ")


def test_many_faults_are_counted(own: str) -> None:
    write([{"n": n} for n in range(332)])
    found = faults(own)
    assert found[19].startswith("my.jsonl:20: field 'question' is missing")
    assert found[20:] == ["and 312 more faults in my.jsonl"]


def test_faults_of_the_code_and_of_both_files_come_together(own: str) -> None:
    write("?\n")
    write("{}\n!\n", "eval.jsonl")
    found = faults(
        own, "Absent", metric="x", eval_metric=f"{own}:number", eval_data=Path("eval.jsonl")
    )
    starts = ["task.program: ", "task.metric: ", "task.eval_metric: ", "my.jsonl:1", "eval.jsonl:2"]
    assert [line[: len(start)] for line, start in zip(found, starts, strict=True)] == starts


def test_data_are_never_run(own: str) -> None:
    write(b"__import__('pathlib').Path('ran').touch()\n")
    faults(own)
    write(rows(5, context="__import__('pathlib').Path('ran').touch()"))
    task(own)
    assert not Path("ran").exists()


# -- splits -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "train", "val", "sizes"),
    [
        (10, None, None, (8, 2)),
        (4, None, None, (3, 1)),
        (2, None, None, (1, 1)),
        (10, 3, None, (3, 7)),
        (10, None, 4, (6, 4)),
        (10, 3, 4, (3, 4)),
        (10, 6, 4, (6, 4)),
    ],
)
def test_one_file_is_split_without_overlap(
    own: str, count: int, train: int | None, val: int | None, sizes: tuple[int, int]
) -> None:
    write(rows(count))
    made = task(own, train_size=train, val_size=val)
    assert (len(made.trainset), len(made.valset)) == sizes
    every = ids([*made.trainset, *made.valset])
    assert len(set(every)) == len(every)


def test_two_files_are_two_splits(own: str) -> None:
    write(rows(9))
    write([{"id": f"v{n}", "question": f"{n}?"} for n in range(5)], "eval.jsonl")
    made = task(own, eval_data=Path("eval.jsonl"))
    assert sorted(ids(made.trainset)) == [f"a{n}" for n in range(9)]
    assert sorted(ids(made.valset)) == [f"v{n}" for n in range(5)]
    made = task(own, eval_data=Path("eval.jsonl"), train_size=4, val_size=2)
    assert (len(made.trainset), len(made.valset)) == (4, 2)
    assert faults(own, eval_data=Path("eval.jsonl"), train_size=10, val_size=6) == [
        "task.train_size: got 10, but my.jsonl has 9 example(s); lower it, or add some",
        "task.val_size: got 6, but eval.jsonl has 5 example(s); lower it, or add some",
    ]


def test_no_example_stands_in_both_files(own: str) -> None:
    write(rows(3))
    write([rows(1)[0], rows(2)[1] | {"id": "z"}], "eval.jsonl")
    assert faults(own, eval_data=Path("eval.jsonl")) == [
        "eval.jsonl:1: id 'a0' is that of my.jsonl:1 too; give each its own",
        "eval.jsonl:1: the same example as my.jsonl:1, apart from ids; drop one of them",
        "eval.jsonl:2: the same example as my.jsonl:2, apart from ids; drop one of them",
    ]


@pytest.mark.parametrize(
    ("count", "train", "val", "said"),
    [
        (1, None, None, "1 for training and 1 for validation, but my.jsonl has 1 example(s); "),
        (10, 8, 3, "8 for training and 3 for validation, but my.jsonl has 10 example(s); "),
        (10, 10, None, "10 for training and 1 for validation, but my.jsonl has 10 example(s); "),
        (10, None, 10, "1 for training and 10 for validation, but my.jsonl has 10 example(s); "),
    ],
)
def test_too_few_examples(
    own: str, count: int, train: int | None, val: int | None, said: str
) -> None:
    write(rows(count))
    found = faults(own, train_size=train, val_size=val)
    assert found == [
        f"task.train_size and task.val_size: {said}lower them, add some, or set task.eval_data"
    ]


def test_the_seed_decides_the_split(own: str) -> None:
    write(rows(30))
    first, again, other = (task(own, seed=seed) for seed in (1, 1, 2))
    assert ids(first.trainset) == ids(again.trainset)
    assert ids(first.valset) == ids(again.valset)
    assert ids(first.trainset) != ids(other.trainset)
    assert set(ids(first.valset)) != set(ids(other.valset))


# -- junk ---------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.just("question"), inner),
    max_leaves=8,
)
LINES = st.binary() | JSON.map(lambda value: json.dumps(value).encode())


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=st.lists(LINES, max_size=5), second=st.none() | st.binary())
def test_junk_is_a_config_error_and_nothing_else(
    own: str, lines: list[bytes], second: bytes | None
) -> None:
    write(b"\n".join(lines))
    eval_data = None if second is None else write(second, "eval.jsonl")
    try:
        made, problems = task(own, eval_data=eval_data), ["none"]
    except ConfigError as error:
        made, problems = None, error.problems
    assert problems
    assert all(line.isprintable() for line in problems)
    for example in [*made.trainset, *made.valset] if made else []:
        assert example["question"] is not None

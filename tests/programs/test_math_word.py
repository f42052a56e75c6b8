"""Word problems: worked solutions that add up, exact reading of numbers, and data from disk."""

from __future__ import annotations

import json
import math
import re
import socket
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

import dspy
import pytest
from dspy.utils import DummyLM
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from fst_agents.scoring import Scorer
from programs.math_word import (
    ENTRY,
    MathWord,
    MathWordOptions,
    build,
    exact,
    metric,
    read_number,
)
from programs.math_word.cached import read_row
from programs.math_word.generated import MAX_PROBLEMS, generate
from programs.math_word.reading import read_numbers, write
from programs.math_word.templates import TEMPLATES, Template
from programs.math_word.working import Working

SMALL = MathWordOptions(train_size=30, val_size=10, test_size=10)

GOLD = dspy.Example(
    question="Ben has $100 and buys 14 pens at $3 each. How many dollars does Ben have left?",
    answer="58",
    solution="1. cost of the pens in dollars: 14 × 3 = 42\n2. dollars left: 100 - 42 = 58",
    results=["42", "58"],
).with_inputs("question")

ALL = [(steps, template) for steps, group in TEMPLATES.items() for template in group]


def judge(answer: object) -> dspy.Prediction:
    return metric(GOLD, dspy.Prediction(answer=answer))


# The templates


@pytest.mark.parametrize(("steps", "template"), ALL, ids=lambda v: getattr(v, "__name__", v))
@given(seed=st.integers(0, 10**6))
@settings(deadline=None, max_examples=50)
def test_a_worked_solution_adds_up(steps: int, template: Template, seed: int) -> None:
    work = Working()
    question = template(Random(seed), work)
    problem = work.problem(question)
    assert len(work.steps) == steps
    assert problem.answer == problem.results[-1]
    assert int(problem.answer) >= 1
    # Every number is given in the question, was worked out before, or everyone knows it.
    known = {int(number) for number in read_numbers(question)} | {1, 2, 4, 60, 100}
    used: set[int] = set()
    for line, step in zip(problem.solution.split("\n"), work.steps, strict=True):
        left, result = re.fullmatch(r".*: ([\d +×÷-]+) = (\d+)(?:, remainder \d+)?", line).groups()  # pyright: ignore[reportOptionalMemberAccess]
        operands = [int(number) for number in re.findall(r"\d+", left)]
        assert set(operands) <= known
        assert eval(left.replace("×", "*").replace("÷", "//")) == int(result) == step.value
        if "÷" in left:
            a, b = operands
            assert (f"remainder {a % b}" in line) == (a % b != 0)
        known.add(step.value)
        used.update(operands)
    assert {int(r) for r in problem.results[:-1]} <= used, "a step that leads nowhere"


def test_templates_by_hand() -> None:
    by_name = {template.__name__: template for _, template in ALL}
    assert len(by_name) == len(ALL) >= 12
    solved: dict[str, tuple[str, str]] = {}
    for name, template in by_name.items():
        work = Working()
        question = template(Random(1), work)
        solved[name] = question, work.problem(question).answer

    def numbers(name: str) -> list[int]:
        return [int(number) for number in read_numbers(solved[name][0])]

    def answer(name: str) -> int:
        return int(solved[name][1])

    guests_first, guests = numbers("tables")
    assert answer("tables") == math.ceil(guests / guests_first)
    total, bag = numbers("left_over")
    assert answer("left_over") == total % bag
    number, price, percent = numbers("discount")
    assert answer("discount") == number * price * (100 - percent) / 100
    first, second, third, mean = numbers("average")
    assert (first + second + third + answer("average")) / 4 == mean
    width, factor, price = numbers("fence")
    assert answer("fence") == 2 * (width + factor * width) * price
    holds, start, filled, leaks, minutes = numbers("tank")
    assert start + minutes * (filled - leaks) + answer("tank") == holds
    rate, hours, bad = numbers("machine")
    assert answer("machine") == rate * 60 * hours - bad


def test_impossible_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="3 - 4 is negative"):
        Working().minus("x", 3, 4)
    with pytest.raises(ValueError, match="7 ÷ 2 is not whole"):
        Working().over("x", 7, 2)


# Generated data


@pytest.mark.parametrize(("least", "most"), [(1, 1), (2, 3), (4, 4), (1, 4)])
def test_the_options_bound_the_steps(least: int, most: int) -> None:
    problems = generate(200, Random(0), min_steps=least, max_steps=most)
    assert {len(p.results) for p in problems} == set(range(least, most + 1))


def test_bounds_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValidationError, match="got 3, expected at most max_steps, 2"):
        MathWordOptions(min_steps=3, max_steps=2)
    with pytest.raises(ValidationError, match="max_steps"):
        MathWordOptions(max_steps=5)
    with pytest.raises(ValueError, match=f"expected at most {MAX_PROBLEMS}"):
        build(MathWordOptions(train_size=MAX_PROBLEMS), 0)


@pytest.mark.parametrize("steps", [1, 4])
def test_even_the_narrowest_choice_has_thousands_of_problems(steps: int) -> None:
    problems = generate(20_000, Random(0), min_steps=steps, max_steps=steps)
    assert len({p.question for p in problems}) == 20_000


def test_splits_share_no_question_and_ids_are_unique() -> None:
    task = build(MathWordOptions(), 0)
    examples = [*task.trainset, *task.valset, *task.testset]
    assert [len(task.trainset), len(task.valset), len(task.testset)] == [512, 128, 128]
    assert len({e.id for e in examples}) == len({e.question for e in examples}) == len(examples)
    assert task.trainset[0].inputs().toDict() == {"question": task.trainset[0].question}


def test_equal_seeds_give_equal_data() -> None:
    first, again, other = (build(SMALL, seed) for seed in (3, 3, 4))
    for split in ("trainset", "valset", "testset"):
        assert [e.toDict() for e in getattr(first, split)] == [
            e.toDict() for e in getattr(again, split)
        ]
    assert {e.id for e in first.trainset} != {e.id for e in other.trainset}


# Numbers


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1234", "1234"),
        ("$1,234.00", "1234"),
        ("1234 apples", "1234"),
        ("1,234,567.", "1234567"),
        ("617 × 2 = 1,234", "1234"),
        ("so 3 in the box, and 4 beside it", "4"),
        ("-5", "-5"),
        ("−5", "-5"),
        ("-$5", "-5"),
        ("$-5", "-5"),
        ("it is -5.", "-5"),
        ("10-5", "5"),
        ("(3)-5", "5"),
        (".5", "0.5"),
        ("12.50 dollars", "12.5"),
        ("50%", "50"),
        ("3/4", "4"),
        (r"\boxed{42}", "42"),
        ("**42**", "42"),
        ("12,34", "34"),
        ("0", "0"),
        ("-0.0", "0"),
        ("", None),
        ("forty-two", None),
        ("x2", None),
        ("٤٢", None),
        ("9" * 5000, None),
    ],
)
def test_the_last_number_of_a_text_counts(text: str, expected: str | None) -> None:
    number = read_number(text)
    assert (number if number is None else write(number)) == expected


@given(st.decimals(-(10**12), 10**12, places=2, allow_nan=False))
def test_a_number_is_read_back_however_it_is_written(number: Decimal) -> None:
    for text in (f"{number}", f"{number:,}", f"it is {number:,} dollars.", write(number)):
        assert read_number(text) == number


@given(st.text() | st.text("0123456789.,-−$€ %x"))
def test_reading_never_fails(text: str) -> None:
    number = read_number(text)
    assert number is None or read_number(write(number)) == number


# The metric


def test_labels_score_one() -> None:
    task = build(SMALL, 0)
    for e in (*task.trainset, *task.valset, *task.testset):
        assert metric(e, dspy.Prediction(answer=e.answer)).score == 1.0
        assert exact(e, dspy.Prediction(answer=f"{int(e.answer):,} in all")) == 1.0


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("58", 1.0),
        ("$58.00", 1.0),
        ("100 - 42 = 58", 1.0),
        ("58 of 100", 0.1),
        ("42", 0.1),
        ("", 0.0),
        (None, 0.0),
        ("many", 0.0),
    ],
)
def test_a_right_number_earns_all_and_another_little(answer: object, score: float) -> None:
    scorer = Scorer(metric, score_range=(0.0, 1.0), predictors=["solve.predict"])
    feedback = scorer(GOLD, dspy.Prediction(answer=answer), [])
    assert feedback.score == score
    assert feedback.objectives == {"exact": float(score == 1.0), "number": float(score > 0)}
    assert exact(GOLD, dspy.Prediction(answer=answer)) == float(score == 1.0)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("no idea", "there is no number in it."),
        ("-58", "read as -58. The sign is wrong."),
        ("42", "an intermediate result, that of step 1 of 2, not what the question asks for."),
        ("14 pens", "read as 14. This number stands in the question"),
        ("5800", "It is 100 times too large: a multiplication, a division or a change of units"),
        ("29", "It is 2 times too small"),
        ("5.8", "It is 10 times too small"),
        ("58.5", "A whole number was expected."),
        ("57", "It is too small by one: check the counting, or a remainder."),
        ("61", "It is too large by 3, a slip of the arithmetic perhaps."),
        ("142", "It is too large by 84: check which operations"),
        ("-7", "It is too small by 65: check which operations"),
        ("0", "It is too small by 58: check which operations"),
    ],
)
def test_feedback_names_the_kind_of_mistake(answer: str, kind: str) -> None:
    text = judge(answer).feedback
    assert text.startswith(f"Expected 58. The answer is {answer!r}")
    assert kind in text
    assert text.endswith(f"\nWorked solution:\n{GOLD.solution}")


def test_feedback_on_a_right_answer_is_short() -> None:
    assert judge("$58").feedback == "Expected 58. The answer is '$58', which is correct."


def test_a_long_answer_is_quoted_where_its_number_stands() -> None:
    text = judge("so " * 500 + "57").feedback
    assert "so 57', read as 57." in text
    assert len(text) < 500


ANSWERS = st.text() | st.text("0123456789.,-$ ") | st.none() | st.integers() | st.floats()


@given(ANSWERS, st.integers(-200, 200), st.sampled_from([None, "solve.predict"]))
def test_any_answer_gets_a_score_and_a_feedback(
    answer: object, expected: int, name: str | None
) -> None:
    gold = dspy.Example(GOLD, answer=str(expected))
    result = metric(gold, dspy.Prediction(answer=answer), None, name, None)
    assert result.score in (0.0, 0.1, 1.0)
    assert (result.score == 1.0) == ("which is correct" in result.feedback)
    assert metric(gold, dspy.Prediction()).score == 0.0


# The program


def test_the_program_runs() -> None:
    program = MathWord()
    assert [name for name, _ in program.named_predictors()] == ["solve.predict"]
    lm = DummyLM([{"reasoning": "100 - 42", "answer": "$58"}])
    with dspy.context(lm=lm, adapter=dspy.ChatAdapter()):
        pred = program(**GOLD.inputs())
    assert metric(GOLD, pred).score == 1.0


def test_the_entry_describes_the_task() -> None:
    assert ENTRY.name == "math_word"
    assert ENTRY.options is MathWordOptions
    facts = json.loads(json.dumps(ENTRY.facts()))
    assert facts["predictors"] == [name for name, _ in MathWord().named_predictors()]
    assert len(facts["templates"]["4"]) == 5


# A dataset on disk


def rows(split: str, count: int) -> list[dict[str, str]]:
    return [
        {
            "question": f"In {split}, what is {i} and {i}?",
            "answer": f"Add them: {i} + {i} = <<{i}+{i}={2 * i}>>{2 * i}.\n"
            f"Twice that is <<2*{2 * i}={4 * i}>>{4 * i}.\n#### {4 * i:,}",
        }
        for i in range(count)
    ]


def write_jsonl(path: Path, lines: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_parquet(path: Path, lines: list[dict[str, Any]]) -> None:
    import pyarrow
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(lines), path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "train.jsonl", rows("train", 30))
    write_jsonl(tmp_path / "test.jsonl", rows("test", 10))
    return tmp_path


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A Hugging Face cache, on a machine that notices when something wants the network."""
    import datasets.config
    from huggingface_hub import constants

    tried: list[object] = []

    def refuse(*address: object, **_: object) -> None:
        tried.append(address)
        raise OSError("no network here")

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    yield tmp_path
    assert not tried  # the libraries fall back to the cache, and would say nothing


def cached(hub: Path, name: str) -> Path:
    """The folder of a dataset that was fetched from the Hub: a commit, and a name for it."""
    commit = "a" * 40
    repo = hub / f"datasets--{name.replace('/', '--')}"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit)
    snapshot = repo / "snapshots" / commit
    snapshot.mkdir(parents=True)
    return snapshot


def from_disk(dataset: object, **changes: Any) -> MathWordOptions:
    chosen: dict[str, Any] = {
        "source": "huggingface",
        "dataset": str(dataset),
        "dataset_config": "",
        "train_size": 20,
        "val_size": 5,
        "test_size": 5,
    }
    return MathWordOptions.model_validate(chosen | changes)


def test_a_folder_is_a_dataset(folder: Path) -> None:
    task = build(from_disk(folder), 0)
    assert [len(task.trainset), len(task.valset), len(task.testset)] == [20, 5, 5]
    assert all("In train," in e.question for e in (*task.trainset, *task.valset))
    assert all("In test," in e.question for e in task.testset)
    examples = [*task.trainset, *task.valset, *task.testset]
    assert len({e.question for e in examples}) == len({e.id for e in examples}) == 30
    for e in examples:
        assert metric(e, dspy.Prediction(answer=e.answer)).score == 1.0


def test_parquet_files_are_read_too(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", rows("train", 30))
    write_parquet(tmp_path / "test.parquet", rows("test", 10))
    assert len(build(from_disk(tmp_path), 0).testset) == 5


def test_equal_seeds_draw_equal_rows(folder: Path) -> None:
    first, again, other = (build(from_disk(folder), seed) for seed in (0, 0, 1))
    assert [e.id for e in first.trainset] == [e.id for e in again.trainset]
    assert [e.id for e in first.trainset] != [e.id for e in other.trainset]
    fewer = build(from_disk(folder, train_size=2), 0)
    assert [e.id for e in fewer.testset] == [e.id for e in first.testset]


@pytest.mark.parametrize(("write", "ending"), [(write_parquet, "parquet"), (write_jsonl, "jsonl")])
def test_a_dataset_in_the_cache_is_read_without_the_network(
    hub: Path, write: Any, ending: str
) -> None:
    snapshot = cached(hub, "them/sums")
    for split, count in (("train", 30), ("test", 10)):
        write(snapshot / "main" / f"{split}-00000-of-00001.{ending}", rows(split, count))
    files = "".join(
        f"- config_name: {config}\n  data_files:\n"
        + "".join(f"  - split: {s}\n    path: {config}/{s}-*\n" for s in ("train", "test"))
        for config in ("main", "socratic")
    )
    (snapshot / "README.md").write_text(f"---\nconfigs:\n{files}---\nSums.\n")
    task = build(from_disk("them/sums", dataset_config="main"), 0)
    assert len(task.trainset) == 20
    with pytest.raises(ValueError, match="expected one of 'main', 'socratic'"):
        build(from_disk("them/sums", dataset_config="other"), 0)
    with pytest.raises(ValueError, match="dataset_config: got '', expected one of 'main'"):
        build(from_disk("them/sums", dataset_config=""), 0)
    with pytest.raises(ValueError, match="fetch it with: hf download"):  # without its files
        build(from_disk("them/sums", dataset_config="socratic"), 0)


def test_what_is_not_in_the_cache_is_named_with_the_command_that_fetches_it(hub: Path) -> None:
    with pytest.raises(ValueError, match="cache") as caught:
        build(MathWordOptions(source="huggingface"), 0)
    assert str(caught.value) == (
        "dataset: 'openai/gsm8k' is not in the Hugging Face cache, and runs do not download; "
        "fetch it with: hf download --repo-type dataset openai/gsm8k"
    )
    (cached(hub, "them/empty") / "README.md").write_text("Nothing.\n")
    with pytest.raises(
        ValueError, match="missing; fetch it with: hf download --repo-type dataset them/empty"
    ):
        build(from_disk("them/empty"), 0)


def test_a_name_that_cannot_be_one_is_refused(hub: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="dataset: Repo id must"):
        build(from_disk("two words"), 0)
    for missing in (tmp_path / "absent", "./absent", "~/absent/folder"):
        with pytest.raises(ValueError, match="there is no folder"):
            build(from_disk(missing), 0)
    (tmp_path / "bare").mkdir()
    with pytest.raises(ValueError, match=r"files of .* are missing; give a folder with train"):
        build(from_disk(tmp_path / "bare"), 0)
    (tmp_path / "bare" / "train.jsonl").write_text("{{")
    with pytest.raises(ValueError, match=r"cannot be read: JSON parse error.*; give a folder"):
        build(from_disk(tmp_path / "bare", test_size=0), 0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"question_field": "text"}, "question_field: got 'text', expected one of 'question', 'a"),
        ({"answer_field": "label"}, "answer_field: got 'label', expected one of"),
        ({"test_split": "dev"}, "test_split: got 'dev', expected one of 'train', 'test'"),
        ({"train_split": "all"}, "train_split: got 'all', expected one of"),
        ({"dataset_config": "main"}, "dataset_config: got 'main', expected one of 'default'"),
        ({"train_size": 26}, "got 31 examples of split 'train'.*expected at most 30"),
        ({"test_size": 11}, "got 11 examples of split 'test'.*expected at most 10"),
    ],
)
def test_options_that_do_not_fit_the_dataset(
    folder: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        build(from_disk(folder, **changes), 0)


def test_a_question_occurs_in_one_split_only(tmp_path: Path) -> None:
    double = [{**row, "question": f" {row['question'].upper()}\n"} for row in rows("train", 10)]
    write_jsonl(tmp_path / "train.jsonl", rows("train", 10) + double)
    write_jsonl(tmp_path / "test.jsonl", double)
    task = build(from_disk(tmp_path, train_size=4, val_size=2, test_size=4), 0)
    questions = [e.question for e in (*task.trainset, *task.valset, *task.testset)]
    assert len({q.casefold() for q in questions}) == 10
    with pytest.raises(ValueError, match="expected at most 6"):
        build(from_disk(tmp_path, train_size=5, val_size=2, test_size=4), 0)


def test_one_split_can_serve_for_all(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", rows("train", 12))
    task = build(from_disk(tmp_path, test_split="train", train_size=6, val_size=3, test_size=3), 0)
    assert len({e.id for e in (*task.trainset, *task.valset, *task.testset)}) == 12
    untested = build(from_disk(tmp_path, train_size=9, val_size=3, test_size=0), 0)
    assert not untested.testset


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (
            {"question": "How many?", "answer": "#### none"},
            r"row \d of split .*has no number behind",
        ),
        ({"question": "How many?", "answer": None}, r"row \d of split 'train' .*has no answer"),
        ({"question": " ", "answer": "1"}, "has no question"),
    ],
)
def test_rows_that_make_no_problem_are_named(tmp_path: Path, row: Any, words: str) -> None:
    write_jsonl(tmp_path / "train.jsonl", [row, row])
    with pytest.raises(ValueError, match=words):
        build(from_disk(tmp_path, train_size=2, val_size=1, test_size=0), 0)


def test_an_answer_of_gsm8k_is_read() -> None:
    problem = read_row(
        "How many in all?",
        "In May she sold 48/2 = <<48/2=24>>24 clips.\nIn all 48+24 = <<48+24=72>>72.\n#### 1,072",
    )
    assert problem.answer == "1072"
    assert problem.results == ("24", "72")
    assert problem.solution == "In May she sold 48/2 = 24 clips.\nIn all 48+24 = 72."


def test_an_answer_may_be_the_number_alone() -> None:
    problem = read_row("How many?", "17.0")
    assert (problem.answer, problem.results, problem.solution) == ("17", (), "")
    gold = dspy.Example(
        question=problem.question, answer="17", solution="", results=[]
    ).with_inputs("question")
    text = metric(gold, dspy.Prediction(answer="20")).feedback
    assert text.endswith("too large by 3: check which operations the question calls for.")


def test_feedback_on_a_dataset_shows_its_solution(folder: Path) -> None:
    task = build(from_disk(folder), 0)
    e = next(e for e in task.trainset if e.answer == "36")
    text = metric(e, dspy.Prediction(answer="18")).feedback
    assert "intermediate result, that of step 1 of 2" in text
    assert text.endswith("Worked solution:\nAdd them: 9 + 9 = 18.\nTwice that is 36.")

"""Word problems from a dataset in the Hugging Face cache or in a folder; the network is not used.

A dataset is fetched once, by the command that the error message names; a run then never waits for
the network, nor finds other data than yesterday.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from programs.math_word.reading import read_number, write
from programs.math_word.working import WordProblem

_ANNOTATION = re.compile(r"<<[^<>]*=([^<>]*)>>")

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Source:
    """Where problems come from.

    Attributes:
        dataset: name on the Hugging Face Hub, or a folder with data files.
        config: its configuration; empty: the only one, or its default.
        train_split, test_split: names of its splits; they may be the same one.
        question_field, answer_field: columns; an answer may end in ``#### 42`` (GSM8K).
    """

    dataset: str
    config: str
    train_split: str
    test_split: str
    question_field: str
    answer_field: str


def draw_splits(
    source: Source, sizes: tuple[int, int, int], rng: Random
) -> tuple[list[WordProblem], list[WordProblem], list[WordProblem]]:
    """Training, validation and test problems, no question twice.

    The first two come from the training split. The test problems are drawn first, so that they
    stay the same whatever the sizes of the others.

    Raises:
        ValueError: the dataset is not there, has other splits or columns, an answer has no
            number, or there are fewer problems than asked for.
    """
    train_size, val_size, test_size = sizes
    names = {"train_split": source.train_split}
    if test_size:
        names["test_split"] = source.test_split
    rows = _load(source, names)
    seen: set[str] = set()
    test = _take(source, source.test_split, rows, test_size, rng, seen)
    rest = _take(source, source.train_split, rows, train_size + val_size, rng, seen)
    return rest[:train_size], rest[train_size:], test


def read_row(question: str, answer: str) -> WordProblem:
    """A problem from a question and an answer such as ``"2 + 2 = <<2+2=4>>4\\n#### 4"``.

    The number is the last one behind the last ``####``; what stands before it is the solution,
    whose calculator annotations are taken out: they give the results of the steps. Without
    ``####`` it is the last number of the answer, and there is no solution.

    Raises:
        ValueError: there is no number.
    """
    worked, _, final = answer.rpartition("####")
    number = read_number(final)
    if number is None:
        raise ValueError(f"the answer {answer!r:.80} has no number behind the last '####'")
    results = [read_number(found[1]) for found in _ANNOTATION.finditer(worked)]
    return WordProblem(
        question=question,
        solution=_ANNOTATION.sub("", worked).strip(),
        results=tuple(write(result) for result in results if result is not None),
        answer=write(number),
    )


def _take(
    source: Source,
    split: str,
    rows: Mapping[str, Rows],
    number: int,
    rng: Random,
    seen: set[str],
) -> list[WordProblem]:
    """Draw problems whose questions are new, and add their questions to ``seen``."""
    if number == 0:
        return []
    order = list(range(len(rows[split])))
    rng.shuffle(order)
    problems: list[WordProblem] = []
    for index in order:
        if len(problems) == number:
            break
        problem = _problem(source, split, index, rows[split][index])
        key = " ".join(problem.question.casefold().split())
        if key not in seen:
            seen.add(key)
            problems.append(problem)
    if len(problems) < number:
        raise ValueError(
            f"sizes: got {number} examples of split {split!r} of {source.dataset!r}, expected at "
            f"most {len(problems)}, the different questions that are left there; ask for fewer"
        )
    return problems


def _problem(source: Source, split: str, index: int, row: Mapping[str, Any]) -> WordProblem:
    where = f"row {index} of split {split!r} of {source.dataset!r}"
    texts: list[str] = []
    fields = {"question_field": source.question_field, "answer_field": source.answer_field}
    for key, field in fields.items():
        if field not in row:
            raise ValueError(
                f"{key}: got {field!r}, expected one of {', '.join(map(repr, row))}, the columns "
                f"of {source.dataset!r}; name one of them"
            )
        if row[field] is None or not str(row[field]).strip():
            raise ValueError(f"{where} has no {field}; mend the data, or use another split")
        texts.append(str(row[field]).strip())
    try:
        return read_row(*texts)
    except ValueError as error:
        raise ValueError(f"{where}: {error}; mend the data, or name another answer_field") from None


def _load(source: Source, names: Mapping[str, str]) -> dict[str, Rows]:
    """All rows of the splits that options name, from files on this machine only."""
    import datasets  # it takes a second to import

    folder, remedy = _folder(source.dataset)
    with _readable(source.dataset, remedy):
        configs = datasets.get_dataset_config_names(folder)
    if source.config or len(configs) > 1:
        _check("dataset_config", source.config, configs, source)
    with _readable(source.dataset, remedy):
        # Streamed, the files are read where they lie, without a second copy in the cache.
        found: Any = datasets.load_dataset(folder, source.config or None, streaming=True)
    for key, name in names.items():
        _check(key, name, list(found), source)
    with _readable(source.dataset, remedy):
        return {name: list(found[name]) for name in sorted(set(names.values()))}


def _check(key: str, got: str, choices: Sequence[str], source: Source) -> None:
    if got not in choices:
        raise ValueError(
            f"{key}: got {got!r}, expected one of {', '.join(map(repr, choices))}, which "
            f"{source.dataset!r} has; name one of them"
        )


@contextmanager
def _readable(dataset: str, remedy: str) -> Generator[None]:
    """Turns whatever files that are absent or broken lead to into one line."""
    try:
        yield
    except (FileNotFoundError, StopIteration) as error:  # the latter: a configuration's files
        raise ValueError(f"dataset: files of {dataset!r} are missing; {remedy}") from error
    except ValueError as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"dataset: {dataset!r} cannot be read: {reason}; {remedy}") from error


def _folder(dataset: str) -> tuple[str, str]:
    """Where a dataset lies, and what to do if its files cannot be read.

    Raises:
        ValueError: it lies nowhere on this machine.
    """
    path = Path(dataset).expanduser()
    if path.is_dir() or dataset.startswith((".", "/", "~")) or dataset.count("/") > 1:
        remedy = (
            "give a folder with train.jsonl and test.jsonl (or .parquet, .csv), or a name such "
            "as 'openai/gsm8k'"
        )
        if not path.is_dir():
            raise ValueError(f"dataset: there is no folder {dataset!r}; {remedy}")
        return str(path.resolve()), remedy
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    remedy = f"fetch it with: hf download --repo-type dataset {dataset}"
    try:
        return snapshot_download(dataset, repo_type="dataset", local_files_only=True), remedy
    except LocalEntryNotFoundError as error:
        raise ValueError(
            f"dataset: {dataset!r} is not in the Hugging Face cache, and runs do not download; "
            f"{remedy}"
        ) from error
    except HFValidationError as error:
        raise ValueError(f"dataset: {error} Give a name such as 'openai/gsm8k'.") from error

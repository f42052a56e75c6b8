"""What is read back from a log: the same requests cost nothing, the first other one cuts it off."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fst_agents.errors import ReflectionError
from fst_agents.json_files import append_lines, read_lines
from fst_agents.replay import LogReplay
from optimizers.reflection import RecordedReflection, StandInReflection

requests = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=3), max_size=5)


def ask(file: Path, asked: Sequence[list[int]], mark: int) -> list[list[int]]:
    """Ask for values the way a run does; returns the requests that had to be paid for."""
    replay, paid = LogReplay(file, mark), list[list[int]]()
    for values in asked:
        if replay.take(len(values), lambda found, v=values: found == v) is None:
            paid.append(values)
            append_lines(file, values)
    replay.cut()
    return paid


@given(
    before=requests, after=requests, head=st.lists(st.integers(), max_size=3), torn=st.booleans()
)
def test_the_file_is_in_the_end_what_was_asked_for(
    tmp_path_factory: pytest.TempPathFactory,
    before: list[list[int]],
    after: list[list[int]],
    head: list[int],
    torn: bool,
) -> None:
    file = tmp_path_factory.mktemp("log") / "log.jsonl"
    append_lines(file, head)
    mark = file.stat().st_size
    append_lines(file, [value for values in before for value in values])
    if torn:
        with file.open("ab") as stream:
            stream.write(b'{"half')
    paid = ask(file, after, mark)
    assert list(read_lines(file)) == head + [value for values in after for value in values]
    assert file.read_bytes().endswith(b"\n") or not file.stat().st_size
    # Nothing is paid that stood there: the paid requests are the last ones.
    assert paid == after[len(after) - len(paid) :]
    flat = [value for values in before for value in values]
    known = [value for values in after[: len(after) - len(paid)] for value in values]
    assert flat[: len(known)] == known
    if paid:
        assert flat[len(known) : len(known) + len(paid[0])] != paid[0]


def test_a_broken_line_ends_what_can_be_read_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "log.jsonl"
    file.write_text("1\nnonsense\n3\n")
    replay = LogReplay(file)
    assert replay.take(1, lambda found: True) == [1]
    with caplog.at_level(logging.WARNING):
        assert replay.take(2, lambda found: True) is None
    assert "byte 2 is no JSON" in caplog.text
    assert file.read_text() == "1\n"


def test_without_a_file_nothing_is_read_back(tmp_path: Path) -> None:
    replay = LogReplay(tmp_path / "absent")
    assert replay.take(1, lambda found: True) is None
    replay.cut()


PROMPT = "Improve:\n```\nAnswer.\n```"


def test_recorded_answers_are_not_asked_for_again(tmp_path: Path) -> None:
    file, inner = tmp_path / "reflections.jsonl", StandInReflection()
    recorded = RecordedReflection(inner, file, source=inner)
    answers = [recorded(PROMPT) for _ in range(3)]
    again = RecordedReflection(lambda prompt: pytest.fail("asked"), file)
    assert [again(PROMPT) for _ in range(3)] == answers
    assert len(set(answers)) == 3


def test_a_resumed_reflection_goes_on_counting(tmp_path: Path) -> None:
    """Two answers before the mark, one behind it that is read back, then new ones."""
    file, inner = tmp_path / "reflections.jsonl", StandInReflection()
    first = RecordedReflection(inner, file, source=inner)
    for _ in range(2):
        first(PROMPT)
    mark = first.mark()
    third = first(PROMPT)
    fresh = StandInReflection()
    second = RecordedReflection(fresh, file, mark, source=fresh)
    assert second(PROMPT) == third
    assert "(Attempt 4.)" in second(PROMPT)
    assert len(list(read_lines(file))) == 4


def test_what_the_mark_passes_over_is_gone(tmp_path: Path) -> None:
    file, inner = tmp_path / "reflections.jsonl", StandInReflection()
    RecordedReflection(inner, file)(PROMPT)
    assert RecordedReflection(inner, file).mark() == 0
    assert file.read_text() == ""


class Shaky:
    """Answers every other time, beginning with a failure or not."""

    def __init__(self, fails: Sequence[bool]) -> None:
        self.fails = [*fails]

    def __call__(self, prompt: str) -> str:
        if self.fails.pop(0):
            raise TimeoutError("no answer")
        return "fine"


def test_a_failure_that_was_survived_is_repeated_one_that_ended_the_run_is_not(
    tmp_path: Path,
) -> None:
    file = tmp_path / "reflections.jsonl"
    first = RecordedReflection(Shaky([False, True, False, True]), file)
    assert first("a") == "fine"
    with pytest.raises(TimeoutError):
        first("b")
    assert first("c") == "fine"
    with pytest.raises(TimeoutError):
        first("d")
    again = RecordedReflection(Shaky([False]), file)
    assert again("a") == "fine"
    with pytest.raises(ReflectionError, match="TimeoutError: no answer"):
        again("b")
    assert again("c") == "fine"
    assert again("d") == "fine"  # asked anew
    assert len(list(read_lines(file))) == 4

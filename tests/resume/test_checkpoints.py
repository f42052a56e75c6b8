"""Checkpoints are whole or absent, and damage is noticed."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from fst_agents.checkpoint import CHECKSUMS, Checkpoints, damage
from fst_agents.errors import RunDirError


def content(text: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "trainer").mkdir()
        (folder / "state.json").write_text(text)
        (folder / "trainer" / "weights.bin").write_bytes(b"\x00" * 64)

    return write


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "c", keep=2)
    for number in (1, 2, 10):
        checkpoints.save(number, content(str(number)))
    assert names(tmp_path / "c") == ["000002", "000010"]
    place, faults = checkpoints.newest()
    assert ((place / "state.json").read_text(), faults) == ("10", [])


def test_a_number_is_replaced_and_later_ones_can_be_dropped(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=3)
    for number, text in ((1, "a"), (2, "b"), (1, "again")):
        checkpoints.save(number, content(text))
    assert (tmp_path / "000001" / "state.json").read_text() == "again"
    checkpoints.drop_after(tmp_path / "000001")
    assert names(tmp_path) == ["000001"]


@pytest.mark.parametrize(
    ("number", "words"), [(errno.ENOSPC, "No space left"), (errno.EIO, "Input/output error")]
)
def test_a_full_disk_leaves_the_one_before(tmp_path: Path, number: int, words: str) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, content("good"))

    def full(folder: Path) -> None:
        content("bad")(folder)
        raise OSError(number, words)

    with pytest.raises(RunDirError, match=words):
        checkpoints.save(2, full)
    assert names(tmp_path) == ["000001"]
    assert (checkpoints.newest()[0] / "state.json").read_text() == "good"


def test_a_writer_that_is_stopped_leaves_nothing(tmp_path: Path) -> None:
    def stopped(folder: Path) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Checkpoints(tmp_path).save(1, stopped)
    assert names(tmp_path) == []


def test_a_draft_of_a_killed_writer_is_no_checkpoint(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, content("good"))
    (tmp_path / ".000002.tmp").mkdir()
    assert checkpoints.newest()[0].name == "000001"
    checkpoints.save(2, content("next"))
    assert names(tmp_path) == ["000001", "000002"]


def flip(place: Path) -> None:
    file = place / "trainer" / "weights.bin"
    data = bytearray(file.read_bytes())
    data[40] ^= 1
    file.write_bytes(data)


def cut(place: Path) -> None:
    file = place / "trainer" / "weights.bin"
    file.write_bytes(file.read_bytes()[:10])


def lose(place: Path) -> None:
    (place / "state.json").unlink()


def add(place: Path) -> None:
    (place / "stranger.bin").write_bytes(b"")


def unseal(place: Path) -> None:
    (place / CHECKSUMS).write_text("[1")


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (flip, "trainer/weights.bin: truncated or changed"),
        (cut, "trainer/weights.bin: truncated or changed"),
        (lose, "state.json: missing"),
        (add, "stranger.bin: not part of it"),
        (unseal, "cannot be read"),
    ],
)
def test_a_damaged_checkpoint_is_passed_over_and_named(
    tmp_path: Path, harm: Callable[[Path], None], words: str
) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, content("good"))
    damaged = checkpoints.save(2, content("bad"))
    assert damage(damaged) is None
    harm(damaged)
    place, [fault] = checkpoints.newest()
    assert place.name == "000001"
    assert str(damaged) in fault
    assert words in fault
    harm(place)
    with pytest.raises(RunDirError, match="no checkpoint to continue from"):
        checkpoints.newest()


def test_without_any_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(RunDirError, match="holds none"):
        Checkpoints(tmp_path / "absent").newest()

"""Faults of the disk, and of what lies on it."""

# pyright: reportMissingImports=false

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from faults import Drive, Fault, Seen, Workshop
from loop_world import (
    CONFIG,
    cast,
    drive,
    same_end,
    whole,
)
from stops import Fuse, Run, attempt, finish

from fst_agents.checkpoint import Checkpoints
from fst_agents.errors import (
    RunDirError,
)


def killed(path: Path) -> Run:
    """A run that dies in its last cycle, with two checkpoints."""
    first = attempt(path, CONFIG, Fuse(200), cast())
    assert not finish(first)
    assert len(list((path / "checkpoints").glob("[0-9]*"))) == 2
    return first


def newest(path: Path) -> Path:
    return max((path / "checkpoints").glob("[0-9]*"))


def flip(place: Path) -> None:
    file = place / "state.json"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def truncate(place: Path) -> None:
    file = place / "policy" / "weights.txt"
    whole_text = file.read_bytes()
    file.unlink()  # linked to the policy's own folder, which stays whole
    file.write_bytes(whole_text[:10])


def damaged(harm: Callable[[Path], None]) -> Drive:
    def check(workshop: Workshop) -> Seen:
        path = workshop.folder / "run"
        first = killed(path)
        harm(newest(path))
        second = attempt(path, CONFIG, Fuse(), cast())
        assert second.resumed is not None
        [fault] = second.resumed.faults
        assert "truncated or changed" in fault
        assert drive(second) is None
        # MLflow had the step that is run again: its points are there twice, and that is said.
        lost = same_end(whole(workshop.shared), [first, second], but="tracked", most=16)
        return Seen("named and passed over; went on from the one before to the same end", lost)

    return check


def all_damaged(workshop: Workshop) -> Seen:
    path = workshop.folder / "run"
    killed(path)
    for place in (path / "checkpoints").glob("[0-9]*"):
        flip(place)
    with pytest.raises(RunDirError, match="no checkpoint to continue from") as caught:
        attempt(path, CONFIG, Fuse(), cast())
    return Seen(
        f"refused, {type(caught.value).__name__}: no checkpoint to continue from", "the run"
    )


@contextlib.contextmanager
def small_disk(place: Path, size: str) -> Generator[None]:
    """A file system of its own; needs root."""
    place.mkdir()
    if not _mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)):
        pytest.skip("a small disk needs the right to mount one")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def _mount(*arguments: str) -> bool:
    tool = shutil.which("mount")
    return (
        tool is not None and not subprocess.run([tool, *arguments], capture_output=True).returncode
    )


def disk_full(workshop: Workshop) -> Seen:
    reference, disk = whole(workshop.shared), workshop.folder / "disk"
    with small_disk(disk, "300k"):
        first = attempt(disk / "run", CONFIG, Fuse(), cast())
        error = drive(first)
        assert isinstance(error, RunDirError), error
        assert "No space left on device" in str(error)
        Checkpoints(disk / "run" / "checkpoints").newest()  # intact
        assert _mount("-o", "remount,size=20m", str(disk))
        second = attempt(disk / "run", CONFIG, Fuse(), cast())
        assert drive(second) is None
        lost = same_end(reference, [first, second])
    return Seen(
        "stopped, RunDirError: could not be written; with room, --resume to the same end", lost
    )


DISK = [
    Fault("disk full", "a file system of 300 kB under the run directory", disk_full),
    Fault("checkpoint bit-flipped", "state.json of the newest", damaged(flip)),
    Fault("checkpoint truncated", "the weights of the newest", damaged(truncate)),
    Fault("checkpoints bit-flipped", "all of them", all_damaged),
]

"""Checkpoints: folders that are there whole or not at all, and that know when they are damaged.

A checkpoint is written beside the others under a hidden name, flushed to the disk file by file,
and renamed. Whatever stops the writer, be it a full disk or SIGKILL, the previous one stays. Each
holds ``checksums.json`` with the SHA-256 of every other file in it. JSON and safetensors only.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from fst_agents.errors import RunDirError
from fst_agents.json_files import read_json, write_json

CHECKSUMS = "checksums.json"


class Checkpoints:
    """The checkpoints of one run, by increasing number; the newest ``keep`` are kept."""

    def __init__(self, folder: Path, keep: int = 2) -> None:
        if keep < 1:
            raise ValueError(f"keep must be at least 1, got {keep}")
        self.folder = folder
        self._keep = keep

    def save(self, number: int, write: Callable[[Path], None]) -> Path:
        """Let ``write`` fill a new folder, seal it, and drop the oldest.

        A checkpoint of that number is replaced. Leaves everything as it was if ``write`` raises.

        Raises:
            RunDirError: the files cannot be written (a full disk, most often).
        """
        place = self.folder / f"{number:06d}"
        draft = self.folder / f".{number:06d}.tmp"
        try:
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)
            write(draft)
            write_json(draft / CHECKSUMS, {name: _digest(draft / name) for name in _files(draft)})
            for path in [*(draft / name for name in _files(draft)), draft]:
                _flush(path)
            if place.exists():  # a stop between two renames, or a run that was rewound
                shutil.rmtree(place)
            draft.rename(place)
            _flush(self.folder)
        except OSError as error:
            raise RunDirError(
                f"{place}: the checkpoint could not be written ({error}); the one before is "
                "intact. Make room and continue with 'fst train --resume'"
            ) from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        for old in self._places()[: -self._keep]:
            shutil.rmtree(old)
        return place

    def newest(self) -> tuple[Path, list[str]]:
        """The newest intact checkpoint, and what is wrong with newer ones, a line each.

        Raises:
            RunDirError: there is none.
        """
        faults: list[str] = []
        for place in reversed(self._places()):
            fault = damage(place)
            if fault is None:
                return place, faults
            faults.append(f"{place}: {fault}")
        lost = "; ".join(faults) if faults else f"{self.folder} holds none"
        raise RunDirError(f"no checkpoint to continue from: {lost}")

    def drop_after(self, place: Path) -> None:
        """Remove what is newer than a checkpoint that is continued from."""
        for other in self._places():
            if other.name > place.name:
                shutil.rmtree(other)

    def _places(self) -> list[Path]:
        return sorted(self.folder.glob("[0-9]*"))


def damage(place: Path) -> str | None:
    """What is wrong with a checkpoint's files, ``None`` if they are what was written."""
    try:
        wanted = read_json(place / CHECKSUMS)
        found = set(_files(place)) - {CHECKSUMS}
        if not isinstance(wanted, dict) or not all(isinstance(d, str) for d in wanted.values()):
            return f"{CHECKSUMS} is not what was written"
        if missing := sorted(set(wanted) - found):
            return f"{', '.join(missing)}: missing"
        if strangers := sorted(found - set(wanted)):
            return f"{', '.join(strangers)}: not part of it"
        changed = sorted(name for name, digest in wanted.items() if _digest(place / name) != digest)
    except (OSError, RunDirError) as error:
        return str(error)
    return f"{', '.join(changed)}: truncated or changed" if changed else None


def _files(folder: Path) -> Iterator[str]:
    """Relative names of all files, in order."""
    return (
        str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if not path.is_dir()
    )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    """Wait until a file, or a folder's list of names, has reached the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

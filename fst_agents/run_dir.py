"""The run directory: all that a run leaves behind, append-only and readable without us.

====================================  ==========================================================
``run.toml``                          the resolved run file, secrets blotted out
``state.json``                        where the run stands, replaced atomically
``metrics.jsonl``                     one line per slow step, fast phase and evaluation
``rollouts/step-NNNNN.jsonl``         every rollout with its token ids and log-probabilities
``reflections.jsonl``                 every answer of the reflection model, by its prompt's hash
``checkpoints/NNNNNN/``               what a stopped run goes on from: state, trainer, policy
``population/cycle-NNN.json``         Φ as each fast phase left it
``policy/vNNNNN/``                    what a host needs to serve one version of θ
``result/``, ``result.json``          what ships, and what was reached; marks a finished run
====================================  ==========================================================

JSON, TOML and safetensors only; nothing is pickled. Numbers JSON lacks are the strings "NaN",
"Infinity" and "-Infinity"; other Python objects in a prediction are written as their text.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

import tomlkit
from filelock import FileLock, Timeout
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError

from fst_agents.config import RunConfig
from fst_agents.errors import RunDirError
from fst_agents.json_files import append_lines, dumps, read_json, read_lines, to_json, write_json
from fst_agents.redaction import public_config
from fst_agents.run_file import load
from fst_agents.types import Population, Rollout, RunState

Phase = Literal["slow", "fast", "eval"]
Noun = TypeVar("Noun")

LOCK, DRAFT = "run.lock", ".run.toml.tmp"
"""Files that do not yet make a folder a run directory."""

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
"""What the system says of a disk that is full, read-only or broken, or of a limit on files."""


def from_json(noun: type[Noun], data: Any) -> Noun:
    """The noun that :func:`to_json` wrote.

    Raises:
        RunDirError: ``data`` is not what such a noun is written as.
    """
    try:
        return _adapter(noun).validate_python(data)
    except ValidationError as error:
        raise RunDirError(f"not a {noun.__name__} as this version writes it: {error}") from error


def as_written(rollout: Rollout) -> Rollout:
    """The rollout as it is read back: other Python objects than data are their text."""
    return from_json(Rollout, json.loads(dumps(rollout)))


@cache
def _adapter(noun: type[Noun]) -> TypeAdapter[Noun]:
    return TypeAdapter(noun)


def population_record(
    cycle: int, population: Population, record: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What is written of Φ after a fast phase: the noun itself, ids, means and the champion.

    :func:`from_json` reads it back as a :class:`Population`. ``record`` is what else the phase
    has to say of itself.
    """
    data = to_json(population)
    for entry, candidate in zip(data["candidates"], population.candidates, strict=True):
        entry |= {"id": candidate.id, "mean": population.mean(candidate.id)}
    head = {"cycle": cycle, "champion": population.best.id}
    return to_json({**head, **data, "record": {} if record is None else dict(record)})


def default_name(config: RunConfig, parent: Path = Path("runs")) -> Path:
    """A folder that does not exist yet: ``runs/<UTC time>-<arm>-<task>-seed<N>``."""
    task = re.sub(r"[^\w.-]+", "_", config.task.name)
    time = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    base = parent / f"{time}-{config.arm}-{task}-seed{config.seed}"
    names = (base if i == 1 else base.with_name(f"{base.name}-{i}") for i in range(1, 10_000))
    return next(name for name in names if not name.exists())


class RunDir:
    """One run directory. Made by :meth:`create` for a new run, by :meth:`open` to read one."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path, config: RunConfig) -> RunDir:
        """Take a new or empty folder for a run and write ``run.toml``.

        Raises:
            RunDirError: see :meth:`refuse_unusable`.
        """
        run = cls(path)
        run.refuse_unusable()
        try:
            path.mkdir(parents=True, exist_ok=True)
            with run.lock():
                run.refuse_occupied()
                # Whole or not at all: a part of it would be another configuration.
                with (path / DRAFT).open("w", encoding="utf-8") as file:
                    file.write(tomlkit.dumps(_without_none(public_config(config))))
                    file.flush()
                    os.fsync(file.fileno())
                (path / DRAFT).replace(path / "run.toml")
        except OSError as error:
            raise _unusable(path, error) from error
        return run

    @classmethod
    def open(cls, path: Path) -> RunDir:
        """An existing run directory, finished or not.

        Raises:
            RunDirError: there is no ``run.toml``.
        """
        if not os.path.isfile(path / "run.toml"):  # Path.is_file fails on a name that is too long
            raise RunDirError(f"{path}: no run directory (it has no run.toml)")
        return cls(path)

    @contextmanager
    def lock(self) -> Generator[None]:
        """Keep every other writer out; the lock of a process that has died holds nobody back.

        Raises:
            RunDirError: somebody else is writing.
        """
        lock = FileLock(self.path / LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise RunDirError(
                f"{self.path}: another process is writing this run; wait until it ends, or stop it"
            ) from None
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def writing(self) -> Generator[None]:
        """While a run is written: a disk that is full or broken is a :class:`RunDirError`.

        A ``SafetensorError`` that comes this far is one of saving; whatever loads a model turns its
        own into an error about the file.
        """
        try:
            yield
        except (OSError, SafetensorError) as error:
            copying = isinstance(error, shutil.Error)  # many files at once; has no number
            if isinstance(error, OSError) and error.errno not in DISK and not copying:
                raise
            raise RunDirError(
                f"{self.path}: could not be written ({error}); the last checkpoint is intact. Make "
                f"room and continue with 'fst train --resume {self.path}'"
            ) from error

    @property
    def finished(self) -> bool:
        return (self.path / "result.json").exists()

    @property
    def has_state(self) -> bool:
        return (self.path / "state.json").exists()

    @property
    def result_folder(self) -> Path:
        """``result/``: what ships. Made on first use."""
        return _folder(self.path / "result")

    @property
    def tracking_spool(self) -> Path:
        """Where the tracker keeps what it still has to deliver."""
        return self.path / "tracking.jsonl"

    @property
    def metrics_log(self) -> Path:
        """``metrics.jsonl``."""
        return self.path / "metrics.jsonl"

    @property
    def reflections_log(self) -> Path:
        """``reflections.jsonl``."""
        return self.path / "reflections.jsonl"

    @property
    def checkpoint_folder(self) -> Path:
        """``checkpoints/``, for :class:`fst_agents.checkpoint.Checkpoints`."""
        return self.path / "checkpoints"

    def rollout_file(self, where: int | str) -> Path:
        """``rollouts/step-NNNNN.jsonl`` of a step, or ``rollouts/<where>.jsonl``."""
        name = f"step-{where:05d}" if isinstance(where, int) else where
        return self.path / "rollouts" / f"{name}.jsonl"

    def population_file(self, cycle: int) -> Path:
        """``population/cycle-NNN.json``."""
        return self.path / "population" / f"cycle-{cycle:03d}.json"

    def config(self) -> RunConfig:
        """The resolved run file. Secrets are lost; they are never written."""
        return load(self.path / "run.toml")

    # Policies

    def policy_folder(self, version: int) -> Path:
        """``policy/vNNNNN``, not made yet: the trainer publishes into a new folder."""
        return _folder(self.path / "policy") / f"v{version:05d}"

    def prune_policies(self, keep: int = 3) -> list[Path]:
        """Remove all but the newest ``keep`` versions and the one ``state.json`` names.

        A host may still read the version before the one it serves, hence at least two.
        """
        if keep < 2:
            raise ValueError(f"keep must be at least 2, got {keep}")
        versions = sorted((self.path / "policy").glob("v[0-9]*"))
        named = self.policy_folder(self.state().policy.version) if self.has_state else None
        gone = [folder for folder in versions[:-keep] if folder != named]
        for folder in gone:
            shutil.rmtree(folder)
        return gone

    # Writing

    def add_metrics(
        self,
        step: int,
        phase: Phase,
        metrics: Mapping[str, float],
        *,
        rollouts: int,
        seconds: float,
    ) -> None:
        """One line of ``metrics.jsonl``. ``rollouts`` and ``seconds`` are totals of the run."""
        line = {"step": step, "phase": phase, "rollouts": rollouts, "seconds": seconds}
        append_lines(self.metrics_log, [{**line, "metrics": dict(metrics)}])

    def add_rollouts(self, where: int | str, rollouts: Iterable[Rollout]) -> Path:
        """Append to :meth:`rollout_file`."""
        file = self.rollout_file(where)
        _folder(file.parent)
        append_lines(file, rollouts)
        return file

    def write_population(
        self, cycle: int, population: Population, record: Mapping[str, Any] | None = None
    ) -> Path:
        """``population/cycle-NNN.json``: see :func:`population_record`."""
        file = self.population_file(cycle)
        _folder(file.parent)
        write_json(file, population_record(cycle, population, record))
        return file

    def write_state(self, state: RunState) -> None:
        """Replace ``state.json`` atomically."""
        write_json(self.path / "state.json", state)

    def finish(self, result: Mapping[str, Any]) -> None:
        """Write ``result.json``; from now on the directory is never written for a run again.

        Raises:
            RunDirError: the run had finished before.
        """
        if self.finished:
            raise RunDirError(f"{self.path}: holds a finished run already; nothing was written")
        write_json(self.path / "result.json", dict(result))

    # Reading

    def state(self) -> RunState:
        return from_json(RunState, read_json(self.path / "state.json"))

    def result(self) -> dict[str, Any]:
        return read_json(self.path / "result.json")

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of ``metrics.jsonl``; empty where nothing was measured yet."""
        return list(read_lines(self.metrics_log))

    def populations(self) -> list[dict[str, Any]]:
        """The records of :func:`population_record`, oldest cycle first."""
        return [read_json(file) for file in sorted((self.path / "population").glob("cycle-*.json"))]

    def rollout_files(self) -> list[Path]:
        return sorted((self.path / "rollouts").glob("*.jsonl"))

    def rollouts(self, file: Path) -> Iterator[Rollout]:
        """The rollouts of one of :meth:`rollout_files`, one at a time."""
        return (from_json(Rollout, line) for line in read_lines(file))

    def refuse_finished(self) -> None:
        """Raise :class:`RunDirError` where there is nothing left to do."""
        if self.finished:
            raise RunDirError(f"{self.path}: the run has finished; nothing to resume")

    def refuse_unusable(self) -> None:
        """Raise :class:`RunDirError` where no run can begin. Writes nothing.

        The folder holds a run, finished or not, or anything else; or it could not be made or
        written.
        """
        try:
            self.refuse_occupied()
            place = next(p for p in (self.path, *self.path.absolute().parents) if p.exists())
            if not place.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(place))
            if not os.access(place, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(place))
        except (OSError, ValueError) as error:  # a name with a null character is a ValueError
            raise _unusable(self.path, error) from error

    def refuse_occupied(self) -> None:
        """Raise :class:`RunDirError` unless the folder is absent or empty."""
        if not self.path.exists():
            return
        if not self.path.is_dir():
            what = "is no folder"
        elif self.finished:
            what = "holds a finished run, which is never overwritten"
        elif (self.path / "run.toml").exists():
            what = "holds an unfinished run ('fst train --resume' goes on with it)"
        elif any(entry.name not in (LOCK, DRAFT) for entry in self.path.iterdir()):
            what = "is not empty and is no run directory"
        else:
            return
        raise RunDirError(f"{self.path}: {what}; choose another run_dir or move it away")


def _unusable(path: Path, error: Exception) -> RunDirError:
    return RunDirError(
        f"{path}: cannot be used as a run directory ({error}); choose another run_dir"
    )


def _folder(path: Path) -> Path:
    path.mkdir(exist_ok=True)
    return path


def _without_none(value: Any) -> Any:
    """TOML has no null: an absent key means the default, which is null for these."""
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_none(item) for item in value]
    return value

"""Reading a run file: everything that is wrong with it, at once.

A run file is TOML. Unknown keys are errors, and a value given on the command line
(``--set slow.learning_rate=3e-4``) wins over the file.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from fst_agents.config import RunConfig
from fst_agents.errors import ConfigError
from fst_agents.plain_values import dotted, plain


def read(path: Path) -> dict[str, Any]:
    """The raw content of a run file.

    Raises:
        ConfigError: no such file, or no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such run file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not readable as TOML: {error}") from error


def merge(
    data: Mapping[str, Any], options: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """A run file's content with options of the command line on top; ``None`` is not given."""
    merged: dict[str, Any] = dict(data)
    for section, values in options.items():
        given = {key: value for key, value in values.items() if value is not None}
        before = merged.get(section, {})
        if given and isinstance(before, Mapping):
            merged[section] = {**before, **given}
    return merged


def overridden(overrides: Sequence[str]) -> set[str]:
    """The keys that ``key=value`` overrides set, as ``section.key``, however they are written."""
    data: dict[str, Any] = {}
    for text in overrides:
        _override(data, text)

    def keys(node: Mapping[str, Any], path: str = "") -> Iterator[str]:
        for name, value in node.items():
            yield f"{path}{name}"
            if isinstance(value, Mapping):
                yield from keys(value, f"{path}{name}.")

    return set(keys(data))


def load(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a run file and apply ``key=value`` overrides.

    Raises:
        ConfigError: with every problem of the file and the overrides at once.
    """
    return parse(read(path), overrides)


def parse(data: Mapping[str, Any], overrides: Sequence[str] = ()) -> RunConfig:
    """Validate a mapping as :func:`load` validates a file."""
    config, problems = examine(data, overrides)
    if problems:
        raise ConfigError(problems)
    return config


def examine(data: Mapping[str, Any], overrides: Sequence[str] = ()) -> tuple[RunConfig, list[str]]:
    """The configuration and all that is wrong with it, one line per problem.

    Where a value is wrong its default stands in, so that the rest can be examined further.
    """
    problems: list[str] = []
    merged: dict[str, Any] = plain(data, problems)
    problems += [p for text in overrides if (p := _override(merged, text))]
    merged = plain(merged, problems)
    try:
        config = _validate(RunConfig, merged)
    except ValidationError as error:
        faults = _faults(merged, error)
        problems += [_line(place, own) for place, own in faults.items()]
        for place in faults:
            _remove(merged, place)
        config = _validate(RunConfig, merged)
    return config, problems + conflicts(config) + _task_conflicts(config)


_M = TypeVar("_M", bound=BaseModel)


def read_options(model: type[_M], data: Mapping[str, Any], section: str) -> _M:
    """Validate the keys that a task adds to a section, as the rest of the file is validated.

    Raises:
        ConfigError: every key that is unknown or wrong, one line each.
    """
    try:
        return _validate(model, data)
    except ValidationError as error:
        faults = _faults(data, error)
        lines = [_line((section, *place), own) for place, own in faults.items()]
        raise ConfigError(lines) from error


def _validate(model: type[_M], data: Mapping[str, Any]) -> _M:
    """Strictly: "8" is no number and 1 is not true. JSON's lists are tuples, its strings paths."""
    return model.model_validate_json(json.dumps(data), strict=True)


def _faults(data: Mapping[str, Any], error: ValidationError) -> dict[tuple[str, ...], list[Any]]:
    """pydantic's errors by the key that each is about."""
    faults: dict[tuple[str, ...], list[Any]] = {}
    for fault in error.errors():
        faults.setdefault(_place(data, fault["loc"]), []).append(fault)
    return faults


def least_fast_rollouts(config: RunConfig) -> int:
    """What a fast phase costs at least: K members and one proposal, on the whole anchor set."""
    return (config.fast.population + 1) * config.slow.batch_size * config.slow.steps_per_cycle


def conflicts(config: RunConfig) -> list[str]:
    """What is wrong between the keys of the method, each of them right by itself."""
    fast, slow, problems = config.fast, config.slow, list[str]()
    if slow.group_size % fast.population:
        divisors = [k for k in range(1, slow.group_size + 1) if slow.group_size % k == 0]
        problems.append(
            f"fast.population: K must divide slow.group_size (G); got K = {fast.population}, "
            f"G = {slow.group_size}; use K in {divisors}"
        )
    if config.arm == "rl" and config.distill.steps:
        problems.append(
            f"distill.steps: got {config.distill.steps}, but the rl arm has no instruction to fold "
            "into its weights; leave it out, or choose another arm"
        )
    if config.arm == "distill" and config.distill.steps == 0:
        problems.append("distill.steps: got 0, but the distill arm is that stage; give at least 1")
    if config.serve.url is not None and config.serve.host == "local":
        problems.append(
            "serve.url: names a server to sample, but serve.host = 'local' asks for sampling in "
            "this process; leave one of them out"
        )
    least = least_fast_rollouts(config)
    if config.arm != "rl" and fast.rollouts < least:
        problems.append(
            f"fast.rollouts: got {fast.rollouts}, but scoring K = {fast.population} members and "
            f"one proposal on the anchor set of {slow.batch_size * slow.steps_per_cycle} problems "
            f"costs {least}; raise it, or lower fast.population, slow.batch_size or "
            "slow.steps_per_cycle"
        )
    return problems


def _task_conflicts(config: RunConfig) -> list[str]:
    task, found = config.task, list[str]()
    if task.train_size is not None and task.train_size < config.slow.batch_size:
        found.append(too_few(task.train_size, config.slow.batch_size))
    if task.score_range is not None and not task.score_range[0] < task.score_range[1]:
        found.append(f"task.score_range: expected [least, most], got {list(task.score_range)}")
    return found


def too_few(train_size: int, batch_size: int) -> str:
    """What is wrong where a batch is larger than the training set."""
    return (
        f"slow.batch_size: got {batch_size}, but there are {train_size} training problems "
        "(task.train_size); lower the one or raise the other"
    )


def _place(data: Mapping[str, Any], where: Sequence[int | str]) -> tuple[str, ...]:
    """The key that an error is about: as much of ``where`` as names keys of nested mappings."""
    place: list[str] = []
    node: Any = data
    for key in where:
        if not isinstance(node, dict) or key not in node:
            break
        place.append(str(key))
        node = node[key]
    return tuple(place)


def _remove(data: dict[str, Any], place: Sequence[str]) -> None:
    *parents, leaf = place
    for key in parents:
        data = data.get(key, {})
    data.pop(leaf, None)


def _override(data: dict[str, Any], text: str) -> str | None:
    """Apply one ``a.b=value`` in place; return what is wrong with it, if anything."""
    key, equals, raw = text.partition("=")
    if not equals or not key.strip():
        return f"--set {text!r:.120}: expected key=value, for example slow.learning_rate=3e-4"
    try:
        read = tomllib.loads(f"value = {raw}")
    except (ValueError, RecursionError):
        read = {}
    value = read["value"] if set(read) == {"value"} else raw
    *parents, leaf = key.strip().split(".")
    node = data
    for parent in parents:
        node = node.setdefault(parent, {})
        if not isinstance(node, dict):
            return f"--set {text!r:.120}: {parent!r:.60} is a value, not a section"
    node[leaf] = value
    return None


def _line(place: Sequence[str], faults: Sequence[Any]) -> str:
    """One line for one key: where, what was expected, got."""
    where = dotted(place)
    if faults[0]["type"] == "extra_forbidden":
        return f"{where}: unknown key; see docs/run-file.md for the keys there are"
    messages = dict.fromkeys(str(f["msg"]).removeprefix("Value error, ") for f in faults)
    return f"{where}: {', or: '.join(messages)}; got {faults[0]['input']!r:.200}"

"""A program of one's own as a task: what ``[task] program = "…"`` of a run file refers to."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import dspy

from experiments.own_code import load, running
from experiments.own_data import Fields, read_examples
from fst_agents.errors import ConfigError, ProgramError
from fst_agents.preflight import forward_parameters
from fst_agents.scoring import Metric, MetricError, Scorer
from programs.task import Task

VALIDATION_SHARE = 5
"""Where nothing else is said, one example in so many is for validation, and at least one."""

_T = TypeVar("_T")


def own_task(
    *,
    program: str,
    metric: str,
    data: Path,
    eval_metric: str | None = None,
    eval_data: Path | None = None,
    inputs: Sequence[str] | None = None,
    train_size: int | None = None,
    val_size: int | None = None,
    score_range: tuple[float, float] | None = None,
    seed: int = 0,
) -> Task:
    """The task of a program, a metric and a file of examples.

    Args:
        program: ``module:name`` or ``path/to/file.py:name`` of a ``dspy.Module``, or of a class or
            function that makes one without arguments. Where modules are looked for is said by
            :func:`experiments.own_code.load`.
        metric, eval_metric: likewise, of what :class:`~fst_agents.scoring.Scorer` takes.
        data, eval_data: JSONL (:func:`experiments.own_data.read_examples`): training and
            validation examples, or one file for both.
        inputs: the fields that the program is given. By default the parameters of its ``forward``,
            those with a default where an example has them. Needed if it takes ``**kwargs``.
        train_size, val_size: how many examples, drawn by ``seed``. The default is all of them
            where there are two files; of a single one, what the other size leaves, and where
            neither is given a fifth for validation and the rest for training.
        score_range: the least and the most that the metrics may return; ``None``: any number.

    Returns:
        The task; it has no test split.

    Raises:
        ConfigError: everything that is wrong, one line each.
    """
    faults: list[str] = []
    module = _attempt(faults, lambda: _program(program))
    score = _attempt(faults, lambda: _metric("task.metric", metric))
    judge = None
    if eval_metric is not None:
        judge = _attempt(faults, lambda: _metric("task.eval_metric", eval_metric))
    # What a faulty program takes is unknown; the files may be at fault all the same.
    fields = _attempt(faults, lambda: _fields(module, inputs)) if module is not None else None
    files = [data] if eval_data is None else [data, eval_data]
    read = _attempt(faults, lambda: read_examples(files, fields or Fields()))
    sizes = (train_size, val_size)
    splits = _attempt(faults, lambda: _split(files, read, sizes, seed)) if read else None
    if faults or module is None or score is None or splits is None:
        raise ConfigError(faults)
    trainset, valset = splits
    return Task(
        program=module,
        trainset=trainset,
        valset=valset,
        testset=(),
        metric=score,
        eval_metric=judge,
        score_range=score_range,
    )


def _attempt(faults: list[str], make: Callable[[], _T]) -> _T | None:
    """What is made, or ``None`` and the reasons among the faults."""
    try:
        return make()
    except ConfigError as error:
        faults += error.problems
        return None


def _program(reference: str) -> dspy.Module:
    key = "task.program"
    found = load(key, reference)
    if isinstance(found, dspy.Module):
        return found
    if not callable(found):
        raise ConfigError(
            f"{key}: {reference} is of type {type(found).__name__}; expected a dspy.Module, or a "
            "class or function that makes one"
        )
    needed = _needed(found)
    if needed:
        raise ConfigError(
            f"{key}: {reference} needs {', '.join(needed)}, but it is called without arguments; "
            "give them defaults, or name a function that fills them in"
        )
    with running(key, f"calling {reference}"):
        made = found()
    if not isinstance(made, dspy.Module):
        raise ConfigError(
            f"{key}: {reference} made something of type {type(made).__name__}; expected a "
            "dspy.Module"
        )
    return made


def _needed(make: Any) -> list[str]:
    """Names of the arguments that a class or function cannot do without."""
    # DSPy's metaclass hides a class's own signature.
    target = make.__init__ if inspect.isclass(make) else make
    try:
        parameters = list(inspect.signature(target).parameters.values())
    except (TypeError, ValueError):  # written in C; calling it will tell
        return []
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [
        p.name
        for p in parameters[1 if inspect.isclass(make) else 0 :]
        if p.default is p.empty and p.kind not in optional
    ]


def _metric(key: str, reference: str) -> Metric:
    found = load(key, reference)
    if not callable(found) or inspect.isclass(found):
        what = "a class" if inspect.isclass(found) else f"of type {type(found).__name__}"
        raise ConfigError(
            f"{key}: {reference} is {what}; expected a function of (gold, prediction), or of "
            "DSPy's three or GEPA's five arguments"
        )
    try:
        Scorer(found)
    except (MetricError, TypeError, ValueError) as error:  # the latter: it has no signature
        raise ConfigError(f"{key}: {error}") from error
    return found


def _fields(program: dspy.Module, inputs: Sequence[str] | None) -> Fields:
    try:
        takes = forward_parameters(program)
    except ProgramError as error:
        raise ConfigError(f"task.program: {error}") from error
    if inputs is None:
        if takes.others == "taken":
            raise ConfigError(
                "task.inputs: the program's forward takes **kwargs, so it does not say which "
                'fields it needs; name them, for example inputs = ["question"]'
            )
        return Fields(takes.required, takes.optional, f"the program's forward takes {takes}")
    strangers = [n for n in inputs if n not in takes.names] if takes.others == "refused" else []
    absent = [name for name in takes.required if name not in inputs]
    faults = [
        f"task.inputs: {name!r} is not taken; the program's forward takes {takes}; leave it out"
        for name in strangers
    ] + [
        f"task.inputs: {name!r} is needed; the program's forward takes {takes}; add it"
        for name in absent
    ]
    if faults:
        raise ConfigError(faults)
    return Fields(tuple(inputs), (), f"task.inputs names {', '.join(inputs)}")


def _split(
    files: Sequence[Path],
    read: Sequence[Sequence[dspy.Example]],
    sizes: tuple[int | None, int | None],
    seed: int,
) -> tuple[list[dspy.Example], list[dspy.Example]]:
    """Training and validation examples, without overlap."""
    drawn = [list(examples) for examples in read]
    for examples in drawn:
        Random(f"own/{seed}").shuffle(examples)
    if len(drawn) == 1:
        train, val = _share(files[0], len(drawn[0]), sizes)
        return drawn[0][val : val + train], drawn[0][:val]
    faults = [
        f"task.{key}: got {size}, but {file} has {len(examples)} example(s); lower it, or add some"
        for key, size, file, examples in zip(
            ("train_size", "val_size"), sizes, files, drawn, strict=True
        )
        if size is not None and size > len(examples)
    ]
    if faults:
        raise ConfigError(faults)
    return drawn[0][: sizes[0]], drawn[1][: sizes[1]]


def _share(file: Path, count: int, sizes: tuple[int | None, int | None]) -> tuple[int, int]:
    """How many of a single file's examples are for training, and for validation."""
    train, val = sizes
    if val is None:
        val = max(1, count // VALIDATION_SHARE) if train is None else max(1, count - train)
    if train is None:
        train = max(1, count - val)
    if train + val > count:
        raise ConfigError(
            f"task.train_size and task.val_size: {train} for training and {val} for validation, "
            f"but {file} has {count} example(s); lower them, add some, or set task.eval_data"
        )
    return train, val

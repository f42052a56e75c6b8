"""Every error this project raises on purpose.

FstError
├── ConfigError        the request was wrong (exit code 2); carries every problem at once
├── ServingError       a policy host failed, or answered something that must not be trained on
│   └── StalePolicyError  a rollout from another policy version
├── ProgramError       a program cannot be run as asked (predictor names, fields)
├── ReflectionError    the reflection model failed or never proposed anything
├── TrainerError       the slow optimizer failed, or would have learnt from nonsense
└── RunDirError        a run directory is taken, unfinished or unreadable

A bad rollout is data, not an error: see :class:`fst_agents.types.Outcome`.
"""

from __future__ import annotations

from collections.abc import Sequence


class FstError(Exception):
    """Base of all deliberate errors."""


class ConfigError(FstError):
    """The request was wrong. ``problems`` holds one line for each thing to mend."""

    def __init__(self, problems: Sequence[str] | str) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class ServingError(FstError):
    """A policy host failed."""


class StalePolicyError(ServingError):
    """A rollout was sampled from another policy version than the one being trained."""


class ProgramError(FstError):
    """A program cannot be run as asked."""


class ReflectionError(FstError):
    """The reflection model failed, or proposed nothing."""


class TrainerError(FstError):
    """The slow optimizer failed, or was handed something it must not learn from."""


class RunDirError(FstError):
    """A run directory is taken, unfinished or unreadable."""

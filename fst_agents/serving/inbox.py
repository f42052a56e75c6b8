"""What every host does with a request before sampling: check it, queue it, answer it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from fst_agents.errors import ServingError
from fst_agents.types import Completion, Policy, Sampling


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """One wanted completion and the future that will hold it.

    ``order`` is the rollout's number among those announced and the request's number within it,
    empty for a request that belongs to no rollout.
    """

    prompt_ids: tuple[int, ...]
    sampling: Sampling
    order: tuple[int, ...] = ()
    future: Future[Completion] = field(default_factory=Future[Completion])


@dataclass(frozen=True, slots=True, eq=False)
class Swap:
    """A change of policy. It stands in the queue between the requests before and after it."""

    policy: Policy
    done: Future[None] = field(default_factory=Future[None])


def problem_of(request: Request, context_length: int) -> str | None:
    """Why a request cannot be served, ``None`` if it can."""
    sampling, length = request.sampling, len(request.prompt_ids)
    if length == 0:
        return "the prompt has no tokens; expected at least one"
    if sampling.max_tokens < 1:
        return f"max_tokens is {sampling.max_tokens}; expected at least 1"
    if sampling.temperature < 0:
        return f"temperature is {sampling.temperature}; expected 0 (greedy) or more"
    if not 0 < sampling.top_p <= 1:
        return f"top_p is {sampling.top_p}; expected more than 0 and at most 1"
    if length + sampling.max_tokens > context_length:
        return (
            f"a prompt of {length} tokens and max_tokens = {sampling.max_tokens} exceed the "
            f"context length of {context_length}; shorten the prompt or lower sampling.max_tokens"
        )
    return None


def request(
    prompt_ids: Sequence[int],
    sampling: Sampling,
    context_length: int,
    order: tuple[int, ...] = (),
) -> Request:
    """A new request; its future has failed already where the request cannot be served."""
    new = Request(tuple(prompt_ids), sampling, order)
    problem = problem_of(new, context_length)
    if problem is not None:
        new.future.set_exception(ServingError(problem))
    return new


def fail(requests: Iterable[Request], message: str, cause: BaseException | None = None) -> None:
    """Fail every request that is not answered yet, each with an error of its own."""
    for item in requests:
        if not item.future.done():
            error = ServingError(message)
            error.__cause__ = cause
            item.future.set_exception(error)

"""The shape of ``POST /v1/completions``: how requests are merged, asked and answered. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from fst_agents.errors import ServingError
from fst_agents.serving.inbox import Request
from fst_agents.types import Completion, Sampling

T = TypeVar("T")

MAX_SEQUENCES = 32
"""Most completions of one HTTP request: fewer requests cost less, but the slowest holds all."""

_REASONS = ("stop", "length")
_NO_LOGPROB = -9999.0  # what the server writes in place of minus infinity
_ROUNDING = 1e-3  # how far above 0 half precision may take the log-probability of a sure token


@dataclass(frozen=True, slots=True)
class Bundle:
    """One HTTP request: every prompt is sampled ``n`` times, for ``n`` callers each."""

    sampling: Sampling
    n: int
    callers: tuple[tuple[Request, ...], ...]

    @property
    def prompts(self) -> list[list[int]]:
        return [list(same[0].prompt_ids) for same in self.callers]

    @property
    def requests(self) -> list[Request]:
        return [r for same in self.callers for r in same]

    def singles(self) -> list[Bundle]:
        """One bundle per prompt."""
        return [Bundle(self.sampling, self.n, (same,)) for same in self.callers]


def bundle(requests: Sequence[Request], most: int = MAX_SEQUENCES) -> list[Bundle]:
    """Merge what waits: equal prompts become one prompt with ``n`` > 1, and equal ``n`` share.

    Every request is in exactly one bundle, and no bundle asks for more than ``most`` completions.
    """
    same: dict[tuple[Sampling, tuple[int, ...]], list[Request]] = {}
    for request in requests:
        same.setdefault((request.sampling, request.prompt_ids), []).append(request)
    alike: dict[tuple[Sampling, int], list[tuple[Request, ...]]] = {}
    for (sampling, _), callers in same.items():
        # Greedy completions of one prompt are all equal, and the server refuses n > 1 for them.
        for part in _chunks(callers, 1 if sampling.temperature == 0 else most):
            alike.setdefault((sampling, len(part)), []).append(tuple(part))
    return [
        Bundle(sampling, n, tuple(part))
        for (sampling, n), prompts in alike.items()
        for part in _chunks(prompts, max(1, most // n))
    ]


def body(bundle: Bundle, model: str) -> dict[str, Any]:
    """What to post. No seed: it would make the requests of one prompt equal."""
    sampling = bundle.sampling
    asked: dict[str, Any] = {
        "model": model,
        "prompt": bundle.prompts,
        "n": bundle.n,
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "logprobs": 0,  # of the sampled token alone
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,  # spares the server the text of every token
    }
    return asked | ({"stop": list(sampling.stop)} if sampling.stop else {})


def read(answer: Any, bundle: Bundle, model: str, version: int) -> list[tuple[Request, Completion]]:
    """Every caller with its completion.

    Raises:
        ServingError: anything that must not become a training sample: another model, other
            prompt ids, missing or infinite log-probabilities, an unknown finish reason.
    """
    try:
        served, choices = answer["model"], answer["choices"]
        if served != model or len(choices) != len(bundle.requests):
            raise ServingError(
                f"expected {len(bundle.requests)} completions of {model}, "
                f"got {len(choices)} of {served}"
            )
        choices = sorted(choices, key=lambda choice: choice["index"])
        return [
            (request, _completion(choice, request, version))
            for request, choice in zip(bundle.requests, choices, strict=True)
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise ServingError(
            f"not an answer of /v1/completions: {error!r}: {answer!r:.300}"
        ) from error


def _completion(choice: Mapping[str, Any], request: Request, version: int) -> Completion:
    ids, logprobs = choice["token_ids"], choice["logprobs"]["token_logprobs"]
    if tuple(choice["prompt_token_ids"]) != request.prompt_ids:
        raise ServingError("the server sampled from other prompt ids than it was sent")
    if not ids or len(ids) != len(logprobs):
        raise ServingError(f"{len(ids)} token ids came with {len(logprobs)} log-probabilities")
    if not all(type(i) is int and i >= 0 for i in ids):
        raise ServingError(f"token ids that are none: {ids!r:.200}; expected integers from 0")
    if not all(math.isfinite(x) and x > _NO_LOGPROB for x in logprobs):
        raise ServingError(f"log-probabilities that are not finite: {logprobs!r:.200}")
    if max(logprobs) > _ROUNDING:
        raise ServingError(f"a log-probability of {max(logprobs):g}; none is above 0")
    if choice["finish_reason"] not in _REASONS:
        raise ServingError(f"finish reason {choice['finish_reason']!r}; expected one of {_REASONS}")
    return Completion(tuple(ids), tuple(logprobs), choice["finish_reason"], version)


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[i : i + size] for i in range(0, len(items), size))

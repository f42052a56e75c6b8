from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fst_agents.errors import ServingError
from fst_agents.serving.completions import Bundle, body, bundle, read
from fst_agents.serving.inbox import Request
from fst_agents.types import Sampling

REQUESTS = st.lists(
    st.builds(
        Request,
        st.tuples(st.integers(0, 3)),
        st.sampled_from([Sampling(), Sampling(max_tokens=8), Sampling(temperature=0.0)]),
    ),
    max_size=40,
)


@given(REQUESTS, st.integers(1, 9))
def test_every_request_is_in_one_bundle_of_its_own_kind(requests: list[Request], most: int) -> None:
    bundles = bundle(requests, most)
    assert Counter(r for b in bundles for r in b.requests) == Counter(requests)
    for made in bundles:
        assert len(made.requests) <= most
        for prompt, same in zip(made.prompts, made.callers, strict=True):
            assert len(same) == made.n
            assert all(list(r.prompt_ids) == prompt for r in same)
            assert all(r.sampling == made.sampling for r in same)
        assert made.n == 1 or made.sampling.temperature > 0


def test_equal_requests_share_a_prompt() -> None:
    requests = [Request((p,), Sampling()) for p in (1, 2, 1, 2)]
    (made,) = bundle(requests)
    assert (made.n, made.prompts) == (2, [[1], [2]])
    assert made.requests == [requests[i] for i in (0, 2, 1, 3)]


def test_no_seed_is_sent() -> None:
    assert "seed" not in body(bundle([Request((1,), Sampling())])[0], "m")


def one() -> Bundle:
    return bundle([Request((1, 2), Sampling())])[0]


def answer(**changes: Any) -> dict[str, Any]:
    choice = {
        "index": 0,
        "token_ids": [5, 6],
        "prompt_token_ids": [1, 2],
        "logprobs": {"token_logprobs": [-0.5, -1.0]},
        "finish_reason": "stop",
    }
    return {"model": "m", "choices": [choice | changes]}


def test_an_answer_is_read_with_its_version() -> None:
    ((_, completion),) = read(answer(), one(), "m", 4)
    assert (completion.token_ids, completion.logprobs) == ((5, 6), (-0.5, -1.0))
    assert (completion.finish_reason, completion.policy_version) == ("stop", 4)


@pytest.mark.parametrize(
    "bad",
    [
        answer(prompt_token_ids=[1, 3]),
        answer(token_ids=[5]),
        answer(token_ids=[], logprobs={"token_logprobs": []}),
        answer(logprobs={"token_logprobs": [-0.5, float("nan")]}),
        answer(logprobs={"token_logprobs": [-0.5, -9999.0]}),
        answer(logprobs={"token_logprobs": [-0.5, None]}),
        answer(logprobs=None),
        answer(token_ids=None),
        answer(finish_reason="abort"),
        answer() | {"model": "another"},
        answer() | {"choices": []},
        {"error": "no"},
        [],
        "text",
        None,
    ],
)
def test_an_answer_that_cannot_be_trusted_is_refused(bad: Any) -> None:
    with pytest.raises(ServingError):
        read(bad, one(), "m", 0)

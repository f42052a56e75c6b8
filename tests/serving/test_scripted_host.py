from __future__ import annotations

import random

import pytest

from fst_agents.errors import ServingError
from fst_agents.serving.scripted_host import EOS, ScriptedHost
from fst_agents.types import Policy, Sampling


def roll(prompt: str, sampling: Sampling, rng: random.Random) -> str:
    return f"{prompt[-12:]}{rng.randrange(10**9)}"


def test_the_script_sees_the_prompt_and_answers_as_bytes() -> None:
    host = ScriptedHost(lambda prompt, sampling, rng: prompt.upper(), logprob=-0.5)
    prompt = host.tokenizer.render([{"role": "user", "content": "hé"}])
    completion = host.submit(prompt, Sampling(max_tokens=99)).result()
    assert host.tokenizer.decode(completion.token_ids) == "<USER>\nHÉ\n<ASSISTANT>\n"
    assert completion.token_ids[-1] == EOS
    assert completion.finish_reason == "stop"
    assert set(completion.logprobs) == {-0.5}


def test_answers_depend_on_the_seed_alone() -> None:
    def answers(seed: int) -> list[tuple[int, ...]]:
        host = ScriptedHost(roll, seed=seed)
        return [host.submit((65,), Sampling()).result().token_ids for _ in range(3)]

    assert answers(1) == answers(1) != answers(2)


def test_a_script_that_raises_fails_the_future_and_not_the_host() -> None:
    def script(prompt: str, sampling: Sampling, rng: random.Random) -> str:
        if prompt == "A":
            raise ValueError("no A")
        return "fine"

    host = ScriptedHost(script)
    with pytest.raises(ServingError, match="ValueError: no A"):
        host.submit((65,), Sampling()).result()
    assert host.submit((66,), Sampling()).result().finish_reason == "stop"


def test_updates_are_stamped_on_completions() -> None:
    host = ScriptedHost(roll)
    host.update(Policy("m", version=3))
    assert host.submit((65,), Sampling()).result().policy_version == 3
    assert [p.version for p in host.updates] == [0, 3]

"""The trainer's loss and gradient equal an oracle written from the paper, to 1e-5."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, TrainerCallback

from fst_agents.bridge import to_samples
from fst_agents.config import RunConfig
from fst_agents.types import Call, Feedback, Outcome, Rollout, RolloutGroup, TrainingSample
from optimizers.slow_thread import Desk, TrainerThread
from optimizers.trl_bridge import SampleTrainer, add_lora
from tests.slow.oracle import loss as oracle_loss
from tests.slow.oracle import random_sample, run_config, write_model


class GradientRecorder(TrainerCallback):
    """Keeps the gradient the optimizer is about to step along."""

    def __init__(self) -> None:
        self.gradients: dict[str, Tensor] = {}

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.gradients = gradients_of(kwargs["model"])


def gradients_of(model: Any) -> dict[str, Tensor]:
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def load(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def policy_and_base(folder: Path, config: RunConfig, *, llama: bool = False) -> tuple[Any, Any]:
    """A policy some way off its base, so that ratios and KL are not trivial."""
    base = load(write_model(folder / "base", llama=llama))
    if config.policy.train == "full":
        policy = load(write_model(folder / "policy", llama=llama, seed=1))
    else:
        policy = add_lora(load(folder / "base"), config, None)
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(2)
            for name, weight in policy.named_parameters():
                if "lora_B" in name:
                    weight.normal_(std=0.3)
    return policy, base.requires_grad_(False)


def train_once(
    policy: Any, base: Any, config: RunConfig, folder: Path, samples: Sequence[TrainingSample]
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """One step of the real trainer: its numbers, and the gradient it took."""
    reference = base if config.policy.train == "full" else None
    desk, recorder = Desk(), GradientRecorder()
    trainer = SampleTrainer(policy, reference, config, folder / "scratch", desk)
    trainer.add_callback(recorder)
    thread = TrainerThread(desk, trainer.train)
    try:
        return thread.step(samples), recorder.gradients
    finally:
        thread.close()


def assert_agrees(
    config: RunConfig, folder: Path, samples: Sequence[TrainingSample], *, llama: bool = False
) -> dict[str, float]:
    policy, base = policy_and_base(folder, config, llama=llama)
    twin = copy.deepcopy(policy)
    slow = config.slow
    expected = oracle_loss(
        twin, base, samples, config.sampling.temperature, slow.cispo_cap, slow.kl_coefficient
    )
    expected.backward()
    numbers, gradients = train_once(policy, base, config, folder, samples)
    assert numbers["loss"] == pytest.approx(expected.item(), abs=1e-5, rel=1e-5)
    wanted = gradients_of(twin)
    assert gradients.keys() == wanted.keys()
    for name, gradient in wanted.items():
        # An entry is a sum whose terms are as large as the whole: it rounds like the whole.
        atol = 1e-5 * max(1.0, gradient.norm().item())
        torch.testing.assert_close(gradients[name], gradient, atol=atol, rtol=1e-4)
    return numbers


def samples(count: int = 7, seed: int = 0) -> list[TrainingSample]:
    random = Random(seed)
    return [random_sample(random) for _ in range(count)]


@pytest.mark.parametrize("llama", [False, True], ids=["qwen3-tied", "llama-untied"])
@pytest.mark.parametrize("train", ["full", "lora"])
def test_loss_and_gradient_agree(train: str, llama: bool, tmp_path: Path) -> None:
    """Unequal lengths, masked tokens in between, KL on, temperature 0.7."""
    config = run_config(train, temperature=0.7, kl_coefficient=0.1)
    assert_agrees(config, tmp_path, samples(), llama=llama)


@pytest.mark.parametrize("train", ["full", "lora"])
def test_they_agree_without_kl(train: str, tmp_path: Path) -> None:
    numbers = assert_agrees(run_config(train, kl_coefficient=0.0), tmp_path, samples())
    assert numbers["kl"] == 0.0


@pytest.mark.parametrize("padded_tokens", [16, 31, 64, 4096])
def test_any_micro_batching_gives_the_same_gradient(padded_tokens: int, tmp_path: Path) -> None:
    config = run_config(kl_coefficient=0.1, tokens_per_micro_batch=padded_tokens)
    assert_agrees(config, tmp_path, samples(9))


def test_ratios_beyond_the_cap_are_cut_to_it(tmp_path: Path) -> None:
    """The sampler claims e⁻²⁰ for every token, so every ratio is far beyond 4; advantages of
    either sign are cut alike, and there is no lower bound."""
    tampered = [
        replace(s, logprobs_T=(-20.0,) * len(s.logprobs_T), loss_mask_T=(1,) * len(s.loss_mask_T))
        for s in samples()
    ]
    numbers = assert_agrees(run_config(kl_coefficient=0.0), tmp_path, tampered)
    assert numbers["cap_fraction"] == 1.0
    assert numbers["ratio_max"] > 1e3
    assert numbers["logp_gap"] > 10


def test_ratios_far_below_one_are_not_cut(tmp_path: Path) -> None:
    timid = [replace(s, logprobs_T=(0.0,) * len(s.logprobs_T)) for s in samples()]
    numbers = assert_agrees(run_config(kl_coefficient=0.0), tmp_path, timid)
    assert numbers["ratio_max"] <= 1.0


def call(random: Random, predictor: str, prompt: Sequence[int] | None = None) -> Call:
    length = random.randint(1, 4)
    return Call(
        predictor=predictor,
        messages=(),
        prompt_ids=tuple(prompt or random.choices(range(3, 17), k=random.randint(2, 6))),
        completion_ids=tuple(random.choices(range(3, 17), k=length)),
        logprobs=tuple(random.uniform(-3.0, -0.1) for _ in range(length)),
        finish_reason="stop",
        policy_version=0,
        temperature=0.7,
        text="",
    )


def rollout(random: Random, problem: str, score: float, outcome: Outcome = Outcome.OK) -> Rollout:
    """Two predictors, and a third call that continues the first."""
    plan = call(random, "plan")
    again = call(random, "plan", [*plan.prompt_ids, *plan.completion_ids, 5, 6])
    calls = (plan, call(random, "solve"), again)
    return Rollout(problem, random.choice("ab"), 0, calls, Feedback(score), outcome)


def test_groups_through_the_bridge_agree_with_the_papers_average(tmp_path: Path) -> None:
    """Σ over problems of the mean over the problem's tokens, divided by the kept problems.

    Problem flat is dropped and a timeout masked; several calls per rollout, one merged. The
    expected loss is summed call by call from the rollouts, knowing nothing of samples.
    """
    random = Random(3)
    groups = [
        RolloutGroup("a", tuple(rollout(random, "a", s) for s in (1, 0, 0, 0))),
        RolloutGroup("flat", tuple(rollout(random, "flat", 1) for _ in range(3))),
        RolloutGroup(
            "b",
            (
                rollout(random, "b", 1),
                rollout(random, "b", 0),
                rollout(random, "b", 1, Outcome.TIMEOUT),
            ),
        ),
    ]
    config = run_config(temperature=0.7, kl_coefficient=0.0)
    batch = to_samples(groups, policy_version=0, temperature=0.7, epsilon=1e-4)
    numbers = assert_agrees(config, tmp_path, batch.samples)

    policy, _ = policy_and_base(tmp_path, config)
    half = 0.5 + 1e-4
    root = 0.5**0.5 + 1e-4
    advantages = {"a": [0.75 / half, *[-0.25 / half] * 3], "b": [0.5 / root, -0.5 / root]}
    expected = 0.0
    for problem, column in advantages.items():
        rollouts = next(g for g in groups if g.problem_id == problem).rollouts_G[: len(column)]
        tokens = sum(r.completion_tokens for r in rollouts)
        for run, advantage in zip(rollouts, column, strict=True):
            for one in run.calls:
                ids = torch.tensor([[*one.prompt_ids, *one.completion_ids]])
                logits = policy(input_ids=ids).logits[0, len(one.prompt_ids) - 1 : -1] / 0.7
                logp = logits.log_softmax(-1)[range(len(logits)), list(one.completion_ids)]
                ratio = torch.exp(logp - torch.tensor(one.logprobs)).clamp(max=4.0)
                expected += -(ratio * advantage * logp).sum().item() / tokens / 2
    assert numbers["loss"] == pytest.approx(expected, abs=1e-5)
    assert numbers["tokens"] == batch.report.tokens

"""What the loop is promised of the slow optimizer."""

from __future__ import annotations

import json
import math
import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from fst_agents.config import RunConfig
from fst_agents.errors import ConfigError, StalePolicyError, TrainerError
from fst_agents.types import Call, Feedback, Outcome, Policy, Rollout, TrainingSample
from optimizers.evaluation import kl_of
from optimizers.protocols import SlowOptimizer
from optimizers.slow_grpo import GrpoSlow
from tests.slow.oracle import CONTEXT, VOCABULARY, random_sample, run_config, write_model

PROMPTS = [(3, 4, 5, 6), (7, 8), (9,)]
COMPLETIONS = [(1, 2), (3, 4, 5, 6, 7), (8, 9, 10)]
NUMBERS = {
    *("loss", "kl", "grad_norm", "learning_rate", "ratio_mean", "ratio_max", "cap_fraction"),
    *("logp_gap", "entropy", "tokens", "samples", "skipped", "seconds"),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_model(tmp_path_factory.mktemp("model") / "base"))


@pytest.fixture
def full(model: str) -> Iterator[SlowOptimizer]:
    with closing(GrpoSlow(Policy(model), run_config())) as slow:
        yield slow


def samples(version: int = 0, count: int = 6) -> list[TrainingSample]:
    generator = random.Random(version)
    return [random_sample(generator, version=version) for _ in range(count)]


def scores(model: Any, temperature: float = 1.0) -> list[list[float]]:
    """Log-probabilities by plain transformers, one sequence at a time."""
    rows: list[list[float]] = []
    for prompt, completion in zip(PROMPTS, COMPLETIONS, strict=True):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([[*prompt, *completion]])).logits[0]
        logps = (logits[len(prompt) - 1 : -1] / temperature).log_softmax(-1)
        rows.append(logps[range(len(completion)), list(completion)].tolist())
    return rows


def assert_close(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert a == pytest.approx(b, abs=1e-5)


def trained(model: str, config: RunConfig, folder: Path, steps: int = 3) -> Policy:
    with closing(GrpoSlow(Policy(model), config)) as slow:
        for version in range(steps):
            slow.update(samples(version))
        return slow.publish(folder)


def test_an_update_is_one_optimizer_step_and_raises_the_version(full: SlowOptimizer) -> None:
    report = full.update(samples())
    assert full.policy.version == report.step == 1
    assert {name.removeprefix("slow/") for name in report.metrics} == NUMBERS
    assert all(math.isfinite(value) for value in report.metrics.values())
    assert report.metrics["slow/tokens"] == sum(sum(s.loss_mask_T) for s in samples())


def test_the_warm_up_rises_linearly_and_no_step_is_wasted(model: str) -> None:
    """Four steps of warm-up to 0.4: 0.1, 0.2, 0.3, 0.4, then constant."""
    config = run_config(warmup_steps=4, learning_rate=0.4, kl_coefficient=0.0)
    with closing(GrpoSlow(Policy(model), config)) as slow:
        rates = [slow.update(samples(v)).metrics["slow/learning_rate"] for v in range(6)]
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4, 0.4])


def test_no_samples_is_no_step(full: SlowOptimizer) -> None:
    before = full.logprobs(PROMPTS, COMPLETIONS, temperature=1.0)
    report = full.update([])
    assert report.metrics["slow/skipped"] == 1.0
    assert full.policy.version == report.step == 0
    assert full.logprobs(PROMPTS, COMPLETIONS, temperature=1.0) == before
    assert full.update(samples()).metrics["slow/skipped"] == 0.0


@pytest.mark.parametrize("train", ["full", "lora"])
def test_equal_samples_and_seed_give_equal_weights(train: str, model: str, tmp_path: Path) -> None:
    def weights(name: str, seed: int) -> dict[str, torch.Tensor]:
        trained(model, run_config(train, seed=seed), tmp_path / name)
        return load_file(next((tmp_path / name).glob("*.safetensors")))

    first, second = weights("first", 0), weights("second", 0)
    assert all(torch.equal(first[name], second[name]) for name in first)
    if train == "lora":
        assert any(not torch.equal(first[n], w) for n, w in weights("third", 1).items())


def test_a_published_adapter_is_what_was_trained(model: str, tmp_path: Path) -> None:
    with closing(GrpoSlow(Policy(model), run_config("lora"))) as slow:
        slow.update(samples())
        policy = slow.publish(tmp_path / "v1")
        assert policy == slow.policy == Policy(model, adapter=tmp_path / "v1", version=1)
        ours = slow.logprobs(PROMPTS, COMPLETIONS, temperature=0.7)
        base = slow.logprobs(PROMPTS, COMPLETIONS, temperature=0.7, base=True)
    plain = AutoModelForCausalLM.from_pretrained(model)
    assert_close(base, scores(plain, 0.7))
    assert_close(ours, scores(PeftModel.from_pretrained(plain, str(tmp_path / "v1")), 0.7))


def test_published_full_weights_are_what_was_trained(model: str, tmp_path: Path) -> None:
    with closing(GrpoSlow(Policy(model), run_config())) as slow:
        slow.update(samples())
        policy = slow.publish(tmp_path / "deep" / "v1")
        ours = slow.logprobs(PROMPTS, COMPLETIONS, temperature=1.0)
    assert policy == Policy(model, weights=tmp_path / "deep" / "v1", version=1)
    assert_close(ours, scores(AutoModelForCausalLM.from_pretrained(str(policy.weights))))
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["v1"]


def test_a_published_model_keeps_its_own_configuration(model: str, tmp_path: Path) -> None:
    policy = trained(model, run_config(), tmp_path / "v1", steps=1)
    assert policy.weights is not None
    for name in ("config.json", "generation_config.json"):
        before = json.loads((Path(model) / name).read_text())
        assert json.loads((policy.weights / name).read_text()) == before


def test_a_published_folder_is_never_overwritten(full: SlowOptimizer, tmp_path: Path) -> None:
    with pytest.raises(TrainerError, match="exists already"):
        full.publish(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("train", ["full", "lora"])
def test_training_goes_on_from_what_was_published(train: str, model: str, tmp_path: Path) -> None:
    policy = trained(model, run_config(train), tmp_path / "v3")
    with closing(GrpoSlow(policy, run_config(train))) as slow:
        assert slow.kl_to_base(PROMPTS, COMPLETIONS) > 0
        assert slow.update(samples(3)).step == 4
        assert slow.policy == Policy(model, version=4)


@pytest.mark.parametrize("train", ["full", "lora"])
def test_kl_to_the_base_is_exact(train: str, model: str, tmp_path: Path) -> None:
    """Σ_v p (log p − log q) per token, by hand from two plain models; 0 before training."""
    config = run_config(train, kl_coefficient=0.0, tokens_per_micro_batch=16)
    with closing(GrpoSlow(Policy(model), config)) as slow:
        assert slow.kl_to_base(PROMPTS, COMPLETIONS) == pytest.approx(0.0, abs=1e-7)
        for version in range(8):  # far enough for float32 to tell: one step is 2e-6
            slow.update(samples(version))
        ours = slow.kl_to_base(PROMPTS, COMPLETIONS)
        policy = slow.publish(tmp_path / "v8")
    base = AutoModelForCausalLM.from_pretrained(model)
    tuned: Any = AutoModelForCausalLM.from_pretrained(str(policy.weights or model))
    if policy.adapter is not None:
        tuned = PeftModel.from_pretrained(tuned, str(policy.adapter))
    values: list[float] = []
    for prompt, completion in zip(PROMPTS, COMPLETIONS, strict=True):
        ids, at = torch.tensor([[*prompt, *completion]]), slice(len(prompt) - 1, -1)
        with torch.no_grad():
            p = tuned(input_ids=ids).logits[0, at].log_softmax(-1)
            q = base(input_ids=ids).logits[0, at].log_softmax(-1)
        values += (p.exp() * (p - q)).sum(-1).tolist()
    assert ours > 1e-5
    assert ours == pytest.approx(sum(values) / len(values), rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("train", ["full", "lora"])
def test_looking_at_the_weights_does_not_change_training(
    train: str, model: str, tmp_path: Path
) -> None:
    plain = trained(model, run_config(train), tmp_path / "plain")
    with closing(GrpoSlow(Policy(model), run_config(train))) as slow:
        for version in range(3):
            slow.logprobs(PROMPTS, COMPLETIONS, temperature=1.0, base=True)
            slow.kl_to_base(PROMPTS, COMPLETIONS)
            slow.update(samples(version))
        watched = slow.publish(tmp_path / "watched")
    files = [
        next((p.adapter or p.weights or Path()).glob("*.safetensors")) for p in (plain, watched)
    ]
    first, second = map(load_file, files)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_rewarded_tokens_become_likely(model: str) -> None:
    """Token 5 is rewarded after every prompt, others are not. Plain REINFORCE on the policy's
    own samples must raise its probability from the one-in-seventeen of a random model."""
    generator = random.Random(0)
    with closing(GrpoSlow(Policy(model), run_config("lora", learning_rate=5e-2))) as slow:

        def probability() -> float:
            rows = slow.logprobs(PROMPTS, [(5,)] * 3, temperature=1.0)
            return sum(math.exp(row[0]) for row in rows) / 3

        before = probability()
        for version in range(20):
            batch = on_policy_batch(slow, generator, version)
            slow.update(batch)
        assert before < 0.3
        assert probability() > 0.8


def on_policy_batch(slow: GrpoSlow, generator: random.Random, version: int) -> list[TrainingSample]:
    """Sixteen samples per prompt from the policy; advantage +1 for token 5, −0.2 for others."""
    batch: list[TrainingSample] = []
    vocabulary = [(token,) for token in range(VOCABULARY)]
    for prompt in PROMPTS:
        rows = slow.logprobs([prompt] * VOCABULARY, vocabulary, temperature=1.0)
        logps = [row[0] for row in rows]
        for token in generator.choices(range(VOCABULARY), [math.exp(x) for x in logps], k=16):
            blank = random_sample(generator, version=version, weight=1 / 48)
            batch.append(
                replace(
                    blank,
                    prompt_ids=prompt,
                    completion_ids_T=(token,),
                    loss_mask_T=(1,),
                    logprobs_T=(logps[token],),
                    advantage=1.0 if token == 5 else -0.2,
                )
            )
    return batch


def test_samples_of_another_version_are_refused_and_harm_nothing(full: SlowOptimizer) -> None:
    with pytest.raises(StalePolicyError, match="version 7"):
        full.update([*samples(0), *samples(7)])
    assert full.update(samples()).step == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"advantage": math.nan}, "finite"),
        ({"weight": math.inf}, "finite"),
        ({"logprobs_T": (-math.inf,)}, "finite"),
        ({"prompt_ids": ()}, "no tokens"),
        ({"loss_mask_T": (0,)}, "no token is trained on"),
        ({"prompt_ids": (3,) * CONTEXT}, f"exceeds the model's context of {CONTEXT}"),
        ({"prompt_ids": (VOCABULARY,)}, "vocabulary"),
    ],
)
def test_samples_unfit_to_train_on_are_refused_and_harm_nothing(
    change: dict[str, Any], message: str, full: SlowOptimizer
) -> None:
    one = replace(samples()[0], completion_ids_T=(3,), loss_mask_T=(1,), logprobs_T=(-1.0,))
    with pytest.raises(TrainerError, match=message):
        full.update([replace(one, **change)])
    assert full.update(samples()).step == 1


def test_a_loss_that_is_no_number_never_reaches_the_weights(model: str) -> None:
    """A sampler log-probability of −1000 makes ρ, and with it the KL term, infinite."""
    config = run_config(kl_coefficient=0.1)
    with closing(GrpoSlow(Policy(model), config)) as slow:
        slow.update(samples())
        before = slow.logprobs(PROMPTS, COMPLETIONS, temperature=1.0)
        bad = [replace(s, logprobs_T=(-1000.0,) * len(s.logprobs_T)) for s in samples(1)]
        with pytest.raises(TrainerError, match="loss is"):
            slow.update(bad)
        assert slow.policy.version == 1
        assert slow.logprobs(PROMPTS, COMPLETIONS, temperature=1.0) == before
        with pytest.raises(TrainerError, match="has stopped"):
            slow.update(samples(1))


def test_scoring_refuses_what_the_model_cannot_read(full: SlowOptimizer) -> None:
    with pytest.raises(TrainerError, match="context"):
        full.logprobs([(3,) * CONTEXT], [(4,)], temperature=1.0)
    with pytest.raises(TrainerError, match="at least one completion token"):
        full.kl_to_base(PROMPTS, [()] * 3)


def test_weights_that_do_not_go_with_the_kind_of_training_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="full weights"):
        GrpoSlow(Policy("x", weights=tmp_path), run_config("lora"))
    with pytest.raises(ConfigError, match="adapter"):
        GrpoSlow(Policy("x", adapter=tmp_path), run_config("full"))


@pytest.mark.parametrize("train", ["full", "lora"])
def test_bfloat16_trains_float32_weights(train: str, model: str, tmp_path: Path) -> None:
    policy = trained(model, run_config(train, dtype="bfloat16"), tmp_path / "v3")
    weights = load_file(next((policy.adapter or policy.weights or tmp_path).glob("*.safetensors")))
    assert {weight.dtype for weight in weights.values()} == {torch.float32}


def test_two_optimizers_in_one_process_do_not_disturb_each_other(model: str) -> None:
    """The trainer library keeps process-wide state; building a second one rewrites it."""
    with (
        closing(GrpoSlow(Policy(model), run_config())) as first,
        closing(GrpoSlow(Policy(model), run_config())) as second,
    ):
        for version in range(2):
            one, two = first.update(samples(version)), second.update(samples(version))
            assert one.metrics["slow/loss"] == two.metrics["slow/loss"]


@pytest.mark.parametrize("steps", [0, 2])
def test_closing_leaves_no_thread_and_no_folder(steps: int, model: str) -> None:
    before = set(threading.enumerate())
    slow = GrpoSlow(Policy(model), run_config())
    for version in range(steps):
        slow.update(samples(version))
    slow.close()
    slow.close()
    assert set(threading.enumerate()) == before
    with pytest.raises(TrainerError, match="closed"):
        slow.update(samples(steps))


def test_nothing_is_written_to_standard_output(
    model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(GrpoSlow(Policy(model), run_config("lora"))) as slow:
        slow.update(samples())
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("train", ["lora", "full"])
def test_a_resumed_optimizer_goes_on_to_the_same_weights_to_the_bit(
    model: str, tmp_path: Path, train: Literal["lora", "full"]
) -> None:
    """Three steps, a stop, two more, within the warm-up; against five without a stop."""
    config = run_config(train=train, warmup_steps=10)
    whole = trained(model, config, tmp_path / "whole", steps=5)
    with closing(GrpoSlow(Policy(model), config)) as slow:
        for version in range(3):
            slow.update(samples(version))
        half = slow.publish(tmp_path / "half")
        slow.save(tmp_path / "half")
    with closing(GrpoSlow(half, config, resume=tmp_path / "half")) as slow:
        reports = [slow.update(samples(version)) for version in (3, 4)]
        resumed = slow.publish(tmp_path / "resumed")
    assert resumed.version == whole.version == 5
    assert reports[1].metrics["slow/learning_rate"] == pytest.approx(
        config.slow.learning_rate * 5 / 10
    )
    name = "adapter_model.safetensors" if train == "lora" else "model.safetensors"
    ours, theirs = (load_file(tmp_path / f / name) for f in ("resumed", "whole"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_rollouts_without_a_token_have_no_kl(full: SlowOptimizer) -> None:
    mute = Call("solve", (), (1, 2), (), (), "stop", 0, 1.0, "")
    said = Call("solve", (), PROMPTS[0], COMPLETIONS[0], (-0.1, -0.1), "stop", 0, 1.0, "")

    def rollout(*calls: Call) -> Rollout:
        return Rollout("p", "c", 0, calls, Feedback(0.0, ""), Outcome.OK, {}, {})

    assert kl_of(full, [rollout(), rollout(mute)]) is None
    assert kl_of(full, [rollout(mute), rollout(said)]) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("whole", [True, False])
def test_a_model_file_that_was_cut_short_is_named(whole: bool, tmp_path: Path) -> None:
    """``whole``: the header is, so that only the tensors lack."""
    folder = write_model(tmp_path / "base")
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[: -100 if whole else 20])
    with pytest.raises(TrainerError, match=r"base: expected whole safetensors files.*again"):
        GrpoSlow(Policy(str(folder)), run_config()).close()


def test_the_optimizer_s_state_of_another_model_is_refused(model: str, tmp_path: Path) -> None:
    full = run_config(train="full")
    with closing(GrpoSlow(Policy(model), full)) as slow:
        slow.update(samples())
        slow.save(tmp_path)
    with pytest.raises(TrainerError, match="does not train"):
        GrpoSlow(Policy(model), run_config(train="lora"), resume=tmp_path).close()

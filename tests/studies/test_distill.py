"""The finishing stage: its loss by hand, its pairs, and that a policy learns from itself."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

import dspy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from fst_agents.config import RunConfig
from fst_agents.errors import ConfigError, ServingError, TrainerError
from fst_agents.rollouts import Limits, Runner
from fst_agents.run_file import parse
from fst_agents.serving.scripted_host import ScriptedHost
from fst_agents.types import (
    Call,
    Candidate,
    Feedback,
    Outcome,
    Policy,
    Problem,
    Rollout,
    Sampling,
)
from optimizers.distill import Distiller, reverse_kl
from optimizers.distill_pairs import DictatingHost, Pair, pairs_of
from optimizers.plan import distill_rollouts, distill_steps, phase_rollouts, plan, total_rollouts
from tests.slow.oracle import run_config, write_model

# -- the loss ---------------------------------------------------------------------------------


def test_reverse_kl_by_hand() -> None:
    """Student (3/4, 1/4), teacher (1/4, 3/4): 3/4 ln 3 + 1/4 ln 1/3 = 1/2 ln 3."""
    student, teacher = torch.tensor([[3.0, 1.0]]).log(), torch.tensor([[1.0, 3.0]]).log()
    assert reverse_kl(student, teacher).tolist() == [pytest.approx(0.5 * math.log(3))]
    assert reverse_kl(student, student).tolist() == [pytest.approx(0.0, abs=1e-7)]


def test_it_is_the_reverse_one() -> None:
    """Where the student has nearly no mass the teacher's costs nothing; the other way it does."""
    certain, broad = torch.tensor([[20.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    assert reverse_kl(certain, broad).item() == pytest.approx(math.log(2), abs=1e-4)
    assert reverse_kl(broad, certain).item() > 9


@given(st.lists(st.floats(-5, 5), min_size=8, max_size=8))
def test_it_is_never_negative_and_pulls_towards_the_teacher(values: list[float]) -> None:
    student = torch.tensor([values[:4]], requires_grad=True)
    teacher = torch.tensor([values[4:]])
    loss = reverse_kl(student, teacher).sum()
    assert loss.item() >= -1e-6
    [gradient] = torch.autograd.grad(loss, student)
    with torch.no_grad():
        moved = reverse_kl(student - 1e-3 * gradient, teacher).item()
    assert moved <= loss.item() + 1e-5


# -- the trainer ------------------------------------------------------------------------------

PAIRS = [
    Pair((3, 4), (3, 4, 5, 6, 7), (8, 9, 10)),
    Pair((3,), (5, 5, 6), (1, 2)),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_model(tmp_path_factory.mktemp("model") / "base"))


def rate(**policy: Any) -> RunConfig:
    config = run_config(**policy)
    return config.model_copy(
        update={"distill": config.distill.model_copy(update={"learning_rate": 3e-3})}
    )


@pytest.fixture(params=["lora", "full"])
def distiller(request: pytest.FixtureRequest, model: str) -> Iterator[Distiller]:
    config = rate()
    policy = config.policy.model_copy(update={"train": request.param})
    with closing(Distiller(Policy(model), config.model_copy(update={"policy": policy}))) as found:
        yield found


def test_a_policy_comes_to_say_without_the_prompt_what_it_said_with_it(
    distiller: Distiller,
) -> None:
    values = [distiller.distill(PAIRS).metrics["distill/kl"] for _ in range(60)]
    assert values[-1] < 0.2 * values[0]


def test_the_reported_kl_is_that_of_plain_transformers(distiller: Distiller, model: str) -> None:
    """Teacher and student are one model before the first step."""
    from transformers import AutoModelForCausalLM

    plain: Any = AutoModelForCausalLM.from_pretrained(model)

    def logits(prompt: tuple[int, ...], completion: tuple[int, ...]) -> torch.Tensor:
        ids = torch.tensor([[*prompt, *completion]])
        with torch.no_grad():
            return plain(input_ids=ids).logits[0, len(prompt) - 1 : -1]

    per_token = [
        value
        for p in PAIRS
        for value in reverse_kl(
            logits(p.student_ids, p.completion_ids), logits(p.teacher_ids, p.completion_ids)
        ).tolist()
    ]
    report = distiller.distill(PAIRS)
    assert report.metrics["distill/kl"] == pytest.approx(sum(per_token) / 5, abs=1e-4)
    assert report.metrics["distill/tokens"] == 5


def test_the_teacher_goes_on_answering_as_it_did(distiller: Distiller, tmp_path: Path) -> None:
    """Its answers, not only its weights."""
    teacher, ids = vars(distiller)["_teacher"], torch.tensor([[3, 4, 5, 6]])

    def answers() -> torch.Tensor:
        with torch.no_grad():
            return teacher(input_ids=ids).logits

    before = answers()
    for _ in range(5):
        distiller.distill(PAIRS)
    assert torch.equal(answers(), before)
    policy = distiller.publish(tmp_path / "v5")
    assert policy.version == 5
    folder = policy.adapter or policy.weights
    assert folder is not None
    assert load_file(next(folder.glob("*.safetensors")))


def test_a_stage_begins_from_trained_weights(model: str, tmp_path: Path) -> None:
    """Student and teacher are both what was published: before the first step they agree."""
    with closing(Distiller(Policy(model), rate())) as first:
        for _ in range(5):
            first.distill(PAIRS)
        trained = first.publish(tmp_path / "v5")
    same = [Pair(p.teacher_ids, p.teacher_ids, p.completion_ids) for p in PAIRS]
    with closing(Distiller(trained, rate())) as second:
        assert second.policy.version == 5
        assert second.distill(same).metrics["distill/kl"] == pytest.approx(0.0, abs=1e-6)


def test_how_a_step_is_cut_into_micro_batches_does_not_matter(model: str) -> None:
    def weights(tokens: int) -> dict[str, torch.Tensor]:
        config = rate()
        slow = config.slow.model_copy(update={"tokens_per_micro_batch": tokens})
        with closing(Distiller(Policy(model), config.model_copy(update={"slow": slow}))) as one:
            one.distill(PAIRS)
            return {k: v.detach().clone() for k, v in vars(one)["_model"].named_parameters()}

    whole, cut = weights(8192), weights(16)
    assert whole.keys() == cut.keys()
    assert all(torch.allclose(whole[k], cut[k], atol=1e-4) for k in whole)


def test_nothing_to_learn_from_is_an_error(distiller: Distiller) -> None:
    with pytest.raises(TrainerError, match="at least one completion token"):
        distiller.distill([])


# -- the pairs --------------------------------------------------------------------------------


class Twice(dspy.Module):
    """Two predictors, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.first = dspy.Predict(dspy.make_signature("question -> hint", "Hint."))
        self.second = dspy.Predict(dspy.make_signature("question, hint -> answer", "Answer."))

    def forward(self, question: str) -> Any:
        return self.second(question=question, hint=self.first(question=question).hint)


def field(prompt: str, sampling: Any, rng: Any) -> str:
    name = "hint" if "starting with the field `[[ ## hint" in prompt else "answer"
    return f"[[ ## {name} ## ]]\n{rng.random()}\n\n[[ ## completed ## ]]"


def test_pairs_hold_the_same_tokens_under_two_instructions() -> None:
    seed = Candidate({"first": "Hint.", "second": "Answer."})
    champion = Candidate({"first": "Think of the sea.", "second": "Answer in one word."})
    problems = [
        Problem(f"p{k}", dspy.Example(question=f"q{k}").with_inputs("question")) for k in range(3)
    ]
    host = ScriptedHost(field)
    dictating = DictatingHost(host)
    limits = Limits(concurrency=3, retries=0)
    sampling = Sampling(max_tokens=200)
    with closing(Runner(Twice(), lambda gold, pred: 1.0, host, limits=limits)) as runner:
        ours = runner.collect([(p, seed) for p in problems], sampling)
    dictating.dictate(ours)
    with closing(Runner(Twice(), lambda gold, pred: 1.0, dictating, limits=limits)) as reader:
        theirs = reader.collect([(p, champion) for p in problems], sampling)
    pairs, left_out = pairs_of(ours, theirs, None)
    assert (len(pairs), left_out) == (6, 0)
    decode = host.tokenizer.decode
    for rollout, own in zip(ours, zip(pairs[::2], pairs[1::2], strict=True), strict=True):
        for call, pair in zip(rollout.calls, own, strict=True):
            assert pair.completion_ids == call.completion_ids
            assert pair.student_ids == call.prompt_ids
            assert "Think of the sea." in decode(pair.teacher_ids) or (
                "Answer in one word." in decode(pair.teacher_ids)
            )
            assert "sea" not in decode(pair.student_ids)
    only, _ = pairs_of(ours, theirs, {"second": None})
    assert only == pairs[1::2]
    shuffled, left_out = pairs_of(ours, theirs[::-1], None)
    assert (len(shuffled), left_out) == (2, 2)  # the one in the middle is its own counterpart


class Both(dspy.Module):
    """One predictor, asked about ``left`` and ``right``; every second run begins with the right."""

    begun: ClassVar[list[str]] = []

    def __init__(self) -> None:
        super().__init__()
        self.solve = dspy.Predict(dspy.make_signature("question -> answer", "Answer."))

    def forward(self, question: str) -> Any:
        sides = ["left", "right"] if len(self.begun) % 2 == 0 else ["right", "left"]
        self.begun.append(question)
        answers = [self.solve(question=side).answer for side in sides]
        return dspy.Prediction(answer=" ".join(answers))


def test_answers_to_other_questions_are_not_paired() -> None:
    Both.begun.clear()
    seed, sampling = Candidate({"solve": "Answer."}), Sampling(max_tokens=200)
    jobs = [(Problem("p", dspy.Example(question="q").with_inputs("question")), seed)]
    host = ScriptedHost(field)
    dictating = DictatingHost(host)
    with closing(Runner(Both(), lambda gold, pred: 1.0, host)) as runner:
        ours = runner.collect(jobs, sampling)
    dictating.dictate(ours)
    with closing(Runner(Both(), lambda gold, pred: 1.0, dictating)) as reader:
        swapped, same = (reader.collect(jobs, sampling) for _ in range(2))
    assert pairs_of(ours, swapped, None) == ([], 1)
    pairs, left_out = pairs_of(ours, same, None)
    assert (len(pairs), left_out) == (2, 0)


def test_inputs_that_cannot_be_compared_are_not_paired() -> None:
    def asked(value: object) -> Rollout:
        call = Call("solve", (), (1,), (2,), (0.0,), "stop", 0, 1.0, "a", {"table": value})
        return Rollout("p", "c", 0, (call,), Feedback(1.0), Outcome.OK)

    assert pairs_of([asked([1])], [asked([1])], None)[1] == 0
    assert pairs_of([asked(torch.ones(2))], [asked(torch.ones(2))], None) == ([], 1)


def test_a_dictating_host_samples_nothing() -> None:
    host = DictatingHost(ScriptedHost(field))
    with pytest.raises(ServingError, match="nothing is dictated"):
        host.submit((1, 2), Sampling(), (0, 0)).result()
    with pytest.raises(ServingError, match="no weights"):
        host.update(Policy("x"))


# -- the plan ---------------------------------------------------------------------------------


def test_the_stage_is_paid_for_out_of_the_same_budget() -> None:
    config = parse({"arm": "distill", "budget": {"cycles": 4}, "distill": {"steps": 10}})
    assert distill_rollouts(config) == 10 * 16 * 2
    spent = sum(phase_rollouts(phase, config) for phase in plan(config))
    assert spent + distill_rollouts(config) <= total_rollouts(config)
    assert len({p.cycle for p in plan(config)}) == 3  # the fourth cycle is not whole any more


@pytest.mark.parametrize("arm", ["fst", "gepa", "sequential"])
def test_any_arm_with_an_instruction_can_have_the_stage(arm: str) -> None:
    assert distill_steps(parse({"arm": arm})) == 0
    assert distill_steps(parse({"arm": arm, "distill": {"steps": 5}})) == 5


@pytest.mark.parametrize(("arm", "steps"), [("rl", 3), ("distill", 0)])
def test_a_stage_that_makes_no_sense_is_refused(arm: str, steps: int) -> None:
    with pytest.raises(ConfigError, match=r"distill\.steps: got"):
        parse({"arm": arm, "distill": {"steps": steps}})
    assert distill_steps(parse({"arm": "rl"})) == 0


def test_a_budget_that_cannot_pay_a_cycle_beside_the_stage_says_so() -> None:
    config = parse({"arm": "distill", "budget": {"rollouts": 1600}, "distill": {"steps": 10}})
    with pytest.raises(
        ConfigError, match=r"got 1600, of which \[distill\] takes 320, but one cycle"
    ):
        plan(config)

"""The semantic lock: what a user may rely on about credit. Change the code, not these tests.

 1. Predictors are told apart by name, also where their prompts are equal.
 2. A predictor called 0, 1 or 3 times in a group: each call carries its own rollout's advantage.
 3. Where a program failed at its second predictor, the first one's call carries the failure too.
 4. A masked rollout leaves a group of G − 1 with exactly the advantages of G − 1.
 5. A group with one scored rollout carries no gradient.
 6. Where the metric scores a predictor, its calls are compared by that score alone.
 7. A rollout without such a score keeps its own advantage, and stays out of that comparison.
 8. A predictor that is scored once in a group has nothing to be compared with: as if unscored.
 9. The three weightings share out a problem's weight by tokens, by rollouts, by calls.
10. Predictors that do not learn give no samples, but their rollouts count in mean and deviation.
11. Credit for a part of an answer is a score like any other.

Advantages are (r − mean) / (deviation + ε) with ε = 0.01 here, the deviation over n − 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from fst_agents.bridge import Weighting, to_samples
from fst_agents.outcomes import FailureScores, failure_feedback
from fst_agents.types import Call, Feedback, Outcome, Rollout, RolloutGroup, TrainingSample

EPSILON = 0.01


def call(predictor: str, tokens: int = 1) -> Call:
    """A call of so many tokens; its prompt is 1, 2 whoever makes it."""
    return Call(
        predictor=predictor,
        messages=(),
        prompt_ids=(1, 2),
        completion_ids=tuple(range(10, 10 + tokens)),
        logprobs=(-0.5,) * tokens,
        finish_reason="stop",
        policy_version=0,
        temperature=1.0,
        text="",
        outputs={"answer": "a"},
    )


def unread(predictor: str) -> Call:
    """A call whose answer could not be read."""
    return replace(call(predictor), outputs=None)


def rollout(
    score: float | None,
    *calls: Call,
    outcome: Outcome = Outcome.OK,
    own: Mapping[str, float] | None = None,
) -> Rollout:
    return Rollout("p", "c", 0, calls, Feedback(score, predictor_scores=own or {}), outcome)


def samples(
    *rollouts: Rollout, weighting: Weighting = "problem", train: Sequence[str] | None = None
) -> tuple[TrainingSample, ...]:
    batch = to_samples(
        [RolloutGroup("p", rollouts)],
        policy_version=0,
        temperature=1.0,
        weighting=weighting,
        epsilon=EPSILON,
        train=train,
    )
    return batch.samples


def check(found: Sequence[TrainingSample], expected: Sequence[tuple[str, float]]) -> None:
    """Predictors and advantages, sample by sample."""
    assert [sample.predictor for sample in found] == [name for name, _ in expected]
    assert [sample.advantage for sample in found] == pytest.approx([a for _, a in expected])


def test_1_predictors_of_one_signature_are_told_apart() -> None:
    """Scores 1, 0: mean ½, deviation √(2·¼) = √½. Own scores of draft 0, 1 turn its signs around;
    final has none and follows the program. The prompts and tokens are all the same."""
    pair = (call("draft"), call("final"))
    a = 0.5 / (math.sqrt(0.5) + EPSILON)
    found = samples(
        rollout(1, *pair, own={"draft": 0}),
        rollout(0, *pair, own={"draft": 1}),
    )
    check(found, [("draft", -a), ("final", a), ("draft", a), ("final", -a)])


def test_2_a_predictor_may_be_called_never_once_or_three_times() -> None:
    """Scores 1, ½, 0: mean ½, deviation √((¼ + 0 + ¼)/2) = ½, so ±½/(½ + 0.01) and 0. The search
    of the middle rollout was called three times, in the last never."""
    a = 0.5 / (0.5 + EPSILON)
    found = samples(
        rollout(1, call("search"), call("answer")),
        rollout(0.5, *[call("search")] * 3, call("answer")),
        rollout(0, call("answer")),
    )
    check(
        found,
        [
            ("search", a),
            ("answer", a),
            *[("search", 0.0)] * 3,
            ("answer", 0.0),
            ("answer", -a),
        ],
    )


def test_3_a_failed_second_predictor_is_charged_to_both_calls() -> None:
    """Scores 1 and 0 (the failure): ±½/(√½ + 0.01)."""
    a = 0.5 / (math.sqrt(0.5) + EPSILON)
    broken = unread("second")
    found = samples(
        rollout(1, call("first"), call("second")),
        rollout(0, call("first"), broken, outcome=Outcome.PARSE_FAILURE),
    )
    check(found, [("first", a), ("second", a), ("first", -a), ("second", -a)])


@pytest.mark.parametrize("outcome", [o for o in Outcome if o.masked])
def test_4_a_masked_rollout_leaves_the_advantages_of_the_rest(outcome: Outcome) -> None:
    """Of scores 1, 0, 0 and a masked 1: mean ⅓ (not ½), deviation √((4/9 + 2/9)/2) = √⅓; so
    ⅔/(√⅓ + 0.01) and twice −⅓/(√⅓ + 0.01), and the masked call is no sample."""
    unit = 1 / 3 / (math.sqrt(1 / 3) + EPSILON)
    rest = [rollout(1, call("p")), rollout(0, call("p")), rollout(0, call("p"))]
    found = samples(*rest, rollout(1, call("p"), outcome=outcome))
    check(found, [("p", 2 * unit), ("p", -unit), ("p", -unit)])
    assert found == samples(*rest)


def test_5_a_group_with_one_scored_rollout_carries_no_gradient() -> None:
    """Not even where the metric scores its predictors."""
    lonely = rollout(1, call("p"), own={"p": 1})
    assert samples(lonely, rollout(1, call("p"), outcome=Outcome.INFRA_ERROR)) == ()
    assert samples(lonely, rollout(None, call("p"))) == ()


def test_6_partial_scores_of_a_predictor_give_it_advantages_of_its_own() -> None:
    """Program scores 1, 0, 0: ⅔ and −⅓ over √⅓ + 0.01. Own scores of plan ½, ½, 0: mean ⅓,
    squares 2·(1/36) + 1/9 = 1/6, over 2 gives 1/12; so 1/6 and −1/3 over √(1/12) + 0.01."""
    program = 1 / 3 / (math.sqrt(1 / 3) + EPSILON)
    plan = 1 / 6 / (math.sqrt(1 / 12) + EPSILON)
    pair = (call("plan"), call("solve"))
    found = samples(
        rollout(1, *pair, own={"plan": 0.5}),
        rollout(0, *pair, own={"plan": 0.5}),
        rollout(0, *pair, own={"plan": 0}),
    )
    check(
        found,
        [
            ("plan", plan),
            ("solve", 2 * program),
            ("plan", plan),
            ("solve", -program),
            ("plan", -2 * plan),
            ("solve", -program),
        ],
    )


def test_7_a_rollout_without_own_scores_keeps_its_own_advantage() -> None:
    """Program scores 1, 0, 0, the last a failure: it keeps −⅓/(√⅓ + 0.01). The two others are
    compared by their own scores 0, 1 alone: ∓½/(√½ + 0.01)."""
    program = 1 / 3 / (math.sqrt(1 / 3) + EPSILON)
    own = 0.5 / (math.sqrt(0.5) + EPSILON)
    found = samples(
        rollout(1, call("plan"), own={"plan": 0}),
        rollout(0, call("plan"), own={"plan": 1}),
        rollout(0, unread("plan"), outcome=Outcome.PARSE_FAILURE),
    )
    check(found, [("plan", -own), ("plan", own), ("plan", -program)])


def test_8_one_success_among_failures_is_not_lost_for_want_of_a_comparison() -> None:
    """Scores 1, 0, 0, 0 of which only the first has an own score: mean ¼, deviation ½, so
    ¾/0.51 and three times −¼/0.51, as if there were no own scores."""
    failed = rollout(0, unread("p"), outcome=Outcome.TRUNCATED)
    found = samples(rollout(1, call("p"), own={"p": 1}), failed, failed, failed)
    check(found, [("p", 0.75 / 0.51), *[("p", -0.25 / 0.51)] * 3])


@pytest.mark.parametrize(
    ("weighting", "weights"),
    [
        ("problem", [1 / 8] * 4),
        ("rollout", [1 / 4, 1 / 12, 1 / 12, 1 / 12]),
        ("call", [1 / 8, 1 / 4, 1 / 12, 1 / 8]),
    ],
)
def test_9_each_weighting_shares_out_a_problem_by_its_own_unit(
    weighting: Weighting, weights: list[float]
) -> None:
    """One rollout with a call of 2 tokens, one with calls of 1, 3 and 2: per token

    * problem: 8 tokens in all, 1/8 each;
    * rollout: half a problem each: 1/(2·2) and 1/(2·6);
    * call: a quarter of a problem each: 1/(4·2), 1/(4·1), 1/(4·3), 1/(4·2).
    """
    found = samples(
        rollout(1, call("a", 2)),
        rollout(0, call("a", 1), call("b", 3), call("b", 2)),
        weighting=weighting,
    )
    assert [s.weight for s in found] == pytest.approx(weights)
    assert sum(s.weight * len(s.completion_ids_T) for s in found) == pytest.approx(1.0)


def test_10_a_frozen_predictor_counts_in_the_mean_but_is_not_trained() -> None:
    """Scores 1, 0, 0, the second rollout with frozen calls only: the mean stays ⅓, not ½."""
    unit = 1 / 3 / (math.sqrt(1 / 3) + EPSILON)
    found = samples(
        rollout(1, call("solve"), call("judge")),
        rollout(0, call("judge")),
        rollout(0, call("solve"), call("judge")),
        train=["solve"],
    )
    check(found, [("solve", 2 * unit), ("solve", -unit)])


def test_11_credit_for_a_part_of_an_answer_makes_a_difference() -> None:
    """Failure 0, credit 0.4, one of two fields read: 0.2. Scores 0.2, 0, 0: mean 1/15, squares
    (4 + 1 + 1)/225, over 2 gives 3/225; so 2/15 and −1/15 over √3/15 + 0.01."""
    scores = FailureScores(failure=0.0, partial=0.4)

    def failed(call: Call) -> Rollout:
        error = ValueError("unreadable")
        feedback = failure_feedback(Outcome.PARSE_FAILURE, error, [call], scores)
        return Rollout("p", "c", 0, (call,), feedback, Outcome.PARSE_FAILURE)

    unit = 1 / 15 / (math.sqrt(3) / 15 + EPSILON)
    half = replace(unread("p"), partial={"a": "x"}, missing=("b",))
    found = samples(failed(half), failed(unread("p")), failed(unread("p")))
    check(found, [("p", 2 * unit), ("p", -unit), ("p", -unit)])

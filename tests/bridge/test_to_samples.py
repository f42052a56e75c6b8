"""The bridge: advantages, weights, merging, and what is refused. Golden values by hand."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fst_agents.bridge import Batch, Weighting, advantages, to_samples
from fst_agents.bridge_report import PredictorCounts
from fst_agents.errors import StalePolicyError, TrainerError
from fst_agents.types import Call, Feedback, Outcome, Rollout, RolloutGroup, TrainingSample


def call(
    completion: Sequence[int] = (7, 8),
    prompt: Sequence[int] = (1, 2, 3),
    *,
    predictor: str = "solve",
    version: int = 0,
    temperature: float = 1.0,
    logprob: float = -0.5,
) -> Call:
    return Call(
        predictor=predictor,
        messages=(),
        prompt_ids=tuple(prompt),
        completion_ids=tuple(completion),
        logprobs=(logprob,) * len(completion),
        finish_reason="stop",
        policy_version=version,
        temperature=temperature,
        text="",
    )


def rollout(
    score: float | None,
    *calls: Call,
    problem: str = "p",
    candidate: str = "c",
    outcome: Outcome = Outcome.OK,
    predictor_scores: Mapping[str, float] | None = None,
    version: int = 0,
) -> Rollout:
    feedback = Feedback(score, predictor_scores=predictor_scores or {})
    return Rollout(problem, candidate, version, calls or (call(),), feedback, outcome)


def group(*rollouts: Rollout) -> RolloutGroup:
    return RolloutGroup(rollouts[0].problem_id, rollouts)


def convert(
    *groups: RolloutGroup, weighting: Weighting = "problem", train: Sequence[str] | None = None
) -> Batch:
    return to_samples(
        groups, policy_version=0, temperature=1.0, weighting=weighting, epsilon=1e-4, train=train
    )


def token_weight(sample: TrainingSample) -> float:
    """Weight over all trained tokens of a sample."""
    return sample.weight * sum(sample.loss_mask_T)


def test_one_success_in_four_is_worth_three_failures() -> None:
    """Scores 1, 0, 0, 0: mean 1/4; squares (9 + 1 + 1 + 1)/16 = 3/4, over n − 1 = 3 gives a
    variance of 1/4 and a deviation of 1/2; so (3/4)/(1/2) = 1.5 and (−1/4)/(1/2) = −0.5."""
    assert advantages([1, 0, 0, 0], epsilon=0.0) == pytest.approx([1.5, -0.5, -0.5, -0.5])


def test_epsilon_stands_beside_the_deviation() -> None:
    """Scores 1, 0: mean 1/2, variance (1/4 + 1/4)/1 = 1/2, so ±0.5 / (√½ + 0.1)."""
    expected = 0.5 / (math.sqrt(0.5) + 0.1)
    assert advantages([1, 0], epsilon=0.1) == pytest.approx([expected, -expected])


@pytest.mark.parametrize("scores", [[], [3.0], [0.1 + 0.2, 0.3], [5.0] * 4])
def test_scores_that_do_not_differ_have_no_advantage(scores: list[float]) -> None:
    assert advantages(scores, epsilon=1e-4) == [0.0] * len(scores)


def test_advantage_compares_candidates_with_each_other() -> None:
    """Candidate a scores 1, 1 and b scores 0, 0: within each all is flat, over the problem it is
    not. Variance 4·¼/3 = ⅓, so ±½·√3, and all of it lies between candidates."""
    groups = group(*(rollout(s, candidate=c) for c, s in [("a", 1), ("a", 1), ("b", 0), ("b", 0)]))
    batch = convert(groups)
    expected = 0.5 / (math.sqrt(1 / 3) + 1e-4)
    assert [s.advantage for s in batch.samples] == pytest.approx([expected] * 2 + [-expected] * 2)
    assert batch.report.between_share == pytest.approx(1.0)
    assert {c: r.reward for c, r in batch.report.candidates.items()} == {"a": 1.0, "b": 0.0}


def test_variance_within_candidates_is_told_from_variance_between() -> None:
    """a: 1, 0; b: 0, 0. Mean ¼, total 9/16 + 3/16 = ¾. Between: 2(½ − ¼)² + 2(0 − ¼)² = ¼."""
    pairs = [("a", 1), ("a", 0), ("b", 0), ("b", 0)]
    report = convert(group(*(rollout(s, candidate=c) for c, s in pairs))).report
    assert report.between_share == pytest.approx(1 / 3)
    assert report.within_share == pytest.approx(2 / 3)
    assert report.metrics()["slow/between_share"] == pytest.approx(1 / 3)


def test_flat_groups_are_dropped_and_counted() -> None:
    batch = convert(
        group(rollout(1, problem="flat"), rollout(1, problem="flat")),
        group(rollout(1, problem="kept"), rollout(0, problem="kept")),
    )
    assert {s.problem_id for s in batch.samples} == {"kept"}
    assert (batch.report.groups, batch.report.kept_groups, batch.report.flat_groups) == (2, 1, 1)
    assert batch.report.reward == pytest.approx(0.75)


def test_a_batch_of_flat_groups_has_no_samples() -> None:
    batch = convert(group(rollout(0), rollout(0)))
    assert batch.samples == ()
    assert batch.report.between_share is None
    assert "slow/between_share" not in batch.report.metrics()


def test_masked_and_unscored_rollouts_leave_the_group() -> None:
    """What stays is 1, 0: ±½/√½. Their other version and empty call harm nobody."""
    batch = convert(
        group(
            rollout(1),
            rollout(0),
            rollout(1, outcome=Outcome.TIMEOUT, version=9),
            rollout(1, call(()), outcome=Outcome.INFRA_ERROR),
            rollout(None),
        )
    )
    expected = 0.5 / (math.sqrt(0.5) + 1e-4)
    assert [s.advantage for s in batch.samples] == pytest.approx([expected, -expected])
    assert (batch.report.masked, batch.report.unscored) == (2, 1)
    metrics = batch.report.metrics()
    assert (metrics["slow/masked"], metrics["slow/outcome/timeout"]) == (2, 1)
    assert (metrics["slow/outcome/ok"], metrics["slow/outcome/truncated"]) == (3, 0)


def test_task_failures_count_with_their_score() -> None:
    """A parse failure is the policy's fault: zero, not masked."""
    batch = convert(group(rollout(1), rollout(0, outcome=Outcome.PARSE_FAILURE)))
    assert len(batch.samples) == 2


def test_one_scored_rollout_is_too_thin_to_learn_from() -> None:
    batch = convert(group(rollout(1), rollout(None)))
    assert batch.samples == ()
    assert (batch.report.thin_groups, batch.report.flat_groups) == (1, 0)


def test_every_call_carries_the_advantage_of_its_rollout() -> None:
    two = (call(predictor="plan"), call((9,), predictor="solve"))
    batch = convert(group(rollout(1, *two), rollout(0, *two)))
    assert [s.predictor for s in batch.samples] == ["plan", "solve"] * 2
    assert len({s.advantage for s in batch.samples[:2]}) == 1
    counts = batch.report.predictors
    assert {name: c.trained_calls for name, c in counts.items()} == {"plan": 2, "solve": 2}


def test_a_scored_predictor_has_an_advantage_of_its_own() -> None:
    """Program scores 1, 0; plan scores 0, 1: the plan's signs are turned around."""
    two = (call(predictor="plan"), call(predictor="solve"))
    batch = convert(
        group(
            rollout(1, *two, predictor_scores={"plan": 0}),
            rollout(0, *two, predictor_scores={"plan": 1}),
        )
    )
    signs = {(s.predictor, s.advantage > 0) for s in batch.samples}
    assert signs == {("plan", False), ("plan", True), ("solve", True), ("solve", False)}
    assert batch.samples[0].advantage == -batch.samples[1].advantage


def test_predictor_scores_can_keep_a_group_whose_program_scores_are_flat() -> None:
    batch = convert(
        group(rollout(1, predictor_scores={"solve": 1}), rollout(1, predictor_scores={"solve": 0}))
    )
    assert batch.report.kept_groups == 1
    assert batch.fates == ("kept",)


def test_a_predictor_score_without_a_second_one_leaves_the_rollouts_advantage() -> None:
    """Scores 1, 0 give ±½/√½; a column of one score could only give 0, and lose the success."""
    batch = convert(group(rollout(1, predictor_scores={"solve": 1}), rollout(0)))
    expected = 0.5 / (math.sqrt(0.5) + 1e-4)
    assert [s.advantage for s in batch.samples] == pytest.approx([expected, -expected])


def test_frozen_predictors_give_no_samples_but_their_rollouts_count() -> None:
    """The middle rollout has no trained call, yet the mean is over 1, 0, 0: A₁ = ⅔/√⅓."""
    frozen = call(predictor="judge", temperature=0.0)
    batch = convert(
        group(rollout(1, call(), frozen), rollout(0, frozen), rollout(0, call(), frozen)),
        train=["solve"],
    )
    assert [s.predictor for s in batch.samples] == ["solve", "solve"]
    assert batch.samples[0].advantage == pytest.approx(2 / 3 / (math.sqrt(1 / 3) + 1e-4))


def test_a_group_of_frozen_calls_is_counted_apart() -> None:
    batch = convert(group(rollout(1), rollout(0)), train=["other"])
    assert batch.report.untrained_groups == 1
    assert batch.report.flat_groups == 0


def test_problem_weighting_averages_the_tokens_of_a_problem() -> None:
    """One kept problem, 1 + 3 trained tokens: each token weighs 1/4."""
    batch = convert(group(rollout(1, call((7,))), rollout(0, call((7, 8, 9)))))
    assert [s.weight for s in batch.samples] == [0.25, 0.25]


def test_rollout_weighting_averages_rollouts() -> None:
    """Two rollouts of 1 and 2 + 2 tokens: 1/2 and 1/8 per token."""
    batch = convert(
        group(rollout(1, call((7,))), rollout(0, call(), call((8, 9)))), weighting="rollout"
    )
    assert [s.weight for s in batch.samples] == [0.5, 0.125, 0.125]


def test_call_weighting_averages_calls() -> None:
    """Three calls of 1, 2 and 4 tokens: 1/3, 1/6, 1/12 per token."""
    batch = convert(
        group(rollout(1, call((7,))), rollout(0, call(), call((8, 9, 8, 9)))), weighting="call"
    )
    assert [s.weight for s in batch.samples] == pytest.approx([1 / 3, 1 / 6, 1 / 12])


def test_a_call_that_continues_the_last_one_merges_with_it() -> None:
    """The bridging tool result 5, 6 was not sampled: mask 0, log-probability 0."""
    first = call((7, 8), (1, 2), logprob=-0.1)
    second = call((9,), (1, 2, 7, 8, 5, 6), logprob=-0.2)
    batch = convert(group(rollout(1, first, second), rollout(0, call((3,)))))
    merged = batch.samples[0]
    assert merged.prompt_ids == (1, 2)
    assert merged.completion_ids_T == (7, 8, 5, 6, 9)
    assert merged.loss_mask_T == (1, 1, 0, 0, 1)
    assert merged.logprobs_T == (-0.1, -0.1, 0.0, 0.0, -0.2)
    assert merged.weight == 0.25
    assert batch.report.tokens == 4


def test_three_turns_merge_into_one() -> None:
    turns = (call((7,), (1,)), call((8,), (1, 7)), call((9,), (1, 7, 8, 4)))
    batch = convert(group(rollout(1, *turns), rollout(0)))
    assert batch.samples[0].completion_ids_T == (7, 8, 4, 9)


@pytest.mark.parametrize(
    "second",
    [
        call((9,), (1, 2, 7)),
        call((9,), (1, 2, 7, 9, 5)),
        call((9,), (1, 2, 7, 8, 5), predictor="other"),
    ],
    ids=["shorter", "another completion", "another predictor"],
)
def test_a_call_that_does_not_continue_stays_apart(second: Call) -> None:
    batch = convert(group(rollout(1, call((7, 8), (1, 2)), second), rollout(0)))
    assert len(batch.samples) == 3


def test_call_weighting_does_not_merge() -> None:
    turns = (call((7, 8), (1, 2)), call((9,), (1, 2, 7, 8, 5)))
    batch = convert(group(rollout(1, *turns), rollout(0)), weighting="call")
    assert len(batch.samples) == 3


@pytest.mark.parametrize(
    "stale", [rollout(1, version=3), rollout(1, call(version=3))], ids=["rollout", "call"]
)
def test_another_policy_version_is_refused(stale: Rollout) -> None:
    with pytest.raises(StalePolicyError, match="version 3"):
        convert(group(stale, rollout(0)))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (call(temperature=0.7), "temperature 0.7"),
        (call(logprob=math.nan), "not finite"),
        (call(logprob=-math.inf), "not finite"),
        (call(logprob=0.1), "positive"),
        (call(()), "no tokens"),
        (call(prompt=()), "prompt has no tokens"),
    ],
)
def test_calls_unfit_to_learn_from_are_refused(bad: Call, message: str) -> None:
    with pytest.raises(TrainerError, match=message):
        convert(group(rollout(1, bad), rollout(0)))


def test_a_logprob_above_zero_by_rounding_passes() -> None:
    assert convert(group(rollout(1, call(logprob=5e-7)), rollout(0))).samples


def test_a_score_that_is_no_number_is_refused() -> None:
    with pytest.raises(TrainerError, match="score is nan"):
        convert(group(rollout(math.nan), rollout(0)))


def test_every_predictor_is_accounted_for() -> None:
    """plan: three calls of 2 tokens, one unread and cut off, one in a masked rollout; two of its
    calls are trained, each a sample. solve: two calls that continue one another, one sample."""
    cut = replace(call(predictor="plan"), finish_reason="length")
    plan = replace(call(predictor="plan"), outputs={"plan": "p"})
    turns = (call((7,), (1,)), call((9,), (1, 7, 5)))
    turns = tuple(replace(turn, outputs={"answer": "a"}) for turn in turns)
    report = convert(
        group(
            rollout(1, plan, *turns, predictor_scores={"plan": 1.0}),
            rollout(0, cut, outcome=Outcome.TRUNCATED, candidate="d"),
            rollout(None, plan, outcome=Outcome.TIMEOUT),
        )
    ).report
    assert report.predictors == {
        "plan": PredictorCounts(
            calls=3, trained_calls=2, samples=2, tokens=6, parse_failures=1, truncated=1
        ),
        "solve": PredictorCounts(calls=2, trained_calls=2, samples=1, tokens=2),
    }
    metrics = report.metrics()
    assert metrics["slow/predictor/plan/parse_failures"] == 1
    assert metrics["slow/predictor/plan/reward"] == 1.0
    assert "slow/predictor/solve/reward" not in metrics
    assert not [name for name in metrics if "candidate" in name]
    assert report.candidate_metrics() == {
        "slow/candidate/c/rollouts": 2.0,
        "slow/candidate/c/reward": 1.0,
        "slow/candidate/c/outcome/ok": 1.0,
        "slow/candidate/c/outcome/timeout": 1.0,
        "slow/candidate/d/rollouts": 1.0,
        "slow/candidate/d/reward": 0.0,
        "slow/candidate/d/outcome/truncated": 1.0,
    }


counts = st.builds(PredictorCounts, *[st.integers(0, 9)] * 6)


@given(counts, counts, counts)
def test_counts_add_up_in_any_order(
    a: PredictorCounts, b: PredictorCounts, c: PredictorCounts
) -> None:
    assert a + b == b + a
    assert (a + b) + c == a + (b + c)
    assert a + PredictorCounts() == a
    assert (a + b).truncated == a.truncated + b.truncated


calls = st.lists(
    st.builds(
        call,
        completion=st.lists(st.integers(0, 3), min_size=1, max_size=3),
        prompt=st.lists(st.integers(0, 3), min_size=1, max_size=5),
        predictor=st.sampled_from(["plan", "solve"]),
    ),
    min_size=1,
    max_size=3,
)
scores = st.one_of(st.none(), st.sampled_from([0.0, 0.25, 0.5, 1.0]))
outcomes = st.sampled_from([Outcome.OK, Outcome.OK, Outcome.TRUNCATED, Outcome.TIMEOUT])


@st.composite
def batches(draw: st.DrawFn) -> list[RolloutGroup]:
    return [
        group(
            *(
                rollout(
                    draw(scores),
                    *draw(calls),
                    problem=f"p{i}",
                    candidate=draw(st.sampled_from("ab")),
                    outcome=draw(outcomes),
                )
                for _ in range(draw(st.integers(1, 5)))
            )
        )
        for i in range(draw(st.integers(1, 4)))
    ]


@given(batches(), st.sampled_from(["problem", "rollout", "call"]))
def test_every_kept_problem_weighs_the_same(groups: list[RolloutGroup], w: Weighting) -> None:
    batch = convert(*groups, weighting=w)
    weights: defaultdict[str, float] = defaultdict(float)
    for sample in batch.samples:
        weights[sample.problem_id] += token_weight(sample)
    assert len(weights) == batch.report.kept_groups
    for weight in weights.values():
        assert weight == pytest.approx(1 / batch.report.kept_groups)


@given(batches())
def test_the_groups_are_all_accounted_for(groups: list[RolloutGroup]) -> None:
    r = convert(*groups).report
    assert r.groups == r.kept_groups + r.flat_groups + r.thin_groups + r.untrained_groups
    every = [x for g in groups for x in g.rollouts_G]
    assert sum(r.outcomes.values()) == r.rollouts == len(every)
    assert sum(c.rollouts for c in r.candidates.values()) == r.rollouts
    for outcome, count in r.outcomes.items():
        assert count == sum(c.outcomes[outcome] for c in r.candidates.values())
    assert sum(c.calls for c in r.predictors.values()) == sum(len(x.calls) for x in every)
    for counts in r.predictors.values():
        assert counts.samples <= counts.trained_calls <= counts.calls


@given(batches(), st.randoms())
def test_the_order_of_rollouts_does_not_matter(groups: list[RolloutGroup], random: Random) -> None:
    def shuffled(g: RolloutGroup) -> RolloutGroup:
        return RolloutGroup(g.problem_id, tuple(random.sample(g.rollouts_G, len(g.rollouts_G))))

    before, after = convert(*groups), convert(*[shuffled(g) for g in reversed(groups)])
    assert sorted(map(repr, before.samples)) == sorted(map(repr, after.samples))
    assert before.report == after.report


@given(batches())
def test_a_masked_rollout_is_as_if_never_drawn(groups: list[RolloutGroup]) -> None:
    cleaned = [
        RolloutGroup(g.problem_id, tuple(r for r in g.rollouts_G if r.score is not None))
        for g in groups
    ]
    assert convert(*groups).samples == convert(*cleaned).samples


@given(batches())
def test_advantages_of_a_problem_cancel_over_its_rollouts(groups: list[RolloutGroup]) -> None:
    for g in groups:
        column = [r.score for r in g.rollouts_G if r.score is not None]
        assert sum(advantages(column, 1e-4)) == pytest.approx(0.0, abs=1e-9)

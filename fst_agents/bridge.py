"""From rollout groups to training samples: pure, no foreign library.

What is decided here, once, for every trainer (arXiv 2605.12484, slow phase):

* The advantage is computed once per problem over *all* scored rollouts of its group, whichever
  candidate they ran under. Masked and unscored rollouts leave the group as if never drawn.
* Groups whose scores are all equal carry no gradient: dropped and counted, never resampled.
* Each token's weight is explicit; over one batch the weights of all trained tokens sum to 1.
* Calls that continue one another (an agent's turns) become one sequence.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from fst_agents.bridge_report import BridgeReport, Fate, flat, make_report, score_of
from fst_agents.errors import StalePolicyError, TrainerError
from fst_agents.types import Call, Rollout, RolloutGroup, TrainingSample

Weighting = Literal["problem", "rollout", "call"]

LOGPROB_SLACK = 1e-6
"""How far above 0 a log-probability may lie by rounding."""


@dataclass(frozen=True, slots=True)
class Batch:
    """The samples of one slow step, what became of each group, and the account of it all."""

    samples: tuple[TrainingSample, ...]
    fates: tuple[Fate, ...]
    report: BridgeReport


@dataclass(frozen=True, slots=True)
class _Turn:
    """A trained call, the advantage it carries and the rollout it belongs to."""

    call: Call
    advantage: float
    rollout: Rollout


@dataclass(frozen=True, slots=True)
class _Problem:
    """What is to become of one group; the trained calls per rollout where it is kept."""

    fate: Fate
    turns_G: tuple[tuple[_Turn, ...], ...]


def advantages(scores_G: Sequence[float], epsilon: float) -> list[float]:
    """``A_i = (r_i − mean) / (std + ε)`` over one group (arXiv 2605.12484, slow phase).

    ``std`` is the sample deviation (n − 1), as in TRL and most GRPO code, so that a group under
    a single candidate gets the advantages plain GRPO would give it. A flat group and a group of
    fewer than two have no deviation to speak of: all zeros.
    """
    if flat(scores_G):
        return [0.0] * len(scores_G)
    mean = math.fsum(scores_G) / len(scores_G)
    squares = math.fsum((r - mean) ** 2 for r in scores_G)
    std = math.sqrt(squares / (len(scores_G) - 1))
    return [(r - mean) / (std + epsilon) for r in scores_G]


def to_samples(
    groups: Sequence[RolloutGroup],
    *,
    policy_version: int,
    temperature: float,
    weighting: Weighting = "problem",
    epsilon: float,
    train: Collection[str] | None = None,
) -> Batch:
    """Turn the groups of one batch into weighted samples.

    Every call carries its rollout's advantage, or, where the metric scores its predictor, the
    advantage of that score among the group's scores of the same predictor. Where it scores a
    predictor in some rollouts of a group only (a failed one has no predictor scores), the calls in
    the others carry their rollout's advantage; and so do all calls of a predictor that is scored
    in a single rollout of the group, for there is nothing to compare that score with.

    Weight of a token, with P kept problems:

    * ``problem``: ``1 / (P · N_p)``, N_p the problem's trained tokens. The paper's equation.
    * ``rollout``: ``1 / (P · R_p · tokens of its rollout)``, R_p rollouts with a trained call.
    * ``call``: ``1 / (P · C_p · tokens of its call)``, C_p trained calls of the problem. Calls
      stay apart here: calls of unequal length have unequal token weights.

    Args:
        train: names of the predictors that learn; ``None`` means all. Rollouts without a call of
            theirs still count in their group's mean and deviation.

    Raises:
        StalePolicyError: a scored rollout, or a call of one, has another policy version.
        TrainerError: a trained call was sampled at another temperature, has no tokens, or has
            log-probabilities that are missing, not finite or positive; a score is not finite.
    """
    scored = [[r for r in group.rollouts_G if r.score is not None] for group in groups]
    for rollout in (r for rollouts in scored for r in rollouts):
        _check(rollout, policy_version, temperature, train)
    problems = [_problem(rollouts, epsilon, train) for rollouts in scored]
    kept = [problem for problem in problems if problem.fate == "kept"]
    samples = tuple(s for problem in kept for s in _samples(problem, len(kept), weighting))
    trained = [t.call.predictor for problem in kept for turns in problem.turns_G for t in turns]
    fates: tuple[Fate, ...] = tuple(problem.fate for problem in problems)
    return Batch(samples, fates, make_report(groups, scored, fates, trained, samples))


def _check(
    rollout: Rollout, policy_version: int, temperature: float, train: Collection[str] | None
) -> None:
    where = f"rollout of problem {rollout.problem_id!r} under candidate {rollout.candidate_id}"
    for name, version in [
        ("it", rollout.policy_version),
        *((f"its call of {call.predictor!r}", call.policy_version) for call in rollout.calls),
    ]:
        if version != policy_version:
            raise StalePolicyError(
                f"{where}: {name} was sampled by policy version {version}, but version "
                f"{policy_version} is being trained; collect the group again"
            )
    if not math.isfinite(score_of(rollout)):
        raise TrainerError(f"{where}: score is {rollout.score}; the metric must return a number")
    for name, score in rollout.feedback.predictor_scores.items():
        if not math.isfinite(score):
            raise TrainerError(f"{where}: score of predictor {name!r} is {score}, not a number")
    for call in rollout.calls:
        if (train is None or call.predictor in train) and (fault := _fault(call, temperature)):
            raise TrainerError(f"{where}, predictor {call.predictor!r}: {fault}")


def _fault(call: Call, temperature: float) -> str | None:
    """What makes a call unfit to learn from, if anything."""
    if not call.completion_ids:
        return "the completion has no tokens; a host returns at least the end of sequence"
    if not call.prompt_ids:
        return "the prompt has no tokens; the first token of a completion needs one before it"
    if len(call.logprobs) != len(call.completion_ids):
        return (
            f"{len(call.logprobs)} log-probabilities for {len(call.completion_ids)} tokens; "
            "the host must report one for every token"
        )
    if call.temperature != temperature:
        return (
            f"sampled at temperature {call.temperature}, trained at {temperature}; "
            "the importance ratio needs one and the same"
        )
    wrong = [lp for lp in call.logprobs if not (math.isfinite(lp) and lp <= LOGPROB_SLACK)]
    if wrong:
        return f"{len(wrong)} log-probabilities are not finite or positive, the first {wrong[0]}"
    return None


def _problem(
    rollouts: Sequence[Rollout], epsilon: float, train: Collection[str] | None
) -> _Problem:
    """Judge one group of scored rollouts and give every trained call its advantage."""
    whole = advantages([score_of(r) for r in rollouts], epsilon)
    own = _predictor_advantages(rollouts, epsilon)
    turns_G = tuple(
        tuple(
            _Turn(call, own.get((i, call.predictor), advantage), rollout)
            for call in rollout.calls
            if train is None or call.predictor in train
        )
        for i, (rollout, advantage) in enumerate(zip(rollouts, whole, strict=True))
    )
    spoken_G = tuple(turns for turns in turns_G if turns)
    if len(rollouts) < 2:
        return _Problem("thin", ())
    if not spoken_G and any(whole):
        return _Problem("untrained", ())
    if not any(turn.advantage for turns in spoken_G for turn in turns):
        return _Problem("flat", ())
    return _Problem("kept", spoken_G)


def _predictor_advantages(
    rollouts: Sequence[Rollout], epsilon: float
) -> dict[tuple[int, str], float]:
    """(position in the group, predictor) → advantage, where the metric scores predictors."""
    scores: dict[str, dict[int, float]] = {}
    for i, rollout in enumerate(rollouts):
        for name, score in rollout.feedback.predictor_scores.items():
            scores.setdefault(name, {})[i] = score
    return {
        (i, name): advantage
        for name, column in scores.items()
        if len(column) > 1
        for i, advantage in zip(column, advantages(list(column.values()), epsilon), strict=True)
    }


def _samples(problem: _Problem, problems: int, weighting: Weighting) -> list[TrainingSample]:
    rollouts_G = [[len(turn.call.completion_ids) for turn in turns] for turns in problem.turns_G]
    tokens = sum(sum(lengths) for lengths in rollouts_G)
    calls = sum(len(lengths) for lengths in rollouts_G)
    samples: list[TrainingSample] = []
    for turns, lengths in zip(problem.turns_G, rollouts_G, strict=True):
        if weighting == "call":
            for turn, length in zip(turns, lengths, strict=True):
                samples.append(_sample(turn, 1.0 / (problems * calls * length)))
        elif weighting == "rollout":
            share = problems * len(problem.turns_G) * sum(lengths)
            samples += _merged(turns, 1.0 / share)
        else:
            samples += _merged(turns, 1.0 / (problems * tokens))
    return samples


def _merged(turns: Sequence[_Turn], weight: float) -> list[TrainingSample]:
    """One sample per run of calls that continue one another.

    Calls of one predictor in one rollout carry one advantage, so nothing is lost.
    """
    samples: list[TrainingSample] = []
    last: dict[str, int] = {}
    for turn in turns:
        at = last.get(turn.call.predictor)
        longer = None if at is None else _extended(samples[at], turn)
        if at is not None and longer is not None:
            samples[at] = longer
        else:
            last[turn.call.predictor] = len(samples)
            samples.append(_sample(turn, weight))
    return samples


def _extended(sample: TrainingSample, turn: _Turn) -> TrainingSample | None:
    """The sample continued by a call, if the call's prompt is the sample and then some.

    What lies between the two completions (tool results, the next user turn) was not sampled by
    the policy: mask 0, log-probability 0.0.
    """
    call, seen = turn.call, sample.prompt_ids + sample.completion_ids_T
    if call.prompt_ids[: len(seen)] != seen:
        return None
    bridge = call.prompt_ids[len(seen) :]
    return replace(
        sample,
        completion_ids_T=sample.completion_ids_T + bridge + call.completion_ids,
        loss_mask_T=sample.loss_mask_T + (0,) * len(bridge) + (1,) * len(call.completion_ids),
        logprobs_T=sample.logprobs_T + (0.0,) * len(bridge) + call.logprobs,
    )


def _sample(turn: _Turn, weight: float) -> TrainingSample:
    call = turn.call
    return TrainingSample(
        prompt_ids=call.prompt_ids,
        completion_ids_T=call.completion_ids,
        loss_mask_T=(1,) * len(call.completion_ids),
        logprobs_T=call.logprobs,
        advantage=turn.advantage,
        weight=weight,
        policy_version=call.policy_version,
        problem_id=turn.rollout.problem_id,
        candidate_id=turn.rollout.candidate_id,
        predictor=call.predictor,
    )

"""Φ as sets and scores: the Pareto front, the choice of K diverse members, the dealing of G.

Pure functions over ``scores``: candidate id → problem id → score. Candidates are only ever
compared on the problems that *every* one of them was scored on (:func:`shared_scores`), so that
a masked rollout neither helps nor hurts. The front is GEPA's (arXiv 2507.19457): a candidate
survives if it is best on some problem; the pruning agrees with
``gepa.gepa_utils.find_dominator_programs``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from statistics import fmean

from fst_agents.types import Candidate, Population, Rollout

Scores = Mapping[str, Mapping[str, float]]


def shared_scores(scores: Scores) -> dict[str, dict[str, float]]:
    """The scores on the problems that every candidate was scored on, problems in one order."""
    rows = list(scores.values())
    shared = [p for p in rows[0] if all(p in row for row in rows)] if rows else []
    return {candidate: {p: row[p] for p in shared} for candidate, row in scores.items()}


def front(scores: Scores) -> dict[str, frozenset[str]]:
    """For each shared problem the candidates with its highest score, ties included."""
    rows = shared_scores(scores)
    problems = next(iter(rows.values()), {})
    best = {p: max(row[p] for row in rows.values()) for p in problems}
    return {p: frozenset(c for c, row in rows.items() if row[p] == best[p]) for p in problems}


def pruned_front(scores: Scores) -> tuple[str, ...]:
    """Members of the front that are not redundant, best mean first (ties: smaller id first).

    From the worst mean upwards, a candidate goes if each problem it is best on keeps another
    candidate that is best there. What is left still holds a best candidate of every problem.
    """
    bests = front(scores)
    kept = set[str]().union(*bests.values())
    for candidate in reversed(ranking(scores)):
        if all(len(best & kept) > 1 for best in bests.values() if candidate in best):
            kept.discard(candidate)
    return tuple(c for c in ranking(scores) if c in kept)


def dominated(scores: Scores) -> frozenset[str]:
    """Candidates that another one equals or beats on every shared problem and beats on one."""
    rows = shared_scores(scores)

    def beaten(row: Mapping[str, float], other: Mapping[str, float]) -> bool:
        return other != row and all(other[p] >= score for p, score in row.items())

    return frozenset(c for c, row in rows.items() if any(beaten(row, o) for o in rows.values()))


def ranking(scores: Scores) -> list[str]:
    """Candidate ids by mean over the shared problems, best first; ties by id."""
    means = {c: _mean(row) for c, row in shared_scores(scores).items()}
    return sorted(means, key=lambda c: (-means[c], c))


def diverse_top_k(population: Population, k: int) -> tuple[Candidate, ...]:
    """At most ``k`` members that together cover the most problems, the champion first.

    The champion is the candidate with the highest mean; it stays even where it is best on no
    single problem, because it is what a run ships. Then members of the pruned front follow, each
    time the one with the largest Σ_problems max(0, score − best score so far), ties by mean, then
    by id. When no such member is left, other members of the front follow by mean: as good as a
    chosen one somewhere and not worse everywhere (paraphrases, mostly). Candidates that are best
    on no problem, or dominated, never fill up the rest, so fewer than ``k`` may come back. Texts
    that differ only in white space count once.

    Raises:
        ValueError: ``k`` < 1, or no problem was scored for every candidate.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    scores = shared_scores({c.id: population.scores.get(c.id, {}) for c in population.candidates})
    if not next(iter(scores.values())):
        raise ValueError("no problem was scored for every candidate: there is nothing to compare")
    by_id = {c.id: c for c in population.candidates}
    ranked = _distinct(ranking(scores), by_id)
    scores = {c: scores[c] for c in ranked}
    chosen = _cover(scores, ranked[0], pruned_front(scores), k)
    spare = set[str]().union(*front(scores).values()) - dominated(scores) - set(chosen)
    chosen += [c for c in ranked if c in spare]
    return tuple(by_id[c] for c in chosen[:k])


def rescored(population: Population, rollouts: Iterable[Rollout]) -> Population:
    """Φ by what its members earned in some RL steps, instead of by what they were chosen for.

    A fast phase keeps the highest of many means, which owe a part to luck, and its weights grow
    old; RL steps score every member on every problem anyway. A member's score on a problem is the
    mean of its rollouts there; masked and unscored ones are left out. Φ stays as it is where no
    problem was scored for every member.
    """
    earned: dict[str, dict[str, list[float]]] = {c.id: {} for c in population.candidates}
    version = population.policy_version
    for rollout in rollouts:
        if rollout.score is not None and rollout.candidate_id in earned:
            row = earned[rollout.candidate_id].setdefault(rollout.problem_id, [])
            row.append(rollout.score)
            version = max(rollout.policy_version, -1 if version is None else version)
    means = {c: {p: fmean(scores) for p, scores in row.items()} for c, row in earned.items()}
    shared = shared_scores(means)
    if not next(iter(shared.values())):
        return population
    return Population(population.candidates, shared, version)


def allocate(population_size: int, group_size: int, index: int) -> tuple[int, ...]:
    """How many of the G rollouts of the ``index``-th problem of a batch each member gets.

    Shares differ by at most one. Where the population size n does not divide G, the remainder
    rotates with ``index``, so that over n problems in a row every member gets exactly G.

    Raises:
        ValueError: a size below 1 or a negative index.
    """
    if population_size < 1 or group_size < 1 or index < 0:
        raise ValueError(
            f"need population_size >= 1, group_size >= 1 and index >= 0; got {population_size}, "
            f"{group_size}, {index}"
        )
    share, extra = divmod(group_size, population_size)
    lucky = {(index * extra + offset) % population_size for offset in range(extra)}
    return tuple(share + (member in lucky) for member in range(population_size))


def _cover(scores: Scores, champion: str, members: Collection[str], k: int) -> list[str]:
    """The champion, then greedily the members that raise the best score so far the most."""
    chosen, best, left = [champion], dict(scores[champion]), set(members) - {champion}

    def worth(candidate: str) -> tuple[float, float, str]:
        row = scores[candidate]
        gain = sum(max(0.0, score - best[p]) for p, score in row.items())
        return -gain, -_mean(row), candidate

    while left and len(chosen) < k:
        chosen.append(min(left, key=worth))
        left.discard(chosen[-1])
        best = {p: max(score, best[p]) for p, score in scores[chosen[-1]].items()}
    return chosen


def _distinct(ranked: list[str], by_id: Mapping[str, Candidate]) -> list[str]:
    """The ids in order, without those whose text an earlier one has up to white space."""
    first: dict[tuple[str, ...], str] = {}
    for candidate in ranked:
        texts = by_id[candidate].instructions.values()
        first.setdefault(tuple(" ".join(text.split()) for text in texts), candidate)
    return list(first.values())


def _mean(row: Mapping[str, float]) -> float:
    return sum(row.values()) / len(row) if row else float("-inf")

"""Front, pruning, diverse choice and the dealing of rollouts: golden values and properties."""

from __future__ import annotations

import pytest
from gepa.gepa_utils import find_dominator_programs
from hypothesis import given
from hypothesis import strategies as st

from fst_agents.population import (
    allocate,
    diverse_top_k,
    dominated,
    front,
    pruned_front,
    ranking,
    rescored,
    shared_scores,
)
from fst_agents.types import Candidate, Feedback, Outcome, Population, Rollout

Table = dict[str, dict[str, float]]


def table(**rows: str) -> Table:
    """``a="102"`` is candidate a with scores 1, 0, 2 on problems p0, p1, p2; ``-`` is masked."""
    return {
        name: {f"p{i}": float(digit) for i, digit in enumerate(row) if digit != "-"}
        for name, row in rows.items()
    }


def population(**rows: str) -> tuple[Population, dict[str, str]]:
    """A population of one-word instructions, and the name of each candidate id."""
    members = {name: Candidate({"p": name}) for name in rows}
    scores = {members[name].id: row for name, row in table(**rows).items()}
    return Population(tuple(members.values()), scores, 0), {c.id: n for n, c in members.items()}


def chosen(k: int, **rows: str) -> list[str]:
    members, names = population(**rows)
    return [names[c.id] for c in diverse_top_k(members, k)]


def test_front_holds_the_best_of_each_problem_with_ties() -> None:
    assert front(table(a="120", b="022", c="100")) == {
        "p0": {"a", "c"},
        "p1": {"a", "b"},
        "p2": {"b"},
    }


def test_front_leaves_out_a_problem_that_one_candidate_was_not_scored_on() -> None:
    scores = table(a="1-0", b="091")
    assert front(scores) == {"p0": {"a"}, "p2": {"b"}}
    assert shared_scores(scores) == {"a": {"p0": 1.0, "p2": 0.0}, "b": {"p0": 0.0, "p2": 1.0}}


def test_pruned_front_drops_who_is_only_best_where_another_is_too() -> None:
    """c is best on p0 alone, where a is best as well; a and b are each alone somewhere."""
    assert pruned_front(table(a="120", b="012", c="100")) == ("a", "b")


def test_dominated_needs_no_worse_everywhere_and_better_somewhere() -> None:
    assert dominated(table(a="21", b="20", c="12", d="21")) == {"b"}


def test_diverse_top_k_prefers_coverage_where_the_mean_prefers_likeness() -> None:
    """Three problems each for two kinds; x and y solve the first kind, z the second only.

    Means: x 6/6, y 5/6, z 3/6 → top 2 by mean is x, y. After x (best so far 222000) y adds
    nothing on its own front, z adds 1+1+1 = 3.
    """
    rows = {"x": "222000", "y": "221000", "z": "000111"}
    assert ranking(table(**rows)) == ["x", "y", "z"]
    assert chosen(2, **rows) == ["x", "z"]


def test_diverse_top_k_takes_the_largest_gain_first() -> None:
    """Champion c (330000); gains over it: f 1 on p2, g 2 + 2 on p3 and p4, h 3 on p5."""
    assert chosen(4, c="330000", f="001000", g="000220", h="000003") == ["c", "g", "h", "f"]


def test_diverse_top_k_breaks_ties_by_mean_then_id() -> None:
    """After the champion, f and g both gain 1; g has the higher mean through p0."""
    assert chosen(3, c="900", f="010", g="101") == ["c", "g", "f"]
    members, _ = population(a="10", b="01")
    assert [c.id for c in diverse_top_k(members, 2)] == sorted(c.id for c in members.candidates)


def test_diverse_top_k_fills_up_with_equally_good_candidates() -> None:
    assert sorted(chosen(3, a="11", b="11", c="11")) == ["a", "b", "c"]
    assert len(chosen(2, a="11", b="11", c="11")) == 2


def test_diverse_top_k_does_not_fill_up_with_dominated_candidates() -> None:
    """b ties on p1 but loses p0; c is best nowhere: neither comes back though k allows it."""
    assert chosen(4, a="11", b="01", c="00") == ["a"]


def test_champion_stays_though_it_is_best_on_no_single_problem() -> None:
    """g is second everywhere and has the highest mean (8/3 against 1); specialists follow."""
    names = chosen(4, g="888", x="900", y="090", z="009")
    assert names[0] == "g"
    assert sorted(names[1:]) == ["x", "y", "z"]


def test_texts_that_differ_in_white_space_count_once() -> None:
    same = (Candidate({"p": "sort  the list"}), Candidate({"p": "sort the\nlist"}))
    scores = {same[0].id: {"p0": 1.0}, same[1].id: {"p0": 1.0}}
    assert len(diverse_top_k(Population(same, scores, 0), 2)) == 1


def test_unscored_population_and_bad_k_are_refused() -> None:
    members, _ = population(a="1", b="0")
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        diverse_top_k(members, 0)
    with pytest.raises(ValueError, match="no problem was scored"):
        diverse_top_k(Population(members.candidates), 1)


tables = st.integers(1, 5).flatmap(
    lambda problems: st.lists(
        st.lists(st.integers(0, 3), min_size=problems, max_size=problems), min_size=1, max_size=7
    )
)


def named(rows: list[list[int]]) -> Table:
    return table(**{f"c{i}": "".join(map(str, row)) for i, row in enumerate(rows)})


@given(tables)
def test_pruning_agrees_with_gepa(rows: list[list[int]]) -> None:
    """gepa prunes from the lowest aggregate; our rank (mean, then id) is handed to it as one."""
    scores = named(rows)
    order = ranking(scores)
    index = {c: int(c[1:]) for c in scores}
    bests = {p: {index[c] for c in best} for p, best in front(scores).items()}
    aggregate = [0.0] * len(scores)
    for rank, candidate in enumerate(reversed(order)):
        aggregate[index[candidate]] = float(rank)
    kept = find_dominator_programs(bests, aggregate)
    assert {index[c] for c in pruned_front(scores)} == set(kept)


@given(tables)
def test_pruned_front_covers_every_problem_without_a_redundant_member(
    rows: list[list[int]],
) -> None:
    scores = named(rows)
    kept, bests = set(pruned_front(scores)), front(scores)
    assert all(best & kept for best in bests.values())
    assert all(any(best & kept == {c} for best in bests.values()) for c in kept)
    assert not kept & dominated(scores)


@given(tables, st.integers(1, 8))
def test_diverse_top_k_properties(rows: list[list[int]], k: int) -> None:
    named_rows = {f"c{i}": "".join(map(str, row)) for i, row in enumerate(rows)}
    members, names = population(**named_rows)
    ids = [c.id for c in diverse_top_k(members, k)]
    assert 1 <= len(ids) <= k
    assert len(set(ids)) == len(ids)
    assert ids[0] == ranking(members.scores)[0]
    assert not set(ids) & dominated(members.scores)
    shuffled = Population(tuple(reversed(members.candidates)), members.scores, 0)
    assert [c.id for c in diverse_top_k(shuffled, k)] == ids
    pruned = set(pruned_front(members.scores))
    if k > len(pruned):
        assert pruned <= set(ids), [names[c] for c in ids]


def test_allocate_deals_evenly_when_the_population_divides_the_group() -> None:
    assert [allocate(4, 8, i) for i in range(3)] == [(2, 2, 2, 2)] * 3


def test_allocate_rotates_the_remainder() -> None:
    """G = 8 over 3 members: 2 each and 2 more, which go to members 0, 1, then 2, 0, then 1, 2."""
    assert [allocate(3, 8, i) for i in range(4)] == [(3, 3, 2), (3, 2, 3), (2, 3, 3), (3, 3, 2)]


def test_allocate_with_more_members_than_rollouts_rotates_who_plays() -> None:
    assert [allocate(3, 1, i) for i in range(3)] == [(1, 0, 0), (0, 1, 0), (0, 0, 1)]


@given(st.integers(1, 12), st.integers(1, 40), st.integers(0, 500))
def test_allocate_properties(members: int, group: int, index: int) -> None:
    shares = allocate(members, group, index)
    assert len(shares) == members
    assert sum(shares) == group
    assert max(shares) - min(shares) <= 1
    window = [allocate(members, group, index + i) for i in range(members)]
    totals = [sum(row[m] for row in window) for m in range(members)]
    assert totals == [group] * members


@pytest.mark.parametrize("bad", [(0, 1, 0), (1, 0, 0), (1, 1, -1)])
def test_allocate_refuses_empty_sizes_and_negative_indices(bad: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="need population_size >= 1"):
        allocate(*bad)


# --- by what members earn in RL steps -----------------------------------------------------------


def tried(candidate: str, problem: str, score: float | None, version: int = 3) -> Rollout:
    outcome = Outcome.INFRA_ERROR if score is None else Outcome.OK
    return Rollout(problem, candidate, version, (), Feedback(score, ""), outcome)


def test_rl_steps_may_name_another_champion() -> None:
    members, names = population(a="111", b="000")
    ids = {name: c for c, name in names.items()}
    after = rescored(
        members,
        [
            tried(ids["a"], "q0", 0.0),
            tried(ids["a"], "q0", 1.0),
            tried(ids["b"], "q0", 1.0, version=4),
            tried(ids["b"], "q0", None),
            tried(ids["a"], "q1", 1.0),
            tried(ids["b"], "q1", 1.0),
            tried(ids["a"], "q2", 1.0),  # nobody else was scored on it
            tried("stranger", "q0", 1.0),
        ],
    )
    assert after.candidates == members.candidates
    assert after.scores == {ids["a"]: {"q0": 0.5, "q1": 1.0}, ids["b"]: {"q0": 1.0, "q1": 1.0}}
    assert after.policy_version == 4
    assert names[after.best.id] == "b"


@given(scores=st.lists(st.none(), max_size=4))
def test_without_a_score_for_every_member_nothing_changes(scores: list[None]) -> None:
    members, names = population(a="10", b="01")
    first = next(iter(names))
    lost = [tried(first, "q0", score) for score in scores]
    assert rescored(members, [*lost, tried(first, "q0", 1.0)]) == members
    assert rescored(members, []) == members

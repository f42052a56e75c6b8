"""Star graphs: their shape, the splits, the reading of paths, and what is said of a wrong one."""

from __future__ import annotations

from itertools import pairwise
from random import Random
from typing import Any, Literal

import dspy
import pytest
from dspy.utils import DummyLM
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from fst_agents.scoring import Scorer
from programs.micro.adapter import CompactAdapter
from programs.star_graph import (
    ENTRY,
    StarGraphOptions,
    StarGraphProgram,
    build,
    count,
    distinct_graphs,
    exact,
    metric,
)
from programs.star_graph.grading import partial_credit, read_edges, read_path

TINY = StarGraphOptions(degree=2, path_length=3, nodes=5, train_size=40, val_size=10, test_size=10)
SMALL = StarGraphOptions(train_size=20, val_size=10, test_size=10)

# The branches of 9: 4-17, 2-8 and 5-6; the goal is 17.
DIRECTED = dspy.Example(
    graph="5>6, 9>2, 4>17, 9>5, 2>8, 9>4", start="9", goal="17", path="9,4,17"
).with_inputs("graph", "start", "goal")
UNDIRECTED = dspy.Example(
    graph="6-5, 9-2, 17-4, 5-9, 2-8, 9-4", start="9", goal="17", path="9,4,17"
).with_inputs("graph", "start", "goal")

SHAPES = st.tuples(st.integers(2, 5), st.integers(2, 6), st.integers(0, 20))


def judge(answer: object, gold: dspy.Example = DIRECTED) -> dspy.Prediction:
    return metric(gold, dspy.Prediction(path=answer))


@given(SHAPES, st.booleans(), st.integers(0, 999))
@settings(deadline=None)
def test_a_star_has_a_centre_and_paths_of_one_length(
    shape: tuple[int, int, int], directed: bool, seed: int
) -> None:
    degree, path_length, spare = shape
    nodes = 1 + degree * (path_length - 1) + spare
    (graph,) = distinct_graphs(
        1,
        Random(seed),
        degree=degree,
        path_length=path_length,
        nodes=nodes,
        directed=directed,
    )
    neighbours: dict[int, set[int]] = {}
    for a, b in graph.edges:
        neighbours.setdefault(a, set()).add(b)
        neighbours.setdefault(b, set()).add(a)
    assert len(graph.edges) == degree * (path_length - 1)
    assert len(neighbours) == len(graph.edges) + 1  # with being connected: a tree
    assert set(neighbours) <= set(range(nodes))
    assert len(neighbours[graph.start]) == degree
    assert len(neighbours[graph.goal]) == 1
    assert all(len(n) == 2 for node, n in neighbours.items() if node != graph.start and len(n) > 1)
    assert len(graph.path) == path_length
    assert all(b in neighbours[a] for a, b in pairwise(graph.path))
    assert read_edges(graph.text) == list(graph.edges)
    if directed:
        assert set(pairwise(graph.path)) <= set(graph.edges)
        assert all(b != graph.start for _, b in graph.edges)


@pytest.mark.parametrize(
    ("degree", "path_length", "nodes", "expected"),
    [
        (2, 2, 3, 3),  # which of three is in the middle
        (2, 3, 5, 60),  # 5! / 2
        (3, 2, 4, 4),
        (2, 2, 4, 12),  # 4 centres, 3 pairs of leaves each
    ],
)
def test_the_count_of_stars_by_hand_is_what_can_be_drawn(
    degree: int, path_length: int, nodes: int, expected: int
) -> None:
    assert count(degree, path_length, nodes) == expected
    for directed in (True, False):
        graphs = distinct_graphs(
            expected,
            Random(0),
            degree=degree,
            path_length=path_length,
            nodes=nodes,
            directed=directed,
        )
        assert len({frozenset(map(frozenset, g.edges)) for g in graphs}) == expected


def test_more_examples_than_stars_are_refused() -> None:
    with pytest.raises(ValueError, match=r"got 61 examples.*at most 60.*raise nodes"):
        build(TINY.model_copy(update={"train_size": 41}), 0)
    task = build(TINY, 0)
    assert len({e.graph for e in (*task.trainset, *task.valset, *task.testset)}) == 60


def test_too_few_labels_are_refused() -> None:
    assert StarGraphOptions(degree=4, path_length=5, nodes=17).nodes == 17
    with pytest.raises(ValidationError, match=r"got 16, expected at least 17.*raise nodes"):
        StarGraphOptions(degree=4, path_length=5, nodes=16)


@pytest.mark.parametrize("directed", [True, False])
def test_splits_share_no_star_and_ids_are_unique(directed: bool) -> None:
    options = StarGraphOptions(
        degree=2, path_length=3, nodes=6, directed=directed, train_size=100, val_size=50
    )
    task = build(options, 0)
    examples = [*task.trainset, *task.valset, *task.testset]
    assert [len(task.trainset), len(task.valset), len(task.testset)] == [100, 50, 128]
    assert len({e.id for e in examples}) == len(examples)
    assert len({frozenset(map(frozenset, read_edges(e.graph))) for e in examples}) == len(examples)


def test_equal_seeds_give_equal_data() -> None:
    first, again, other = (build(SMALL, seed) for seed in (3, 3, 4))
    assert [e.toDict() for e in first.trainset] == [e.toDict() for e in again.trainset]
    assert [e.toDict() for e in first.testset] == [e.toDict() for e in again.testset]
    assert not {e.id for e in first.trainset} & {e.id for e in other.trainset}


def test_every_branch_is_the_goal_s_about_equally_often() -> None:
    task = build(StarGraphOptions(degree=2, train_size=400, val_size=1, test_size=0), 0)
    # The first edge listed at the centre leads to the goal by chance only.
    hits = 0
    for e in task.trainset:
        first = next(b for a, b in read_edges(e.graph) if str(a) == e.start)
        hits += str(first) == e.path.split(",")[1]
    assert 150 < hits < 250


def test_labels_score_one() -> None:
    for directed in (True, False):
        task = build(SMALL.model_copy(update={"directed": directed}), 0)
        for e in (*task.trainset, *task.valset, *task.testset):
            for score in (task.metric, task.eval_metric):
                assert score is not None
                result: Any = score(e, dspy.Prediction(path=e.path))
                assert result.score == 1.0
                assert "This is correct." in result.feedback


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("9,4,17", 1.0),
        ("[9, 4, 17]", 1.0),
        ("9 -> 4 -> 17", 1.0),
        ("9→4→17", 1.0),
        ("`9 4 17`", 1.0),
        ("**9-4-17**", 1.0),
        ("9,4", 2 / 3),
        ("9", 1 / 3),
        ("9,2,8", 1 / 3),
        ("9,4,8", 2 / 3),
        ("9,4,17,4", 0.75),
        ("17,4,9", 0.0),
        ("4,17", 0.0),
        ("", 0.0),
        (None, 0.0),
        ("The path is 9,4,17", 0.0),
        ("9,4,seventeen", 0.0),
    ],
)
def test_partial_credit_is_the_share_of_leading_nodes(answer: object, score: float) -> None:
    for gold in (DIRECTED, UNDIRECTED):
        result = judge(answer, gold)
        assert result.score == pytest.approx(score)
        assert result.objective_scores == {
            "partial": pytest.approx(score),
            "exact": float(score == 1.0),
        }
        assert exact(gold, dspy.Prediction(path=answer)).score == float(score == 1.0)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("9,4,17", "This is correct."),
        ("4,17", "The path starts at 4, but the start is 9."),
        ("17,4,9", "the start is 9. These are the right nodes in reverse order."),
        ("9,17", "Step 1 is wrong: 9->17 is not an edge of the graph."),
        ("9,4,8", "Step 2 is wrong: 4->8 is not an edge of the graph."),
        ("9,4,33", "4->33 is not an edge of the graph, which has no node 33."),
        ("9,2,9", "Step 2 is wrong: 2->9 is not an edge of the graph, only 9->2 is."),
        ("9", "It stops after 0 edges of 2, before the goal 17."),
        ("9,4", "It stops after 1 edge of 2, before the goal 17."),
        ("9,2,8", "it ends at 8, not at the goal 17: from 9 it takes the branch of 2 instead of"),
        ("go to 4", "nodes of the path, in order, separated by commas, and nothing else."),
    ],
)
def test_feedback_names_the_first_mistake(answer: str, kind: str) -> None:
    text = judge(answer).feedback
    assert text.startswith(f"The path from 9 to 17 is 9,4,17. The answer is {answer!r}. ")
    assert kind in text


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("9,2,9,4,17", "Step 2 is wrong: 2->9 returns to a node that was already visited."),
        ("9,4,17,4", "Step 3 is wrong: 17->4 returns"),
        ("9,17", "9->17 is not an edge of the graph."),
        ("9,5,6", "it ends at 6, not at the goal 17"),
    ],
)
def test_edges_without_direction_can_be_followed_both_ways(answer: str, kind: str) -> None:
    assert kind in judge(answer, UNDIRECTED).feedback


def test_a_path_that_runs_past_its_goal() -> None:
    gold = dspy.Example(graph="1>2, 2>3, 1>4, 4>5", start="1", goal="2", path="1,2")
    assert "It reaches the goal 2, and then goes on" in judge("1,2,3", gold).feedback


@given(st.lists(st.integers(0, 999), min_size=1), st.sampled_from([",", " -> ", " ", "\n", "→"]))
def test_a_path_is_read_back_in_any_notation(path: list[int], separator: str) -> None:
    assert read_path(separator.join(map(str, path))) == tuple(path)
    assert read_path(f"[{separator.join(map(str, path))}]") == tuple(path)


@pytest.mark.parametrize("answer", ["1 or 2", "1,,2", "-1", "1.5", "٣,٤", "9" * 5000, "1, 2,"])
def test_what_is_no_list_of_nodes_is_not_guessed_at(answer: str) -> None:
    assert read_path(answer) is None


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=8, unique=True),
    st.lists(st.integers(0, 9), min_size=1, max_size=8),
)
def test_only_the_path_itself_earns_everything(expected: list[int], got: list[int]) -> None:
    assert 0.0 <= partial_credit(expected, got) <= 1.0
    assert (partial_credit(expected, got) == 1.0) == (expected == got)


ANSWERS = (
    st.text()
    | st.text("0123456789,->[] 9→")
    | st.lists(st.sampled_from([9, 4, 17, 2, 8, 5, 6, 33]), max_size=6).map(
        lambda path: ",".join(map(str, path))
    )
    | st.none()
    | st.integers()
    | st.lists(st.integers())
)


@given(ANSWERS, st.sampled_from([DIRECTED, UNDIRECTED]), st.sampled_from([None, "solve"]))
def test_any_answer_gets_a_score_and_a_feedback(
    answer: object, gold: dspy.Example, name: str | None
) -> None:
    result = metric(gold, dspy.Prediction(path=answer), None, name, None)
    assert 0.0 <= result.score <= 1.0
    assert (result.score == 1.0) == ("This is correct." in result.feedback)
    assert len(result.feedback) < 700
    assert 0.0 <= metric(gold, dspy.Prediction()).score <= 1.0


@pytest.mark.parametrize("reward", ["partial", "exact"])
def test_the_reward_is_chosen_by_the_options(reward: Literal["partial", "exact"]) -> None:
    options = StarGraphOptions(train_size=2, val_size=1, test_size=0, reward=reward)
    task = build(options, 0)
    e = task.trainset[0]
    scorer = Scorer(task.metric, score_range=task.score_range, predictors=["solve"])
    feedback = scorer(e, dspy.Prediction(path=e.start), [])
    assert feedback.score == (0.2 if reward == "partial" else 0.0)
    assert feedback.objectives == {"exact": 0.0, "partial": 0.2}


@pytest.mark.parametrize(("think", "name"), [(False, "solve"), (True, "solve.predict")])
def test_the_program_runs(think: bool, name: str) -> None:
    program = StarGraphProgram(think=think)
    assert [n for n, _ in program.named_predictors()] == [name]
    answer = {"path": "9,4,17"} | ({"reasoning": "From 17 back to 9."} if think else {})
    with dspy.context(lm=DummyLM([answer]), adapter=dspy.ChatAdapter()):
        pred = program(**DIRECTED.inputs())
    assert metric(DIRECTED, pred).score == 1.0


@pytest.mark.parametrize("options", [TINY, SMALL])
def test_the_graphs_fit_the_embedded_policy(options: StarGraphOptions) -> None:
    """Its context is 2,048 tokens, at worst one per byte."""
    task = build(options, 0)
    ((_, solve),) = task.program.named_predictors()
    e, adapter = task.trainset[0], CompactAdapter()
    signature: Any = solve.signature
    messages = adapter.format(signature, demos=[], inputs=dict(e.inputs()))
    prompt = "".join(message["content"] for message in messages)
    assert e.graph in prompt
    assert len(prompt.encode()) < 512
    pred = dspy.Prediction(**adapter.parse(signature, e.path))
    assert metric(e, pred).score == 1.0


def test_the_entry_describes_the_task() -> None:
    assert ENTRY.name == "star_graph"
    assert ENTRY.options is StarGraphOptions
    names = {
        f"think = {text}": [name for name, _ in StarGraphProgram(think=think).named_predictors()]
        for think, text in ((False, "false"), (True, "true"))
    }
    assert ENTRY.facts()["predictors"] == names

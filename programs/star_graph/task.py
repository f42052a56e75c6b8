"""The star graph task: which way to go can only be seen from the far end of the path."""

from __future__ import annotations

import hashlib
from random import Random
from typing import Final, Literal, Self

import dspy
from pydantic import Field, model_validator

from programs.star_graph.grading import comment, partial_credit, read_path, write
from programs.star_graph.graph import StarGraph, distinct_graphs, size
from programs.task import Entry, Options, Task

SEED_INSTRUCTION: Final = "Find the path from the start to the goal."

ENOUGH: Final = 0.97
"""Mean partial credit at which the task is solved; one wrong branch in 25 costs some 0.03."""

Reward = Literal["partial", "exact"]


class StarGraphProgram(dspy.Module):
    """One predictor, ``solve`` (``solve.predict`` if it thinks first): a graph in, a path out."""

    def __init__(self, *, think: bool = False) -> None:
        super().__init__()
        signature = dspy.make_signature("graph, start, goal -> path", SEED_INSTRUCTION)
        self.solve = dspy.ChainOfThought(signature) if think else dspy.Predict(signature)

    def forward(self, graph: str, start: str, goal: str) -> dspy.Prediction:
        """Find the path in a graph such as ``"4>17, 9>4"`` from ``"9"`` to ``"17"``."""
        return self.solve(graph=graph, start=start, goal=goal)


class StarGraphOptions(Options):
    """Keys of ``[task]`` for ``star_graph``."""

    degree: int = Field(default=4, ge=2, le=100, description="Paths that leave the centre.")
    path_length: int = Field(
        default=5, ge=2, le=100, description="Nodes of a path, the centre and the leaf included."
    )
    nodes: int = Field(
        default=50,
        ge=3,
        le=100_000,
        description="Labels to choose from; at least 1 + degree · (path_length - 1).",
    )
    directed: bool = Field(
        default=True,
        description="Edges lead away from the centre (4>17); else they have no direction (4-17).",
    )
    think: bool = Field(
        default=False, description="Reason in a field of its own before the path is answered."
    )
    reward: Reward = Field(
        default="partial", description="Credit for a right beginning, or all or nothing."
    )

    @model_validator(mode="after")
    def _enough_labels(self) -> Self:
        least = size(self.degree, self.path_length)
        if self.nodes < least:
            raise ValueError(
                f"nodes: got {self.nodes}, expected at least {least}, which a star with degree "
                f"{self.degree} and path_length {self.path_length} has; raise nodes or lower these"
            )
        return self


def metric(
    gold: dspy.Example,
    pred: dspy.Prediction,
    trace: object = None,
    pred_name: str | None = None,
    pred_trace: object = None,
) -> dspy.Prediction:
    """Score a path by the share of its beginning that is right, with its first mistake in words."""
    return _judge(gold, pred, "partial")


def exact(
    gold: dspy.Example,
    pred: dspy.Prediction,
    trace: object = None,
    pred_name: str | None = None,
    pred_trace: object = None,
) -> dspy.Prediction:
    """Score a path 1 if it is right, else 0, with its first mistake in words."""
    return _judge(gold, pred, "exact")


def _judge(gold: dspy.Example, pred: dspy.Prediction, reward: Reward) -> dspy.Prediction:
    value = getattr(pred, "path", None)
    answer = "" if value is None else str(value)
    expected, got = tuple(map(int, gold.path.split(","))), read_path(answer)
    partial = 0.0 if got is None else partial_credit(expected, got)
    right = float(got == expected)
    return dspy.Prediction(
        score=right if reward == "exact" else partial,
        feedback=comment(str(gold.graph), expected, answer),
        objective_scores={"exact": right, "partial": partial},
    )


def example(graph: StarGraph) -> dspy.Example:
    """A graph as an example; its id is a hash of its edges and its goal."""
    content = f"{graph.text}/{graph.start}/{graph.goal}"
    return dspy.Example(
        id="star_graph-" + hashlib.sha256(content.encode()).hexdigest()[:16],
        graph=graph.text,
        start=str(graph.start),
        goal=str(graph.goal),
        path=write(graph.path),
    ).with_inputs("graph", "start", "goal")


def build(options: StarGraphOptions, seed: int) -> Task:
    """The task; the 2×2 counts exact paths.

    Raises:
        ValueError: more examples than there are graphs.
    """
    sizes = (options.train_size, options.val_size, options.test_size)
    graphs = iter(
        distinct_graphs(
            sum(sizes),
            Random(f"star_graph/{seed}"),
            degree=options.degree,
            path_length=options.path_length,
            nodes=options.nodes,
            directed=options.directed,
        )
    )
    train, val, test = ([example(next(graphs)) for _ in range(size)] for size in sizes)
    return Task(
        program=StarGraphProgram(think=options.think),
        trainset=train,
        valset=val,
        testset=test,
        metric=metric if options.reward == "partial" else exact,
        eval_metric=exact,
        enough=ENOUGH,
    )


def facts() -> dict[str, object]:
    """The predictor, and how edges and paths are written."""
    return {
        "predictors": {"think = false": ["solve"], "think = true": ["solve.predict"]},
        "edges": {"directed = true": "4>17, 9>4", "directed = false": "4-17, 4-9"},
        "path": "9,4,17",
    }


ENTRY: Final = Entry(
    name="star_graph",
    summary="the path from the centre of a star-shaped graph to one of its leaves",
    options=StarGraphOptions,
    build=build,
    facts=facts,
)

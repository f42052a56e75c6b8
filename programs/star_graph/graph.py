"""Star-shaped graphs: a centre, and paths of equal length that lead away from it.

They are those of "The pitfalls of next-token prediction" (arXiv 2403.06963): following a path is
easy, choosing it at the centre is not, because the choice can only be made from the far end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random

Edge = tuple[int, int]


@dataclass(frozen=True, slots=True)
class StarGraph:
    """A graph as it is asked about.

    Attributes:
        edges: pairs of node labels in the order in which they are shown; away from the centre
            where the graph is directed, either way round where it is not.
        path: the nodes from the centre to the goal, both included.
        directed: whether an edge can be followed one way only.
    """

    edges: tuple[Edge, ...]
    path: tuple[int, ...]
    directed: bool

    @property
    def start(self) -> int:
        return self.path[0]

    @property
    def goal(self) -> int:
        return self.path[-1]

    @property
    def text(self) -> str:
        """The edges as the policy reads them: ``"4>17, 9>4"``, or ``"4-17, 4-9"`` undirected."""
        sign = ">" if self.directed else "-"
        return ", ".join(f"{a}{sign}{b}" for a, b in self.edges)


def size(degree: int, path_length: int) -> int:
    """Nodes of a star with ``degree`` paths of ``path_length`` nodes, the centre counted in."""
    return 1 + degree * (path_length - 1)


def count(degree: int, path_length: int, nodes: int) -> int:
    """How many labelled stars there are: ``nodes! / (nodes - size)! / degree!``.

    Their paths have no order. Two stars that differ in the goal alone are one.
    """
    return math.perm(nodes, size(degree, path_length)) // math.factorial(degree)


def distinct_graphs(
    number: int, rng: Random, *, degree: int, path_length: int, nodes: int, directed: bool
) -> list[StarGraph]:
    """Draw stars that differ in more than the order of their edges and their goal.

    Raises:
        ValueError: there are fewer than ``number``.
    """
    available = count(degree, path_length, nodes)
    if number > available:
        raise ValueError(
            f"sizes: got {number} examples in all, expected at most {available}, the different "
            f"stars with degree {degree}, path_length {path_length} and {nodes} nodes; ask for "
            "fewer, or raise nodes"
        )
    graphs: dict[frozenset[frozenset[int]], StarGraph] = {}
    while len(graphs) < number:
        labels = rng.sample(range(nodes), size(degree, path_length))
        graph = _star(labels, rng, degree=degree, directed=directed)
        graphs.setdefault(frozenset(map(frozenset, graph.edges)), graph)
    return list(graphs.values())


def _star(labels: Sequence[int], rng: Random, *, degree: int, directed: bool) -> StarGraph:
    """Arrange labels, the centre first, then deal the rest to the paths; aim at any leaf."""
    paths = [(labels[0], *labels[1 + i :: degree]) for i in range(degree)]
    edges = [edge for path in paths for edge in pairwise(path)]
    rng.shuffle(edges)
    if not directed:
        edges = [(a, b) if rng.random() < 0.5 else (b, a) for a, b in edges]
    return StarGraph(tuple(edges), rng.choice(paths), directed)

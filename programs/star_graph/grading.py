"""Read a path, score it, and name the first thing that is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from itertools import pairwise, takewhile

from programs.star_graph.graph import Edge

_WRAPPING = re.compile(r"[\[\](){}\"'`*]")
_SEPARATOR = re.compile(r"\s*(?:[-=]{0,2}>|[,;|→–—-])\s*|\s+")
_LABEL = re.compile(r"[0-9]{1,9}")


def read_edges(graph: str) -> list[Edge]:
    """The edges of a graph's text, such as ``"4>17, 9>4"`` or ``"4-17, 4-9"``."""
    ends = [re.split(r"[>-]", edge) for edge in graph.split(", ")]
    return [(int(a), int(b)) for a, b in ends]


def read_path(answer: str) -> tuple[int, ...] | None:
    """The nodes of an answer, ``None`` unless it is node numbers and nothing else.

    Between them stand commas, semicolons, bars, dashes, arrows or white space; brackets, quotes
    and asterisks do not count. Words make an answer unreadable: which of its numbers are meant
    would be a guess.
    """
    labels = _SEPARATOR.split(_WRAPPING.sub(" ", answer).strip())
    if not all(_LABEL.fullmatch(label) for label in labels):
        return None
    return tuple(map(int, labels))


def partial_credit(expected: Sequence[int], got: Sequence[int]) -> float:
    """Leading nodes that are right over the longer of the two lengths, in [0, 1].

    The start stands in the question: a path that begins there and goes wrong at once still earns
    ``1 / len(expected)``.
    """
    return _leading(expected, got) / max(len(expected), len(got))


def comment(graph: str, expected: Sequence[int], answer: str) -> str:
    """The path, the answer, and the first mistake in it."""
    start, goal = expected[0], expected[-1]
    said = f"The path from {start} to {goal} is {write(expected)}. The answer is {_quote(answer)}."
    return f"{said} {_describe(graph, expected, read_path(answer))}"


def write(path: Sequence[int]) -> str:
    """A path as it is shown: ``"9,4,17"``."""
    return ",".join(map(str, path))


def _leading(expected: Sequence[int], got: Sequence[int]) -> int:
    pairs = zip(expected, got, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _describe(graph: str, expected: Sequence[int], got: Sequence[int] | None) -> str:
    start, goal = expected[0], expected[-1]
    if got is None:
        return "It must be the nodes of the path, in order, separated by commas, and nothing else."
    if tuple(got) == tuple(expected):
        return "This is correct."
    if got[0] != start:
        turned = tuple(got) == tuple(reversed(expected))
        hint = " These are the right nodes in reverse order." if turned else ""
        return f"The path starts at {got[0]}, but the start is {start}.{hint}"
    if wrong := _first_wrong_step(graph, got):
        return wrong
    if goal in got:
        return f"It reaches the goal {goal}, and then goes on; it must end there."
    if _leading(expected, got) == len(got):
        return _stops(len(got) - 1, f"of {len(expected) - 1}, before the goal {goal}")
    return (
        f"Every step is an edge of the graph, but it ends at {got[-1]}, not at the goal {goal}: "
        f"from {start} it takes the branch of {got[1]} instead of that of {expected[1]}."
    )


def _stops(edges: int, where: str) -> str:
    return f"It stops after {edges} edge{'' if edges == 1 else 's'} {where}."


def _first_wrong_step(graph: str, path: Sequence[int]) -> str | None:
    """The first step that follows no edge or returns to a node, ``None`` if there is none."""
    edges, known = _edges_both_ways(graph)
    for number, (a, b) in enumerate(pairwise(path), 1):
        if (a, b) not in edges:
            return f"Step {number} is wrong: {_not_an_edge(a, b, edges, known)}."
        if b in path[:number]:
            return f"Step {number} is wrong: {a}->{b} returns to a node that was already visited."
    return None


def _edges_both_ways(graph: str) -> tuple[set[Edge], set[int]]:
    """The edges that can be followed, both ways if undirected, and the nodes there are."""
    edges = set(read_edges(graph))
    known = {node for edge in edges for node in edge}
    return (edges if ">" in graph else edges | {(b, a) for a, b in edges}), known


def _not_an_edge(a: int, b: int, edges: Collection[Edge], known: Collection[int]) -> str:
    words = f"{a}->{b} is not an edge of the graph"
    if b not in known:
        return f"{words}, which has no node {b}"
    if (b, a) in edges:
        return f"{words}, only {b}->{a} is"
    return words


def _quote(answer: str, most: int = 200) -> str:
    return repr(answer if len(answer) <= most else f"{answer[:most]}…")

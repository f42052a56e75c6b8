"""The path from the centre of a star-shaped graph to one of its leaves."""

from programs.star_graph.graph import StarGraph, count, distinct_graphs
from programs.star_graph.task import ENTRY, StarGraphOptions, StarGraphProgram, build, exact, metric

__all__ = [
    "ENTRY",
    "StarGraph",
    "StarGraphOptions",
    "StarGraphProgram",
    "build",
    "count",
    "distinct_graphs",
    "exact",
    "metric",
]

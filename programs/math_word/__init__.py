"""Arithmetic word problems with an exact checker: generated, or from a dataset such as GSM8K."""

from programs.math_word.reading import read_number
from programs.math_word.task import ENTRY, MathWord, MathWordOptions, build, exact, metric

__all__ = [
    "ENTRY",
    "MathWord",
    "MathWordOptions",
    "build",
    "exact",
    "metric",
    "read_number",
]

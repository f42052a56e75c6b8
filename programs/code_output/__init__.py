"""Predict what small Python programs give, or what they were given; and a sandbox to run them."""

from programs.code_output.task import ENTRY, CodeOutputOptions, CodeProgram, build, exact, metric

__all__ = ["ENTRY", "CodeOutputOptions", "CodeProgram", "build", "exact", "metric"]

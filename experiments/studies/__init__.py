"""Comparisons and studies: many runs, one question each, answered with intervals."""

"""Support messages under a hidden company policy: three predictors sort, read and decide."""

from programs.triage.policy import ACTIONS, CATEGORIES, URGENCIES, Case, rule_for
from programs.triage.task import ENTRY, Triage, TriageOptions, build, exact, metric

__all__ = [
    "ACTIONS",
    "CATEGORIES",
    "ENTRY",
    "URGENCIES",
    "Case",
    "Triage",
    "TriageOptions",
    "build",
    "exact",
    "metric",
    "rule_for",
]

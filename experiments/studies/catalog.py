"""The studies by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from experiments.studies.ablations import ABLATIONS, TOGETHER
from experiments.studies.continual import CONTINUAL
from experiments.studies.keeping import DRIFT, FORGETTING, PLASTICITY
from experiments.studies.learning import CEILING, SAMPLE_EFFICIENCY, ZERO_REWARD
from experiments.studies.parts import CHANNELS, DISTILL, PROMPTS_ALONE
from experiments.studies.protocol import Study
from fst_agents.errors import ConfigError

STUDIES: Final[Mapping[str, Study]] = MappingProxyType(
    {
        study.name: study
        for study in (
            SAMPLE_EFFICIENCY,
            CEILING,
            DRIFT,
            FORGETTING,
            PLASTICITY,
            CONTINUAL,
            ZERO_REWARD,
            CHANNELS,
            PROMPTS_ALONE,
            DISTILL,
        )
    }
)
"""Name → study, in the order of the paper's findings."""

ALL, SWEEP = "all", "sweep"


def chosen(name: str) -> list[Study]:
    """One finding's study, or all of them; not :data:`SWEEP` and not the ablations, which choose
    settings.

    Raises:
        ConfigError: there is no such study.
    """
    if name == ALL:
        return list(STUDIES.values())
    if name not in STUDIES:
        known = [*STUDIES, ALL, SWEEP, *ABLATIONS, TOGETHER]
        raise ConfigError(f"no study {name!r}; there are {', '.join(known)}")
    return [STUDIES[name]]

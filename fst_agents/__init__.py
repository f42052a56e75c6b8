"""What all parts of fast-slow training share (arXiv 2605.12484): nouns, configuration, rollouts
with exact tokens, serving, tracking, run directory. The optimizers are in ``optimizers``.

Importing this stays light: no torch, trl, vllm, gepa or mlflow.
"""

from fst_agents._layout import check_layout
from fst_agents.config import RunConfig
from fst_agents.errors import (
    ConfigError,
    FstError,
    ProgramError,
    ReflectionError,
    RunDirError,
    ServingError,
    StalePolicyError,
    TrainerError,
)
from fst_agents.types import (
    Call,
    Candidate,
    Feedback,
    Outcome,
    Policy,
    Population,
    Problem,
    Rollout,
    RolloutGroup,
    RunResult,
    Sampling,
    TrainingSample,
)

check_layout()

__all__ = [
    "Call",
    "Candidate",
    "ConfigError",
    "Feedback",
    "FstError",
    "Outcome",
    "Policy",
    "Population",
    "Problem",
    "ProgramError",
    "ReflectionError",
    "Rollout",
    "RolloutGroup",
    "RunConfig",
    "RunDirError",
    "RunResult",
    "Sampling",
    "ServingError",
    "StalePolicyError",
    "TrainerError",
    "TrainingSample",
]

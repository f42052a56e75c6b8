"""What learns: prompts (GEPA), weights (GRPO), both (FastSlow), and the baselines."""

from fst_agents._layout import check_layout
from optimizers.arms import Distill, FastSlow, Gepa, Grpo, Sequential

check_layout()

__all__ = ["Distill", "FastSlow", "Gepa", "Grpo", "Sequential"]

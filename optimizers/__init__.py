"""What learns, as DSPy optimizers: ``FastSlow`` (instructions and weights), ``Grpo`` (weights),
``Gepa`` (instructions), ``Sequential`` (one after the other), ``Distill`` (both, then folded).
"""

from fst_agents._layout import check_layout
from optimizers.arms import Distill, FastSlow, Gepa, Grpo, Sequential

check_layout()

__all__ = ["Distill", "FastSlow", "Gepa", "Grpo", "Sequential"]

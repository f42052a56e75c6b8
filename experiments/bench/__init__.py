"""Benchmarks: each prints a ratio against a peer measured in the same run, in interleaved pairs.

``resume`` is none of these: it is given a number of kills and compares two runs.
"""

from collections.abc import Callable
from typing import Any

from experiments.bench import resume, rollouts, slow_step

BENCHES: dict[str, Callable[[int], dict[str, Any]]] = {
    "resume": resume.run,
    "rollouts": rollouts.run_vllm,
    "rollouts-local": rollouts.run_local,
    "slow-step": lambda pairs: slow_step.run(pairs),
}

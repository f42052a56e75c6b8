"""Benchmarks: each prints a ratio against a peer measured in the same run, in interleaved pairs.

Two are none of these: ``resume`` is given a number of kills and compares two runs, ``soak`` is
given minutes and watches one.
"""

from collections.abc import Callable
from typing import Any

from experiments.bench import resume, rollouts, slow_step, soak

BENCHES: dict[str, Callable[[int], dict[str, Any]]] = {
    "resume": resume.run,
    "rollouts": rollouts.run_vllm,
    "rollouts-local": rollouts.run_local,
    "soak": soak.run,
    "soak-vllm": lambda minutes: soak.run(minutes, "vllm"),
    "slow-step": lambda pairs: slow_step.run(pairs),
}

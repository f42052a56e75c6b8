"""A run in one JSON object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from fst_agents.bridge_report import PredictorCounts
from fst_agents.config import RunConfig
from fst_agents.run_dir import to_json
from fst_agents.types import Candidate, RunResult
from optimizers.evaluation import CELLS, Evaluation
from optimizers.plan import shipped_cell


def summarize(
    config: RunConfig,
    result: RunResult,
    evaluation: Evaluation | None,
    kl: float | None,
    trained: bool,
    seconds_total: float,
    predictors: Mapping[str, PredictorCounts],
    shipped: Candidate,
) -> dict[str, Any]:
    """The JSON object of a run: what ``--json`` prints and ``result.json`` holds.

    ``shipped`` are the instructions that stand in ``program.json``.
    """
    cells = evaluation.cells if evaluation else {}
    kept = evaluation.retention if evaluation else {}
    champion = result.champion
    return {
        "arm": result.arm,
        "task": config.task.name,
        "target": config.task.options.get("target"),
        "seed": result.seed,
        "scores": {n: s.mean if (s := cells.get(n)) else None for n in CELLS},
        "intervals": {n: [s.low, s.high] if (s := cells.get(n)) else None for n in CELLS},
        "kl": kl if trained else (0.0 if evaluation else None),
        "retention": {n: s.mean if (s := kept.get(n)) else None for n in ("base", "final")},
        "rollouts": {
            "fast": result.spend.fast_rollouts,
            "slow": result.spend.slow_rollouts,
            "eval": (evaluation.rollouts if evaluation else 0) + _on_the_way(result),
        },
        "cycles": result.cycles,
        "fast_phases": sum("fast/rollouts" in report.metrics for report in result.history),
        "steps": result.spend.gradient_steps,
        "policy_version": result.policy.version,
        "champion": champion.id,
        "instructions": dict(champion.instructions),
        "shipped": {
            "cell": shipped_cell(config),
            "instructions": dict(shipped.instructions),
        },
        "predictors": {name: asdict(counts) for name, counts in predictors.items()},
        "population": to_json(result.population)["candidates"],
        "seconds": result.spend.seconds,
        "seconds_total": seconds_total,
        "stopped": result.stopped,
        "run_dir": str(result.run_dir),
        "mlflow_run_id": result.mlflow_run_id,
    }


def _on_the_way(result: RunResult) -> int:
    """Rollouts of the validations before the end."""
    return sum(int(report.metrics.get("eval/rollouts", 0)) for report in result.history)

"""Host and trainer hold one policy: what was sampled is trained, and what was trained is served."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress

from fst_agents.errors import ServingError, TrainerError
from fst_agents.serving.host import PolicyHost
from fst_agents.types import Completion, Sampling, StepReport
from optimizers.protocols import SlowOptimizer

LOGP_GAP = {"float32": 1e-3, "bfloat16": 0.25}
"""Largest |Δ log p| between host and trainer that is still the same policy, by precision.

Seen: 2e-6 in float32; 0.014 in bfloat16. A stale or wrongly loaded weight shows as 0.5 and more.
"""


def refuse_foreign(report: StepReport, dtype: str) -> None:
    """Refuse a step on samples that the policy has not drawn as they say.

    The trainer scores them in any case, so this costs nothing; raised before the new weights are
    served or saved, it leaves no trace of the step but in the trainer that ends with the run.
    """
    gap, limit = report.metrics.get("slow/logp_gap", 0.0), LOGP_GAP[dtype]
    if not gap <= limit:
        raise TrainerError(
            f"a sample is not what this policy draws: mean |Δ log p| between sampler and trainer "
            f"is {gap:.2g}, at most {limit:g} is rounding ({dtype}); its tokens or their "
            "log-probabilities were changed on the way. The step is not kept"
        )


def logp_gap(
    host: PolicyHost,
    slow: SlowOptimizer,
    prompt_ids: Sequence[int],
    sampling: Sampling,
    retries: int = 0,
) -> float:
    """max |Δ log p| between host and trainer over one freshly sampled completion.

    A request that fails is sent again ``retries`` times, as a rollout's would be.
    """
    sampled = _sample(host, prompt_ids, sampling, retries)
    [own] = slow.logprobs([prompt_ids], [sampled.token_ids], temperature=sampling.temperature)
    gaps = [abs(a - b) for a, b in zip(own, sampled.logprobs, strict=True)]
    return max(gaps) if all(map(math.isfinite, gaps)) else math.inf


def _sample(
    host: PolicyHost, prompt_ids: Sequence[int], sampling: Sampling, retries: int
) -> Completion:
    for _ in range(retries):
        with suppress(ServingError):
            return host.submit(prompt_ids, sampling).result()
    return host.submit(prompt_ids, sampling).result()

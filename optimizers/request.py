"""What is wrong with a request to learn, as far as can be known before anything is started.

Every arm looks at this first, and ``fst check`` says it without starting an arm.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dspy

from fst_agents.config import RunConfig
from fst_agents.dspy_bridge import seed_candidate
from fst_agents.dspy_fixed import learning_faults
from fst_agents.errors import FstError, ProgramError
from fst_agents.preflight import preflight
from fst_agents.run_file import too_few
from fst_agents.scoring import Metric
from fst_agents.serving.choose import choose
from fst_agents.serving.host import PolicyHost


def request_faults(
    student: dspy.Module,
    config: RunConfig,
    metric: Metric,
    *,
    trainset: Sequence[dspy.Example],
    valset: Sequence[dspy.Example],
    eval_metric: Metric | None = None,
    adapter: dspy.Adapter | None,
    policy: str | PolicyHost | None,
    score_range: tuple[float, float] | None,
) -> list[str]:
    """Every fault between a program, its examples, its metrics and the settings, one line each.

    Args:
        eval_metric: what the 2×2 is scored with, if that is another than ``metric``.
        policy: a folder or Hugging Face name, or the host that serves it already. Prompts are not
            measured without it, nor where its tokenizer is not to be had.
    """
    try:
        seed_candidate(student)
        found = learning_faults(student, config)
    except ProgramError as error:
        return [str(error)]
    examples = [*trainset, *valset]
    found += preflight(
        student,
        examples,
        metric,
        adapter=adapter,
        fixed=config.fixed,
        score_range=score_range,
        **_room(policy, config),
    )
    if eval_metric is not None and eval_metric is not metric:
        judged = preflight(student, examples, eval_metric, adapter=adapter, score_range=score_range)
        found += [f"eval_metric: {line}" for line in judged if line not in found]
    if len(trainset) < config.slow.batch_size:
        found.append(too_few(len(trainset), config.slow.batch_size))
    return found


def _room(policy: str | PolicyHost | None, config: RunConfig) -> dict[str, Any]:
    """Tokenizer and context length of a policy that is on this machine; nothing otherwise.

    A model that has still to be fetched is looked at when it is served.
    """
    if policy is None:
        return {}
    if not isinstance(policy, str):
        return {"tokenizer": policy.tokenizer, "context_length": policy.context_length}
    from transformers import AutoConfig  # seconds to import

    from fst_agents.serving.tokenizer import HfChatTokenizer

    trust = config.policy.trust_remote_code
    try:
        tokenizer = HfChatTokenizer(policy, trust)
        model = AutoConfig.from_pretrained(policy, trust_remote_code=trust)
        asked = config.serve.context_length
        if asked is not None and choose(config)[0] == "local":
            asked = None  # that host has the model's own
    except (FstError, OSError, ValueError):
        return {}
    own = model.get_text_config().max_position_embeddings
    return {"tokenizer": tokenizer, "context_length": own if asked is None else min(own, asked)}

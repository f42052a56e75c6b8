"""Loading a policy into transformers, adapter merged."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from fst_agents.errors import ServingError
from fst_agents.serving import weights
from fst_agents.types import Policy


def load(policy: Policy, dtype: str, trust_remote_code: bool = False) -> Any:
    """The model of a policy in evaluation mode, on the accelerator where there is one.

    An adapter is merged into the weights, because sampling then costs what the base model costs.

    Raises:
        ServingError: the folder is unreadable or holds weights of another model.
    """
    weights.check(policy)
    folder = str(policy.model if policy.weights is None else policy.weights)
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model = _load(folder, dtype, trust_remote_code)
        if policy.adapter is not None:
            _merge(model, policy)
    except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
        raise ServingError(f"{policy.adapter or folder}: cannot be loaded: {error}") from error
    finally:
        if bars:
            logging.enable_progress_bar()
    return model.eval().requires_grad_(False)


def _load(folder: str, dtype: str, trust_remote_code: bool) -> Any:
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=getattr(torch, dtype),
        trust_remote_code=trust_remote_code,
        output_loading_info=True,
    )
    model, report = loaded
    wrong = {k: sorted(map(str, v)) for k, v in report.items() if v and k != "error_msgs"}
    if wrong:
        raise ServingError(f"{folder}: the weights do not fit the model: {wrong}")
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def _merge(model: Any, policy: Policy) -> None:
    """Load the adapter through transformers' own integration and fold it into the weights."""
    model.load_adapter(str(policy.adapter))
    layers = [m for m in model.modules() if callable(getattr(m, "merge", None))]
    if not layers:
        raise ServingError(f"{policy.adapter}: the adapter touches no layer of {policy.model}")
    for layer in layers:
        layer.merge(safe_merge=True)

"""Trained weights as a model of their own: what a further training can start from afresh."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from fst_agents.errors import RunDirError
from fst_agents.run_dir import RunDir
from fst_agents.types import Policy


def merged_policy(base: Policy, run_dir: Path, folder: Path) -> Policy:
    """The trained weights of a finished run as a base policy, version 0, in a new ``folder``.

    An adapter is added into its base's weights, in float32; the tokenizer comes along. Code of the
    model's own runs if the run allowed it (``policy.trust_remote_code``). A folder that is there
    already is replaced.

    Raises:
        RunDirError: the run has not finished, or has trained no weights.
    """
    run = RunDir.open(run_dir)
    adapter, weights = run.path / "result" / "adapter", run.path / "result" / "weights"
    if not run.finished or not (adapter.is_dir() or weights.is_dir()):
        raise RunDirError(f"{run_dir}: expected a finished run with trained weights in result/")
    shutil.rmtree(folder, ignore_errors=True)
    source = str(weights) if weights.is_dir() else base.model
    trust = run.config().policy.trust_remote_code
    model = AutoModelForCausalLM.from_pretrained(
        source, dtype=torch.float32, trust_remote_code=trust
    )
    if adapter.is_dir():
        model = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    model.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(base.model, trust_remote_code=trust)
    tokenizer.save_pretrained(folder)
    return Policy(str(folder))

"""Merged weights of a model that brings code of its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from fst_agents.run_dir import RunDir
from fst_agents.run_file import parse
from fst_agents.types import Policy
from optimizers.merge import merged_policy
from tests.serving.checkpoints import save_model

CODE = """
from transformers import Qwen3Config, Qwen3ForCausalLM

class OwnConfig(Qwen3Config):
    model_type = "fst-test-own"

class OwnModel(Qwen3ForCausalLM):
    config_class = OwnConfig
"""


def own_model(folder: Path) -> Path:
    save_model(folder)
    (folder / "own.py").write_text(CODE)
    config = json.loads((folder / "config.json").read_text())
    names = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    config |= {"model_type": "fst-test-own", "auto_map": names, "architectures": ["OwnModel"]}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("trust", [True, False])
def test_code_of_the_models_own_runs_where_the_run_allowed_it(trust: bool, tmp_path: Path) -> None:
    base = own_model(tmp_path / "base")
    policy = {"model": str(base), "trust_remote_code": trust}
    run = RunDir.create(tmp_path / "run", parse({"policy": policy}))
    shutil.copytree(base, run.result_folder / "weights")
    run.finish({})
    if not trust:
        with pytest.raises(ValueError, match="trust_remote_code"):
            merged_policy(Policy(str(base)), run.path, tmp_path / "merged")
        return
    merged = merged_policy(Policy(str(base)), run.path, tmp_path / "merged")
    assert (Path(merged.model) / "model.safetensors").is_file()

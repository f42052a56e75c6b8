"""``fst export``: what ships, loadable without this package's training side."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

from experiments.evaluate import final_policy
from experiments.folders import new_folder
from experiments.report import shipped_cell
from fst_agents.errors import ServingError
from fst_agents.run_dir import RunDir
from fst_agents.serving.vllm_settings import served_rank
from fst_agents.types import Policy

CARD = """# {task}, tuned by fast-slow training

| | |
|---|---|
| arm | {arm}, seed {seed} |
| base model | `{model}` |
| weights | {weights} |
| score on held-out problems | {scores} |
| what ships | `{cell}` |
| KL to the base model | {kl} |

## Instructions

{instructions}

## Use it

Serve the weights, then load the program:

```sh
{serve}
```

```python
program = YourProgram()
program.load("program.json")
```
"""


def export(run_dir: Path, out: Path) -> dict[str, Any]:
    """Copy a finished run's result into a new folder, with a card.

    Raises:
        RunDirError: the run has not finished, or ``out`` exists.
    """
    run = RunDir.open(run_dir)
    policy, result = final_policy(run), run.result()
    new_folder(out)
    shutil.copytree(run.result_folder, out, dirs_exist_ok=True)
    serve = _serve_command(policy, out)
    trained = policy.adapter or policy.weights
    texts = result.get("shipped", result)["instructions"]  # older results do not tell them apart
    text = CARD.format(
        task=result["task"],
        arm=result["arm"],
        seed=result["seed"],
        model=run.config().policy.model,
        weights=f"`{trained.name}/`" if trained else "unchanged",
        scores=json.dumps(result["scores"]),
        cell=shipped_cell(result),
        kl=result["kl"],
        instructions="\n\n".join(f"**{n}**\n\n> {t}" for n, t in texts.items()),
        serve=serve,
    )
    (out / "README.md").write_text(text, encoding="utf-8")
    return {
        "folder": str(out),
        "files": sorted(str(f.relative_to(out)) for f in out.rglob("*") if f.is_file()),
        "serve": serve,
    }


def _serve_command(policy: Policy, out: Path) -> str:
    model, folder = shlex.quote(policy.model), out.absolute()
    if policy.adapter is not None:
        config = json.loads((policy.adapter / "adapter_config.json").read_text(encoding="utf-8"))
        module = shlex.quote(f"tuned={folder / 'adapter'}")
        try:
            rank = served_rank(config["r"])
        except ServingError as error:  # other servers may take it
            return f"# {error}"
        return f"vllm serve {model} --enable-lora --max-lora-rank {rank} --lora-modules {module}"
    served = model if policy.weights is None else shlex.quote(str(folder / "weights"))
    return f"vllm serve {served}"

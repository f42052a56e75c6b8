"""``docs/run-file.md`` from the schema: ``python -m experiments.run_file_docs > docs/run-file.md``.

The page cannot drift from :mod:`fst_agents.config`: a test renders it again and compares.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from fst_agents.config import RunConfig
from programs.catalog import TASKS
from programs.task import Entry, Options

Schema = Mapping[str, Any]

HEAD = """\
# The run file

<!-- Rendered from fst_agents/config.py and the options of the tasks by
`python -m experiments.run_file_docs`; edit it there. -->

A run is described by one TOML file. Every key has a default that works, so the smallest file says
what to learn and how:

```toml
arm = "fst"
seed = 0

[task]
name = "digits"
target = ["double", "swap_ends"]
```

- Top-level keys stand before the first section.
- An unknown key is an error, and so is a value of the wrong type. `fst check` and `fst train` list
  everything that is wrong at once, one line each, and exit with 2.
- `--set key=value` wins over the file and may be repeated: `--set slow.learning_rate=3e-4`,
  `--set 'task.target=["double", "reverse"]'`. The value is read as TOML, else as plain text.
- The resolved file is written to `run.toml` in the run directory. Texts in `fast.reflection_args`
  and `fixed.*.args` under a key that looks like a secret, such options in `serve.extra_args` and
  passwords in URLs are blotted out there.

Rules between keys:

- `fast.population` (K) divides `slow.group_size` (G).
- Unless `arm = "rl"`, `fast.rollouts` pays for K members and one proposal on the anchor set, which
  has `slow.steps_per_cycle · slow.batch_size` problems.
- `slow.batch_size` is at most the number of training problems.
- `budget` pays for one cycle (for one RL step, if `arm = "rl"`), beside what `[distill]` takes.
- `distill.steps` is 0 or absent if `arm = "rl"`, and at least 1 if `arm = "distill"`.
- `serve.url` is absent if `serve.host = "local"`.
- Of `task.score_range` the first number is the smaller one.

The defaults follow the paper (arXiv 2605.12484) where it speaks, and are sized for the embedded
micro policy otherwise: a larger model wants its own `policy.dtype`, `sampling.max_tokens`,
`sampling.timeout`, `serve.context_length`, `slow.learning_rate` and `slow.tokens_per_micro_batch`,
as in [qwen3-8b.toml](../experiments/runs/qwen3-8b.toml). Ready-made files are in
[experiments/runs](../experiments/runs).
"""


def render() -> str:
    """The page, as Markdown."""
    schema = RunConfig.model_json_schema()
    sections, defaults = schema["$defs"], RunConfig().model_dump(mode="json")
    top: dict[str, Schema] = {}
    tables: list[str] = []
    for name, field in schema["properties"].items():
        if name == "fixed":
            fixed = sections["FixedModel"]
            defaults_of = {key: f.get("default") for key, f in fixed["properties"].items()}
            table = _table(fixed["properties"], defaults_of)
            meaning = fixed["description"].replace("\n", " ")
            tables.append(f"## `[fixed.<predictor>]`: a model of its own\n\n{meaning}\n\n{table}")
        elif "$ref" in field:
            section = sections[field["$ref"].rsplit("/", 1)[1]]
            table = _table(section["properties"], defaults[name])
            tables.append(f"{_heading(name, section['description'])}\n\n{table}")
        else:
            top[name] = field
    head = f"## Top level\n\n{_table(top, defaults)}"
    return "\n".join([HEAD, head, *tables, *map(_options, TASKS.values())])


def _options(entry: Entry) -> str:
    """The keys that one shipped task adds to ``[task]``."""
    shared = Options.model_fields
    schema = entry.options.model_json_schema()
    own = {name: field for name, field in schema["properties"].items() if name not in shared}
    defaults = {**entry.options().model_dump(mode="json")}
    sizes = ", ".join(f"`{name}` {defaults[name]}" for name in shared)
    head = f'## `[task] name = "{entry.name}"`: {entry.summary}\n\nSizes by default: {sizes}.\n'
    return f"{head}\n{_table(own, defaults)}"


def _table(fields: Mapping[str, Schema], defaults: Mapping[str, Any]) -> str:
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for name, field in fields.items():
        cells = (f"`{name}`", _type(field), _default(defaults[name]), field["description"])
        rows.append(f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |")
    return "\n".join(rows) + "\n"


def _type(field: Schema) -> str:
    """A type in words, its bounds included: ``integer ≥ 1``."""
    if "anyOf" in field:
        kinds = [_type(kind) for kind in field["anyOf"] if kind.get("type") != "null"]
        return " or ".join(kinds)
    if "const" in field or "enum" in field:
        choices = [field["const"]] if "const" in field else field["enum"]
        return " or ".join(f"`{json.dumps(choice)}`" for choice in choices)
    if "prefixItems" in field:
        return f"[{', '.join(_type(kind) for kind in field['prefixItems'])}]"
    if field["type"] == "array":
        return f"list of {_type(field['items'])}s"
    bounds = ((">", "exclusiveMinimum"), ("≥", "minimum"), ("≤", "maximum"))
    limits = [f"{sign} {field[key]:.10g}" for sign, key in bounds if key in field]
    return " ".join([_NAMES[field["type"]], ", ".join(limits)]).strip()


_NAMES = {
    "string": "text",
    "integer": "integer",
    "number": "number",
    "boolean": "true or false",
    "object": "table",
}


def _default(value: Any) -> str:
    return "none" if value is None else f"`{json.dumps(value)}`"


def _heading(name: str, description: str) -> str:
    """The first sentence of a section's docstring heads it; what follows is its paragraph."""
    meaning, _, more = " ".join(description.split()).partition(": ")[2].partition(". ")
    return "\n\n".join([f"## `[{name}]`: {meaning.removesuffix('.')}", *([more] if more else [])])


if __name__ == "__main__":
    sys.stdout.write(render())

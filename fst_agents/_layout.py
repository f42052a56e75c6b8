"""A guard against shadowing: our top-level names are generic, so other code may have them too."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("fst_agents", "programs", "optimizers", "experiments")


def check_layout() -> None:
    """Make sure that the four packages are the ones that belong together.

    Raises:
        ImportError: naming the folder that shadows ours and the one expected.
    """
    home = Path(__file__).resolve().parents[1]
    for name in PACKAGES:
        spec = find_spec(name)
        origin = None if spec is None or spec.origin is None else Path(spec.origin).resolve()
        if origin is None or origin.parents[1] != home:
            found = "nothing" if origin is None else str(origin.parent)
            raise ImportError(
                f"'import {name}' finds {found}, but fst-agents' own is {home / name}; rename the "
                "other folder, leave its directory, or uninstall the package that ships it"
            )

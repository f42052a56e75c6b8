from __future__ import annotations

import sys
from pathlib import Path

# Under --import-mode=importlib a test's own folder is not on the path.
for folder in (Path(__file__).parent, Path(__file__).parents[1] / "loop"):
    sys.path.insert(0, str(folder))

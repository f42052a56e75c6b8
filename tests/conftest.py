"""Before anything else: what libraries read from the environment once, when they are loaded."""

from __future__ import annotations

import os
import secrets

from hypothesis import settings

# Ray clusters of the tests answer nobody else.
os.environ["RAY_AUTH_MODE"] = "token"
os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)

# A busy machine is no defect: pytest-timeout looks after examples that hang.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

"""Before anything else: what libraries read from the environment once, when they are loaded."""

from __future__ import annotations

import os
import secrets

# Ray clusters of the tests answer nobody else.
os.environ["RAY_AUTH_MODE"] = "token"
os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)

from __future__ import annotations

import sys
from pathlib import Path

import pytest

# Under --import-mode=importlib a test's own folder is not on the path.
sys.path.insert(0, str(Path(__file__).parent))

from checkpoints import save_model


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("tied"), tied=True)


@pytest.fixture(scope="module")
def untied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("untied"), tied=False, family="llama")

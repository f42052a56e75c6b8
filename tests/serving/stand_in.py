"""What starts ``fake_server.py`` where vLLM would be started."""

from __future__ import annotations

import sys
from pathlib import Path

from fst_agents.serving import vllm_settings
from fst_agents.serving.vllm_settings import ServerSettings

SCRIPT = Path(__file__).with_name("fake_server.py")


def command(settings: ServerSettings, name: str, address: list[str]) -> list[str]:
    """The command line of vLLM with another program in it; for ``vllm_process.command``."""
    line = vllm_settings.command(settings, name, address)
    module = line.index("-m")
    return [sys.executable, str(SCRIPT), *line[module + 2 :]]

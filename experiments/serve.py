"""``fst serve``: the guarded vLLM server by itself."""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path

from rich.console import Console

from experiments.evaluate import final_policy
from experiments.tasks import model_path
from fst_agents.config import RunConfig, ServeConfig
from fst_agents.run_dir import RunDir
from fst_agents.serving.choose import choose_host
from fst_agents.types import Policy


def serve_until_interrupted(model: str, port: int | None) -> None:
    """Start a server for a model, or for the trained policy of a run directory, and wait.

    The key is random and known to this process only; it is printed once, for the caller.
    """
    run = Path(model)
    if (run / "run.toml").is_file():
        policy = final_policy(RunDir.open(run))
        config = RunDir.open(run).config()
    else:
        policy, config = Policy(model_path(model)), RunConfig()
    serve = ServeConfig.model_validate({**config.serve.model_dump(), "host": "vllm", "port": port})
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="fst-serve-") as folder:
        host, why = choose_host(config.model_copy(update={"serve": serve}), policy, Path(folder))
        try:
            console.print(why)
            for line in describe(host):
                console.print(line, highlight=False)
            threading.Event().wait()
        finally:
            host.close()


def describe(host: object) -> list[str]:
    """How to talk to the server that a host has started."""
    server = getattr(host, "server", None)
    if server is None:
        return ["attached to a server of somebody else's"]
    return [f"OpenAI-compatible API: {server.url}/v1", f"API key: {server.key}", "Ctrl-C stops it"]

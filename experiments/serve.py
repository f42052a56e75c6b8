"""``fst serve``: a policy on a guarded vLLM server, for clients of the OpenAI API."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from experiments.evaluate import final_policy
from experiments.tasks import model_path
from fst_agents.config import RunConfig, ServeConfig
from fst_agents.errors import ConfigError, ServingError
from fst_agents.redaction import refuse_redacted
from fst_agents.run_dir import RunDir
from fst_agents.run_file import parse
from fst_agents.serving import weights
from fst_agents.serving.choose import choose, server_settings
from fst_agents.serving.vllm_process import VllmServer
from fst_agents.serving.vllm_settings import LOOPBACK, PUBLIC_NAME, ServerSettings, is_loopback
from fst_agents.types import Policy


def serve_until_interrupted(
    model: str,
    port: int | None,
    host: str = LOOPBACK,
    api_key_env: str | None = None,
    overrides: Sequence[str] = (),
) -> None:
    """Serve a model, or the trained policy of a run directory, and wait.

    ``api_key_env`` names the variable that holds the key which clients must send. On loopback it
    may be left out: then the key is random, known to this process only, and printed once.
    ``overrides`` are for the run's own configuration, or the default one.

    Raises:
        ConfigError: ``host`` is beyond loopback and there is no key, or the variable is not set; an
            override is wrong, or a secret in the run's ``serve.extra_args`` has to be given again.
        ServingError: the server does not come up, or ends by itself.
    """
    key = chosen_key(host, api_key_env)  # before anything is loaded
    run = Path(model)
    if os.path.isfile(run / "run.toml"):  # Path.is_file fails on a name that is too long
        policy = final_policy(RunDir.open(run))
        config = RunDir.open(run).config()
    else:
        policy, config = Policy(model_path(model)), RunConfig()
    config = parse(config.model_dump(mode="json"), overrides)
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="fst-serve-") as folder:
        settings = public_settings(config, policy, Path(folder), host, port, key)
        server = VllmServer(settings)
        try:
            for line in describe(server, host, api_key_env):
                console.print(line, highlight=False, markup=False, soft_wrap=True)
            while (death := server.death()) is None:
                time.sleep(1)
            raise ServingError(death)
        finally:
            server.stop()


def chosen_key(host: str, variable: str | None) -> str | None:
    """The key that the user chose, ``None`` for a random one.

    Raises:
        ConfigError: there is none, and the server could be reached from other machines.
    """
    if variable is None:
        if not is_loopback(host):
            raise ConfigError(
                f"--host {host} can be reached from other machines; that takes an API key of your "
                "own: put one into a variable and name it with --api-key-env NAME"
            )
        return None
    key = os.environ.get(variable, "")
    if not key:
        raise ConfigError(f"--api-key-env names {variable}, but that variable is not set or empty")
    return key


def public_settings(
    config: RunConfig, policy: Policy, folder: Path, host: str, port: int | None, key: str | None
) -> ServerSettings:
    """Settings of a server that has the policy from its start and no route to change it."""
    serve = ServeConfig.model_validate(
        {**config.serve.model_dump(), "url": None, "host": "vllm", "port": port}
    )
    config = config.model_copy(update={"serve": serve})
    refuse_redacted(config, "serve")
    choose(config)  # is vLLM installed?
    weights.check(policy)
    rank = None
    if policy.adapter is not None:
        text = (policy.adapter / "adapter_config.json").read_text(encoding="utf-8")
        rank = int(json.loads(text)["r"])
    served = policy.model if policy.weights is None else str(policy.weights)
    return replace(
        server_settings(config, served, folder),
        tokenizer=policy.model,
        lora_rank=rank,
        adapter=policy.adapter,
        host=host,
        key=key,
        public=True,
    )


def describe(server: VllmServer, host: str, api_key_env: str | None) -> list[str]:
    """How to talk to a server; the key only where nobody else has it yet."""
    key = server.key if api_key_env is None else f"the one in ${api_key_env}"
    lines = [
        f"OpenAI-compatible API: {server.url}/v1",
        f"model: {PUBLIC_NAME}",
        f"API key: {key}",
    ]
    if not is_loopback(host):
        lines.append(
            f"listening on {host}, without encryption: whoever can read the network can read the "
            "key; put a proxy with TLS before it"
        )
    return [*lines, "Ctrl-C stops it"]

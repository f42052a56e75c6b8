"""Runs inside the vLLM server: swaps full weights in place.

Named by ``--worker-extension-cls``; vLLM mixes the class into its worker. A method that raises,
or returns something that is not JSON, takes the whole engine down, hence the shape of
:meth:`SyncExtension.sync_weights`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any


class SyncExtension:
    """Adds ``sync_weights`` to ``POST /collective_rpc``."""

    model_runner: Any

    def sync_weights(self, path: str) -> dict[str, Any]:
        """Load the weights in folder ``path``; returns ``{"ok": bool, "error": str}``."""
        if not (Path(path) / "config.json").is_file():
            return {"ok": False, "error": f"{path}: no config.json there"}
        try:
            self.model_runner.reload_weights(weights_path=path)
            _repack(self.model_runner.get_model())
        except Exception as error:  # noqa: BLE001 - see the module docstring
            return {"ok": False, "error": f"{type(error).__name__}: {error}"}
        return {"ok": True, "error": ""}


def _repack(model: Any) -> None:
    """Renew the packed copy of the output layer that vLLM's CPU build keeps.

    A reload renews every such copy but that of an output layer tied to the embedding, which
    would go on serving the old weights (vLLM 0.32; a no-op on accelerators).
    """
    head = getattr(model, "lm_head", None)
    if head is not None and hasattr(head, "cpu_linear"):
        from vllm.model_executor.layers.utils import (  # pyright: ignore[reportMissingImports]
            dispatch_cpu_unquantized_gemm,
        )

        dispatch_cpu_unquantized_gemm(head, remove_weight=False)

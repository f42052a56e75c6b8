"""What a cell needs in memory, for the fork server that cells are forked from.

Imports, and no more: a cell finds the libraries loaded and nothing that another cell has done.
"""

from __future__ import annotations

import gc
import os
from importlib import import_module

from experiments.command import quiet_libraries
from experiments.studies.provenance import commit

ROOMS = (
    "experiments.train",
    "fst_agents.serving.local_host",
    "optimizers.distill",
    "optimizers.fast_gepa",
    "optimizers.slow_grpo",
    "programs.micro.adapter",
    "transformers.models.qwen3.modeling_qwen3",  # the micro policy's
)
"""Modules that load the rest; what they load late, a cell loads itself."""

# A second thread on tensors this small only spins, and cells run side by side.
os.environ.setdefault("OMP_NUM_THREADS", "1")
quiet_libraries()
for room in ROOMS:
    import_module(room)
commit()  # of this code; the checkout may have moved on when a cell begins
gc.collect()
gc.freeze()  # a cell's collector need not look at the libraries, nor copy their memory

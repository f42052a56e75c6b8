"""Every fault there is a promise for, in the order of docs/reliability.md."""

# pyright: reportMissingImports=false

from __future__ import annotations

from disk_faults import DISK
from process_faults import PROCESS
from program_faults import HOSTS, PROGRAMS, TRAINER
from reflection_faults import REFLECTION
from server_faults import SERVER
from vllm_faults import VLLM

FAULTS = [*PROGRAMS, *HOSTS, *SERVER, *REFLECTION, *TRAINER, *DISK, *PROCESS, *VLLM]

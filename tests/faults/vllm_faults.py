"""Faults of a real vLLM server in the middle of an RL step, on the embedded policy."""

# pyright: reportMissingImports=false

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import psutil
import pytest
from faults import Drive, Fault, Seen, Workshop, outcomes

from experiments.tasks import build_task, policy_adapter
from fst_agents.config import RunConfig
from fst_agents.run_dir import RunDir
from fst_agents.run_file import parse
from fst_agents.serving.vllm_host import VllmHost
from fst_agents.serving.vllm_settings import ServerSettings
from fst_agents.types import Completion, Outcome, Policy, Sampling
from optimizers.arms import Grpo
from optimizers.parity import LOGP_GAP
from programs import micro

SERVER = (pytest.mark.faults, pytest.mark.vllm)


class FragileHost(VllmHost):
    """Calls ``fault`` once so many requests of rollouts have come; they are in flight then."""

    def break_at(self, requests: int, fault: Callable[[], None]) -> None:
        self._left, self._fault = requests, fault

    def submit(
        self, prompt_ids: Sequence[int], sampling: Sampling, order: tuple[int, ...] = ()
    ) -> Future[Completion]:
        future = super().submit(prompt_ids, sampling, order)
        if order:
            self._left -= 1
            if self._left == 0:
                self._fault()
        return future

    def processes(self) -> list[psutil.Process]:
        assert self.server is not None
        return [psutil.Process(pid) for pid in self.server.pids()]

    def kill_engine(self) -> None:
        [engine] = [p for p in self.processes() if "VLLM::EngineCore" in p.name()]
        engine.kill()

    def hang(self) -> None:
        """Stop everything but the guardian, which is first."""
        guardian, *others = sorted(self.processes(), key=lambda p: p.create_time())
        assert guardian.is_running()
        for process in others:
            process.send_signal(signal.SIGSTOP)


def config(path: Path) -> RunConfig:
    return parse(
        {
            "arm": "rl",
            "run_dir": str(path),
            "task": {"name": "digits", "train_size": 16, "val_size": 2},
            "fast": {"population": 1, "rollouts": 16},
            "slow": {"steps_per_cycle": 2, "batch_size": 4, "group_size": 4},
            "budget": {"cycles": 1, "enough": 2.0},
            "sampling": {"timeout": 400.0, "retries": 1},  # a restart included
            "track": {"enabled": False},
        }
    )


def train(settings: RunConfig, **others: Any) -> RunDir:
    """RL alone, without an evaluation."""
    task = build_task(settings)
    policy = Policy(str(micro.path()))
    arm = Grpo(
        metric=task.metric,
        policy=policy,
        config=settings,
        adapter=policy_adapter(settings),
        task=settings.task.name,
        **others,
    )
    arm.compile(task.program, trainset=task.trainset)
    assert settings.run_dir is not None
    run_dir = RunDir.open(settings.run_dir)
    steps = [entry["metrics"] for entry in run_dir.metrics() if entry["phase"] == "slow"]
    assert len(steps) == 3
    assert max(m.get("slow/logp_gap", 0.0) for m in steps) <= LOGP_GAP["float32"]
    return run_dir


def restarted(fault: Callable[[FragileHost], None]) -> Drive:
    """The run goes on to its end on a server that was started again."""

    def check(workshop: Workshop) -> Seen:
        model = str(micro.path())
        server_settings = ServerSettings(
            model, workshop.folder / "vllm", accelerator=False, lora_rank=32
        )
        host: Any = FragileHost.start(Policy(model), server_settings, request_timeout=30)
        try:
            first = host.processes()
            host.break_at(20, lambda: fault(host))  # the 4th request of the 2nd step
            started = time.monotonic()
            run_dir = train(config(workshop.folder / "run"), host=host)
            seconds = time.monotonic() - started
            assert not any(process.is_running() for process in first)
        finally:
            host.close()
        counts = outcomes(run_dir)
        masked = sum(counts[outcome.value] for outcome in Outcome if outcome.masked)
        assert masked <= 4
        return Seen(
            "restarted once, with the adapter it had; the run went on "
            f"({seconds:.0f} s with the restart)",
            f"{masked} of {counts['all']} rollouts" if masked else "nothing",
        )

    return check


VLLM = [
    Fault(
        "vLLM killed mid-step",
        "SIGKILL to its engine, real server",
        restarted(FragileHost.kill_engine),
        SERVER,
    ),
    Fault(
        "vLLM hung",
        "SIGSTOP to all of it mid-step, real server",
        restarted(FragileHost.hang),
        SERVER,
    ),
]

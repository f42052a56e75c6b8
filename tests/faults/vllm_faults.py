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
from faults import Fault, Seen, Shared, Workshop, outcomes
from loop_world import first_line

from experiments.tasks import build_task, policy_adapter
from fst_agents.config import RunConfig, parse
from fst_agents.errors import ServingError
from fst_agents.run_dir import RunDir
from fst_agents.serving.vllm_host import VllmHost
from fst_agents.serving.vllm_settings import ServerSettings
from fst_agents.types import Completion, Outcome, Policy, Sampling
from optimizers.arms import Grpo
from optimizers.loop import LOGP_GAP
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


def host(shared: Shared) -> FragileHost:
    """One server for all of them: what comes first is survived, and the last is the end of it."""

    def make() -> FragileHost:
        settings = ServerSettings(
            str(micro.path()), shared.folder / "vllm", accelerator=False, lora_rank=32
        )
        made = FragileHost.start(Policy(str(micro.path())), settings, request_timeout=30)
        shared.stack.callback(made.close)
        return made

    return shared.once("vllm", make)


def config(path: Path, timeout: float) -> RunConfig:
    return parse(
        {
            "arm": "rl",
            "run_dir": str(path),
            "task": {"name": "digits", "train_size": 16, "val_size": 2},
            "fast": {"population": 1, "rollouts": 16},
            "slow": {"steps_per_cycle": 2, "batch_size": 4, "group_size": 4},
            "budget": {"cycles": 1, "enough": 2.0},
            "sampling": {"timeout": timeout, "retries": 1},
            "track": {"enabled": False},
        }
    )


def train(settings: RunConfig, **others: Any) -> RunDir:
    """RL alone, without an evaluation; with ``resume=`` it goes on."""
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


def killed(workshop: Workshop) -> Seen:
    server = host(workshop.shared)
    server.break_at(20, server.kill_engine)  # the 4th request of the 2nd step
    started = time.monotonic()
    run_dir = train(config(workshop.folder / "run", 400.0), host=server)
    counts = outcomes(run_dir)
    masked = counts["all"] - sum(counts[o.value] for o in Outcome if not o.masked)
    assert masked <= 4
    assert server.server is not None
    return Seen(
        f"restarted once, its adapter loaded again, {time.monotonic() - started:.0f} s in all; "
        "the run went on",
        f"{masked} of {counts['all']} rollouts" if masked else "nothing",
    )


def hung(workshop: Workshop) -> Seen:
    server = host(workshop.shared)
    server.break_at(20, server.hang)
    settings = config(workshop.folder / "run", 60.0)
    began = time.monotonic()
    with pytest.raises(ServingError, match="failed outside the policy") as caught:
        train(settings, host=server)
    seconds = time.monotonic() - began
    assert settings.run_dir is not None
    stopped = RunDir.open(settings.run_dir)
    assert stopped.state().step == 1
    server.close()
    assert not any(p.is_running() for p in server.processes())
    on_the_spot = settings.model_copy(
        update={"serve": settings.serve.model_copy(update={"host": "local"})}
    )
    train(on_the_spot, resume=settings.run_dir)
    return Seen(
        f"a second death is final: stopped after {seconds:.0f} s, {first_line(caught.value, 60)}; "
        "--resume went on, on the local host",
        "the step under way",
    )


VLLM = [
    Fault("vLLM killed mid-step", "SIGKILL to its engine, real server", killed, SERVER),
    Fault("vLLM hung", "SIGSTOP in the middle of a step, real server", hung, SERVER),
]

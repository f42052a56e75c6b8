"""A server that lies: a whole run against one over HTTP, some of whose answers were tampered with.

The server knows what it has really sampled. Whatever it says instead, the trainer may see nothing
but that.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import contextlib
import itertools
import json
import random
import threading
from collections.abc import Callable, Generator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from checkpoints import save_tokenizer
from fake_server import Handler, Reply
from fakes import LOGPROB
from faults import Drive, Fault, Seen, Shared, Tokens, Workshop, outcomes, refuse_wrong_gradient
from loop_world import CONFIG, RecordingTrainer, Sometimes, cast, drive, first_line
from safetensors.numpy import save_file
from stops import Cast, Fuse, attempt

from fst_agents.errors import ServingError
from fst_agents.rollouts import Limits
from fst_agents.serving.tokenizer import HfChatTokenizer
from fst_agents.serving.vllm_client import EXTENSION
from fst_agents.serving.vllm_host import VllmHost
from fst_agents.types import Outcome, Policy

Choice = dict[str, Any]
Tamper = Callable[[dict[str, Any]], Any]
"""Makes of an honest answer of ``/v1/completions`` what is sent: JSON, text, or a status."""

SERVER_INFO = {
    "vllm_config": {
        "model_config": {
            "logprobs_mode": "processed_logprobs",
            "generation_config": "vllm",
            "max_model_len": 8192,
        },
        "parallel_config": {"worker_extension_cls": EXTENSION},
    }
}
NAME = "base"


class LyingServer:
    """Plays a vLLM server; every ``due`` answer with a whole completion is tampered with.

    ``honest``: what was really sampled. ``lies``: how many answers were not.
    """

    def __init__(self, model: Path, tamper: Tamper, due: Callable[[], bool]) -> None:
        self.honest: set[Tokens] = set()
        self.lies = 0
        self._tamper, self._due = tamper, due
        self._tokenizer: Any = HfChatTokenizer(str(model))
        self._alphabet = {self._tokenizer.decode((i,)): i for i in range(256)}
        self._rng, self._number = random.Random(0), itertools.count()
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def serve(self) -> Generator[str]:
        fine = json.dumps({"success": True, "results": [{"ok": True, "error": ""}]})
        models = json.dumps({"data": [{"id": NAME, "parent": None}]})
        replies: dict[str, Callable[[Any], Reply]] = {
            "/server_info": lambda _: (200, json.dumps(SERVER_INFO)),
            "/v1/models": lambda _: (200, models),
            "/v1/completions": self.complete,
            "/v1/load_lora_adapter": lambda _: (200, "{}"),
            "/v1/unload_lora_adapter": lambda _: (200, "{}"),
            "/collective_rpc": lambda _: (200, fine),
            "/reset_prefix_cache": lambda _: (200, fine),
        }
        handler: Any = type("Lying", (Handler,), {"replies": replies})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            server.server_close()

    def complete(self, sent: Any) -> Reply:
        with self._lock:
            prompts = [p for p in sent["prompt"] for _ in range(sent.get("n", 1))]
            choices = [self._choice(i, p, sent["max_tokens"]) for i, p in enumerate(prompts)]
            answer = {"model": sent["model"], "choices": choices}
            if sent["max_tokens"] > 1 and self._due():  # one token is a probe of the client's
                self.lies += 1
                told = self._tamper(answer)
                if isinstance(told, ConnectionError):
                    raise told
                if isinstance(told, tuple):
                    return told
                return 200, told if isinstance(told, str) else json.dumps(told)
            for choice in choices:
                logprobs = tuple(choice["logprobs"]["token_logprobs"])
                self.honest.add(
                    (tuple(choice["prompt_token_ids"]), tuple(choice["token_ids"]), logprobs)
                )
            return 200, json.dumps(answer)

    def _choice(self, index: int, prompt: list[int], most: int) -> Choice:
        said = self._rng.choice(["yes", "no"])
        text = (
            f"Thought {next(self._number)}.\n\n[[ ## answer ## ]]\n{said}\n\n[[ ## completed ## ]]"
        )
        ids = [*(self._alphabet[c] for c in text), 256][:most]
        return {
            "index": index,
            "token_ids": ids,
            "prompt_token_ids": prompt,
            "logprobs": {"token_logprobs": [LOGPROB] * len(ids)},
            "finish_reason": "stop" if ids[-1] == 256 else "length",
        }


class AdapterTrainer(RecordingTrainer):
    """Publishes what a server takes for an adapter."""

    def publish(self, folder: Path) -> Policy:
        super().publish(folder)
        (folder / "adapter_config.json").write_text("{}")
        save_file({"weight": np.zeros(1, np.float32)}, folder / "adapter_model.safetensors")
        self.policy = Policy(self._model, adapter=folder, version=self.policy.version)
        return self.policy

    def __init__(self, policy: Policy, saved: Path | None = None) -> None:
        super().__init__(policy, saved)
        self._model = policy.model


def model(shared: Shared) -> Path:
    """A folder with a tokenizer, one token per byte; the weights are nobody's business here."""

    def make() -> Path:
        folder = shared.folder / "model"
        folder.mkdir()
        save_tokenizer(folder)
        return folder

    return shared.once("model", make)


def attached(url: str, folder: Path) -> Cast:
    """A run on that server, each request tried twice."""
    policy = Policy(str(folder))
    return cast(
        host=lambda: VllmHost.attach(url, policy, request_timeout=20),
        slow=AdapterTrainer,
        policy=policy,
        limits=Limits(concurrency=8, timeout=30, retries=1),
    )


RETRIED = CONFIG.model_copy(
    update={"sampling": CONFIG.sampling.model_copy(update={"retries": 1, "max_infra_share": 0.6})}
)


def lies(tamper: Tamper) -> Drive:
    """Some lies are asked again or masked; nothing but lies stops the run, with its state saved."""

    def check(workshop: Workshop) -> Seen:
        folder, path = model(workshop.shared), workshop.folder / "run"
        server = LyingServer(folder, tamper, Sometimes(4))
        with server.serve() as url:
            run = attempt(path, RETRIED, Fuse(), attached(url, folder))
            error = drive(run)
            run.host.close()
        assert error is None, error
        assert run.loop.stopped == "done"
        assert isinstance(run.slow, RecordingTrainer)
        assert any(run.slow.batches)
        refuse_wrong_gradient(run.run_dir, run.slow.batches, server.honest)
        counts = outcomes(run.run_dir)
        masked = counts[Outcome.INFRA_ERROR.value]
        assert counts["all"] == masked + counts["ok"]
        lost = f"{masked} of {counts['all']} rollouts" if masked else "nothing"
        return Seen(f"{server.lies} answers refused and asked again; the run went on", lost)

    return check


def only_lies(tamper: Tamper, words: str) -> Drive:
    """From the first RL step on; the run stops, and goes on with an honest server."""

    def check(workshop: Workshop) -> Seen:
        folder, path = model(workshop.shared), workshop.folder / "run"
        lying = threading.Event()
        server = LyingServer(folder, tamper, lying.is_set)
        with server.serve() as url:
            first = attempt(path, RETRIED, Fuse(), attached(url, folder))
            evolve = first.parts.fast.evolve  # type: ignore[union-attr]

            def then_lie(*args: Any, **kwargs: Any) -> Any:
                evolved = evolve(*args, **kwargs)
                lying.set()
                return evolved

            first.parts.fast.evolve = then_lie  # type: ignore[union-attr]
            error = drive(first)
            first.host.close()
            assert isinstance(error, ServingError), error
            assert words in str(error), error
            assert isinstance(first.slow, RecordingTrainer)
            assert first.slow.batches == []
            lying.clear()
            second = attempt(path, RETRIED, Fuse(), attached(url, folder))
            error_of_second = drive(second)
            second.host.close()
        assert error_of_second is None, error_of_second
        assert second.resumed is not None
        assert second.resumed.state.phase == 1  # the fast phase was not lost
        assert isinstance(second.slow, RecordingTrainer)
        seen = set[Any]().union(*second.slow.batches)
        assert seen
        return Seen(
            f"stopped, ServingError: {first_line(error)}; --resume went on behind the fast phase",
            "the 8 rollouts of the step",
        )

    return check


# -- the lies -------------------------------------------------------------------------------------


def first(change: Callable[[Choice], dict[str, Any]]) -> Tamper:
    """Change one completion of an answer, the rest being honest."""

    def tamper(answer: dict[str, Any]) -> Any:
        head, *others = answer["choices"]
        return {**answer, "choices": [head | change(head), *others]}

    return tamper


def logprob(value: Any) -> Tamper:
    return first(
        lambda c: {"logprobs": {"token_logprobs": [value, *c["logprobs"]["token_logprobs"][1:]]}}
    )


TAMPERS: dict[str, Tamper] = {
    "answers 500": lambda answer: (500, "engine error"),
    "answers 429": lambda answer: (429, "too many requests"),
    "answers garbage": lambda answer: "\x00{garbage",
    "answers half of its JSON": lambda answer: json.dumps(answer)[:-40],
    "answers HTML": lambda answer: "<html>502 Bad Gateway</html>",
    "breaks the connection": lambda answer: ConnectionAbortedError(),
    "leaves token ids out": first(lambda c: {"token_ids": None}),
    "gives one token id too few": first(lambda c: {"token_ids": c["token_ids"][1:]}),
    "gives token ids that are text": first(lambda c: {"token_ids": [*map(str, c["token_ids"])]}),
    "gives negative token ids": first(lambda c: {"token_ids": [-1, *c["token_ids"][1:]]}),
    "answers another prompt": first(lambda c: {"prompt_token_ids": c["prompt_token_ids"][1:]}),
    "leaves log-probabilities out": first(lambda c: {"logprobs": None}),
    "gives null for a log-probability": logprob(None),
    "gives NaN for a log-probability": logprob(float("nan")),
    "gives minus infinity for a log-probability": logprob(float("-inf")),
    "gives a log-probability above 0": logprob(0.5),
    "answers fewer completions": lambda answer: {**answer, "choices": answer["choices"][1:]},
    "answers for another model": lambda answer: {**answer, "model": "another"},
}

SERVER = [
    *(Fault(f"server {name}", "every 4th answer", lies(lie)) for name, lie in TAMPERS.items()),
    Fault(
        "server answers 500",
        "every answer of the RL steps",
        only_lies(TAMPERS["answers 500"], "status 500: engine error"),
    ),
    Fault(
        "server gives NaN for a log-probability",
        "every answer of the RL steps",
        only_lies(TAMPERS["gives NaN for a log-probability"], "not finite"),
    ),
]

"""What every policy host promises, asked of each of them."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
import torch
from checkpoints import logprobs_of, save_adapter, save_model, save_perturbed

from fst_agents.errors import ServingError
from fst_agents.serving.host import PolicyHost
from fst_agents.serving.local_host import LocalHost
from fst_agents.serving.local_model import Loader
from fst_agents.serving.scripted_host import ScriptedHost
from fst_agents.serving.vllm_host import VllmHost
from fst_agents.serving.vllm_process import ServerSettings
from fst_agents.types import Completion, Policy, Sampling

MESSAGES = [{"role": "system", "content": "Swap."}, {"role": "user", "content": "1 2 ü 4"}]


@dataclass(frozen=True)
class Served:
    """A host, its base policy, and the folder of the base weights (which a script has not)."""

    host: PolicyHost
    base: Policy
    folder: Path


MODELS = [
    "local-tied",
    "local-untied",
    pytest.param("vllm-tied", marks=pytest.mark.vllm),
    pytest.param("vllm-untied", marks=pytest.mark.vllm),
]
every_host = pytest.mark.parametrize("running", ["scripted", *MODELS], indirect=True)
every_model = pytest.mark.parametrize("running", MODELS, indirect=True)


def _start(kind: str, folder: Path, logs: Path) -> PolicyHost:
    policy = Policy(str(folder))
    if kind == "scripted":
        return ScriptedHost(lambda prompt, sampling, rng: "an answer of bytes", policy=policy)
    if kind == "local":
        return LocalHost(policy, seed=1)
    settings = ServerSettings(str(folder), logs, accelerator=False, lora_rank=8)
    return VllmHost.start(policy, settings)


@pytest.fixture(scope="module")
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """One host for all tests of its kind; once closed, no process and no socket of it is left."""
    kind, _, ties = request.param.partition("-")
    family = "llama" if ties == "untied" else "qwen3"
    folder = save_model(tmp_path_factory.mktemp("model"), tied=ties != "untied", family=family)
    host = _start(kind, folder, tmp_path_factory.mktemp("logs"))
    server = host.server if isinstance(host, VllmHost) else None
    pids = [] if server is None else server.pids()
    try:
        yield Served(host, Policy(str(folder)), folder)
    finally:
        host.close()
    assert not [pid for pid in pids if psutil.pid_exists(pid)]
    if server is not None:
        assert pids
        assert not Path(server.url.removeprefix("unix:")).parent.exists()


@pytest.fixture
def served(running: Served) -> Served:
    """The host back on its base policy."""
    if running.host.policy != running.base:
        running.host.update(running.base)
    return running


def ask(host: PolicyHost, sampling: Sampling, copies: int = 1) -> list[Completion]:
    prompt = host.tokenizer.render(MESSAGES)
    futures = [host.submit(prompt, sampling) for _ in range(copies)]
    return [f.result(timeout=60) for f in futures]


def gap(
    prompt: Sequence[int],
    completion: Completion,
    folder: Path,
    temperature: float,
    adapter: Path | None = None,
) -> float:
    """Largest difference between a completion's log-probabilities and a plain forward pass."""
    expected = logprobs_of(folder, tuple(prompt), completion.token_ids, temperature, adapter)
    return max(abs(a - b) for a, b in zip(completion.logprobs, expected, strict=True))


def gap_now(
    served: Served, folder: Path, adapter: Path | None = None, temperature: float = 1.0
) -> float:
    host = served.host
    sampling = Sampling(temperature=temperature, max_tokens=12)
    (completion,) = ask(host, sampling)
    assert completion.policy_version == host.policy.version
    return gap(host.tokenizer.render(MESSAGES), completion, folder, temperature, adapter)


@every_host
def test_a_completion_is_cut_at_max_tokens_and_has_a_logprob_per_token(served: Served) -> None:
    for completion in ask(served.host, Sampling(max_tokens=5), copies=4):
        assert 1 <= len(completion.token_ids) == len(completion.logprobs) <= 5
        assert (completion.finish_reason == "length") == (
            len(completion.token_ids) == 5 and 256 not in completion.token_ids
        )
        assert completion.policy_version == served.host.policy.version


@every_host
def test_what_cannot_be_served_fails_the_future(served: Served) -> None:
    whole = served.host.context_length
    for prompt, sampling in [
        ((), Sampling()),
        ((1,) * whole, Sampling(max_tokens=1)),
        ((1,), Sampling(max_tokens=0)),
        ((1,), Sampling(temperature=-1.0)),
        ((1,), Sampling(top_p=0.0)),
    ]:
        with pytest.raises(ServingError):
            served.host.submit(prompt, sampling).result(timeout=10)


@every_host
def test_decoding_inverts_rendering_without_special_tokens(served: Served) -> None:
    text = served.host.tokenizer.decode((*served.host.tokenizer.render(MESSAGES), 256))
    assert "1 2 ü 4" in text
    assert "eos" not in text


@every_model
@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_logprobs_are_those_of_the_tempered_model(served: Served, temperature: float) -> None:
    assert gap_now(served, served.folder, temperature=temperature) < 1e-4


@every_model
def test_greedy_completions_are_equal_and_have_untempered_logprobs(served: Served) -> None:
    first, second = ask(served.host, Sampling(temperature=0.0, max_tokens=8), copies=2)
    assert first.token_ids == second.token_ids
    assert gap(served.host.tokenizer.render(MESSAGES), first, served.folder, 1.0) < 1e-4


@every_model
def test_copies_of_a_request_are_different_samples(served: Served) -> None:
    completions = ask(served.host, Sampling(max_tokens=8), copies=8)
    assert len({c.token_ids for c in completions}) > 1


@every_model
def test_a_stop_string_ends_a_completion(served: Served) -> None:
    """Not always at its very end: vLLM looks only once pending bytes have become text."""
    stop = ("a", "e", "1", " ")
    completions = ask(served.host, Sampling(max_tokens=40, stop=stop), copies=48)
    texts = [
        served.host.tokenizer.decode(c.token_ids)
        for c in completions
        if c.finish_reason == "stop" and c.token_ids[-1] != 256
    ]
    assert texts
    assert all(any(s in text for s in stop) for text in texts)


@every_model
def test_full_weights_are_served_after_an_update(served: Served, tmp_path: Path) -> None:
    """Tied output layers and cached prefixes are where stale weights hide (same prompt twice)."""
    weights = save_perturbed(served.folder, tmp_path, seed=3)
    assert gap_now(served, served.folder) < 1e-4
    served.host.update(Policy(str(served.folder), weights=weights, version=1))
    assert gap_now(served, weights) < 1e-4
    assert gap_now(served, served.folder) > 1e-2
    served.host.update(served.base)
    assert gap_now(served, served.folder) < 1e-4


@every_model
def test_adapters_are_served_after_updates(served: Served, tmp_path: Path) -> None:
    for version in (1, 2):
        adapter = save_adapter(served.folder, tmp_path / str(version), seed=version)
        served.host.update(Policy(str(served.folder), adapter=adapter, version=version))
        assert gap_now(served, served.folder, adapter) < 1e-4
        assert gap_now(served, served.folder) > 1e-2


@every_model
def test_an_adapter_after_full_weights_stands_on_the_base_model(
    served: Served, tmp_path: Path
) -> None:
    weights = save_perturbed(served.folder, tmp_path / "full", seed=4)
    adapter = save_adapter(served.folder, tmp_path / "adapter", seed=4)
    served.host.update(Policy(str(served.folder), weights=weights, version=1))
    served.host.update(Policy(str(served.folder), adapter=adapter, version=2))
    assert gap_now(served, served.folder, adapter) < 1e-4


@every_model
def test_an_update_never_mixes_versions(served: Served, tmp_path: Path) -> None:
    """Requests before, during and after an update: each agrees with the version it carries."""
    weights = save_perturbed(served.folder, tmp_path, seed=5)
    prompt = served.host.tokenizer.render(MESSAGES)
    sampling = Sampling(max_tokens=48)
    policy = Policy(str(served.folder), weights=weights, version=7)
    before = [served.host.submit(prompt, sampling) for _ in range(24)]
    update = threading.Thread(target=served.host.update, args=(policy,))
    update.start()
    during = [served.host.submit(prompt, sampling) for _ in range(24)]
    update.join()
    after = [served.host.submit(prompt, sampling) for _ in range(4)]
    assert {f.result(60).policy_version for f in before} == {0}
    assert {f.result(60).policy_version for f in after} == {7}
    folders = {0: served.folder, 7: weights}
    for future in [*before, *during, *after]:
        completion = future.result(60)
        assert gap(prompt, completion, folders[completion.policy_version], 1.0) < 1e-4


@every_model
def test_weights_that_do_not_fit_leave_the_old_ones_served(served: Served, tmp_path: Path) -> None:
    good = save_adapter(served.folder, tmp_path / "good", seed=6)
    served.host.update(Policy(str(served.folder), adapter=good, version=1))
    other = save_model(tmp_path / "other", tied=False, family="llama", seed=9)
    (other / "config.json").rename(other / "config.bak")
    garbage = save_adapter(served.folder, tmp_path / "garbage", seed=6)
    (garbage / "adapter_model.safetensors").write_bytes(b"not safetensors")
    bad = [
        Policy(str(served.folder), weights=tmp_path / "nowhere", version=2),
        Policy(str(served.folder), adapter=tmp_path / "nowhere", version=2),
        Policy(str(served.folder), weights=other, version=2),
        Policy(str(served.folder), adapter=garbage, version=2),
    ]
    for policy in bad:
        with pytest.raises(ServingError):
            served.host.update(policy)
    assert served.host.policy.version == 1
    assert gap_now(served, served.folder, good) < 1e-4


@pytest.mark.parametrize("tied", [True, False])
def test_adapters_in_turn_give_what_each_gives_alone(tied: bool, tmp_path: Path) -> None:
    """To the bit: nothing of one adapter is left in the next, refused ones included."""
    from safetensors.torch import load_file, save_file

    base = save_model(tmp_path / "base", tied=tied)
    folders = [save_adapter(base, tmp_path / str(seed), seed=seed) for seed in range(3)]
    torn = save_adapter(base, tmp_path / "torn", seed=3)
    tensors = load_file(torn / "adapter_model.safetensors")
    tensors.pop(min(tensors))
    save_file(tensors, torn / "adapter_model.safetensors", {"format": "pt"})
    policies = [Policy(str(base), adapter=f, version=k) for k, f in enumerate(folders)]
    ids = torch.arange(20)[None]
    alone = [Loader("float32").load(p)(ids).logits for p in (*policies, Policy(str(base)))]
    loader = Loader("float32")
    served = [loader.load(p) for p in (*policies, Policy(str(base)), policies[1], policies[0])]
    with pytest.raises(ServingError, match="missing_keys"):
        loader.load(Policy(str(base), adapter=torn, version=9))
    served += [loader.load(p) for p in policies]
    expected = [*alone, alone[1], alone[0], *alone[:3]]
    assert all(torch.equal(m(ids).logits, e) for m, e in zip(served, expected, strict=True))
    assert not any(torch.equal(a, b) for a, b in pairwise(alone))


@every_model
def test_weights_of_another_shape_are_refused_by_name(served: Served, tmp_path: Path) -> None:
    weights = save_perturbed(served.folder, tmp_path, seed=1)
    from safetensors.torch import load_file, save_file

    tensors = load_file(weights / "model.safetensors")
    tensors.pop("model.norm.weight")
    save_file(tensors, weights / "model.safetensors", {"format": "pt"})
    with pytest.raises(ServingError, match=r"missing 1 \(model.norm.weight\)"):
        served.host.update(Policy(str(served.folder), weights=weights, version=1))
    assert gap_now(served, served.folder) < 1e-4


@pytest.mark.parametrize("whole", [True, False])
def test_a_model_file_that_was_cut_short_is_named(whole: bool, tmp_path: Path) -> None:
    """``whole``: the header is, so that only the tensors lack."""
    folder = save_model(tmp_path / "base")
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[: -100 if whole else 20])
    with pytest.raises(ServingError, match=r"base: expected whole safetensors files.*again"):
        LocalHost(Policy(str(folder)))


@pytest.mark.parametrize("kind", ["scripted", "local"])
def test_a_closed_host_refuses(kind: str, tied: Path) -> None:
    host: PolicyHost = (
        ScriptedHost(lambda prompt, sampling, rng: "x")
        if kind == "scripted"
        else LocalHost(Policy(str(tied)))
    )
    host.close()
    host.close()
    with pytest.raises(ServingError, match="closed"):
        host.submit((1,), Sampling()).result(timeout=5)
    with pytest.raises(ServingError, match="closed"):
        host.update(Policy(str(tied), version=1))

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fst_agents.errors import ServingError
from fst_agents.run_file import parse
from fst_agents.serving.choose import choose, choose_host
from fst_agents.types import Policy


@pytest.mark.parametrize(
    ("host", "accelerator", "vllm", "kind", "reason"),
    [
        ("auto", True, True, "vllm", "an accelerator and vLLM"),
        ("auto", False, True, "local", "no accelerator"),
        ("auto", True, False, "local", "vLLM is not installed"),
        ("local", True, True, "local", "serve.host asks"),
        ("vllm", False, True, "vllm", "serve.host asks"),
    ],
)
def test_the_choice_says_why(
    host: str, accelerator: bool, vllm: bool, kind: str, reason: str
) -> None:
    config = parse({"serve": {"host": host}})
    chosen, why = choose(config, lambda: accelerator, lambda: vllm)
    assert chosen == kind
    assert why.startswith(kind)
    assert reason in why


def test_a_url_means_attaching() -> None:
    config = parse({"serve": {"url": "http://h:1"}})
    assert choose(config, lambda: False, lambda: False)[1].startswith("vllm: attached to http://h")


def test_vllm_must_be_installed_where_it_is_asked_for() -> None:
    with pytest.raises(ServingError, match="not installed"):
        choose(parse({"serve": {"host": "vllm"}}), lambda: True, lambda: False)


def test_a_local_host_is_made_from_the_run_file(tied: Path, tmp_path: Path) -> None:
    config = parse({"serve": {"host": "local"}, "seed": 3})
    host, why = choose_host(config, Policy(str(tied)), tmp_path)
    assert (host.name, host.context_length) == ("local", 256)
    assert "serve.host" in why
    host.close()


def test_a_missing_key_is_named(tied: Path, tmp_path: Path) -> None:
    config = parse({"serve": {"url": "http://h:1", "api_key_env": "NO_SUCH_KEY"}})
    with pytest.raises(ServingError, match="NO_SUCH_KEY"):
        choose_host(config, Policy(str(tied)), tmp_path)


def test_importing_the_room_is_light() -> None:
    code = (
        "import sys, fst_agents.serving, fst_agents.serving.choose, "
        "fst_agents.serving.scripted_host;"
        "print([m for m in ('torch', 'vllm', 'aiohttp', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

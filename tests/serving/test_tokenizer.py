from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from checkpoints import save_tokenizer
from transformers import GenerationConfig

from fst_agents.errors import ServingError
from fst_agents.serving.tokenizer import HfChatTokenizer

MESSAGES = [{"role": "user", "content": "ünïcödé 1 2"}]


def test_rendering_follows_the_chat_template(tied: Path) -> None:
    tokenizer = HfChatTokenizer(str(tied))
    assert tokenizer.decode(tokenizer.render(MESSAGES)) == "<user>ünïcödé 1 2<assistant>"


def test_every_end_of_sequence_token_is_known(tmp_path: Path) -> None:
    save_tokenizer(tmp_path)
    GenerationConfig(eos_token_id=[7, 256]).save_pretrained(str(tmp_path))
    assert HfChatTokenizer(str(tmp_path)).eos_token_ids == (7, 256)


def test_a_tokenizer_without_chat_template_is_refused(tmp_path: Path) -> None:
    save_tokenizer(tmp_path, template=None)
    with pytest.raises(ServingError, match="no chat template"):
        HfChatTokenizer(str(tmp_path))


def test_a_folder_without_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ServingError, match="no usable tokenizer"):
        HfChatTokenizer(str(tmp_path))


def test_threads_may_share_a_tokenizer(tied: Path) -> None:
    tokenizer = HfChatTokenizer(str(tied))
    with ThreadPoolExecutor(8) as pool:
        ids = set(pool.map(lambda _: tokenizer.render(MESSAGES), range(200)))
    assert len(ids) == 1

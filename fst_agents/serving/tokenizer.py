"""The chat tokenizer of a Hugging Face checkpoint."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from transformers import AutoTokenizer, GenerationConfig

from fst_agents.errors import ServingError


class HfChatTokenizer:
    """:class:`~fst_agents.serving.host.ChatTokenizer` of a checkpoint with a chat template.

    ``eos_token_ids`` holds every token that ends a completion: those of
    ``generation_config.json`` and the tokenizer's own. Fast tokenizers keep truncation and
    padding as shared state, hence the lock.

    Raises:
        ServingError: there is no tokenizer in ``model_path``, or it has no chat template.
    """

    def __init__(self, model_path: str, trust_remote_code: bool = False) -> None:
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(
                model_path, trust_remote_code=trust_remote_code
            )
        except (OSError, ValueError) as error:
            raise ServingError(f"{model_path}: no usable tokenizer: {error}") from error
        if not self._tokenizer.chat_template:
            raise ServingError(
                f"{model_path}: the tokenizer has no chat template, so messages cannot be turned "
                "into a prompt; put a chat_template.jinja beside tokenizer.json, or take the "
                "instruction-tuned variant of the model"
            )
        self._lock = threading.Lock()
        # A group's rollouts have few distinct prompts, and a template costs more than a look-up.
        self._render = lru_cache(maxsize=256)(self._ids)
        self.eos_token_ids: tuple[int, ...] = _eos_token_ids(model_path, self._tokenizer)

    def render(self, messages: Sequence[Mapping[str, Any]]) -> tuple[int, ...]:
        """Prompt ids of a conversation under the model's chat template, generation prompt on."""
        with self._lock:
            return self._render(tuple(tuple(m.items()) for m in messages))

    def _ids(self, messages: tuple[tuple[tuple[str, Any], ...], ...]) -> tuple[int, ...]:
        return tuple(
            self._tokenizer.apply_chat_template(
                [dict(m) for m in messages],
                tokenize=True,
                add_generation_prompt=True,
                return_dict=False,
            )
        )

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of completion ids, special tokens left out."""
        with self._lock:
            return self._tokenizer.decode(list(token_ids), skip_special_tokens=True)


def _eos_token_ids(model_path: str, tokenizer: Any) -> tuple[int, ...]:
    """Ids that end a completion, without repetition."""
    try:
        declared: Any = GenerationConfig.from_pretrained(model_path).eos_token_id
    except OSError:  # most checkpoints have the file, but none needs it
        declared = None
    ids = declared if isinstance(declared, list) else [declared]
    return tuple(dict.fromkeys(i for i in [*ids, tokenizer.eos_token_id] if i is not None))

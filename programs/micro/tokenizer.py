"""The micro policy's tokenizer: whole words for the phrase book, bytes for everything else.

Any text survives a round trip, because every byte is a token; the phrase book stays short, because
each of its words (with the space before it) is a token too. Every digit is one token, the same one
wherever it stands.
"""

from typing import Final

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from programs.micro import phrasebook

PAD: Final = "<|pad|>"
SYSTEM: Final = "<|system|>"
USER: Final = "<|user|>"
ASSISTANT: Final = "<|assistant|>"
END: Final = "<|end|>"
VOCAB_SIZE: Final = 448

CHAT_TEMPLATE: Final = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'system' -%}"
    # The space gives the first word of an instruction the form that the vocabulary holds.
    "{{- '<|system|> ' + message['content'] | trim -}}"
    "{%- elif message['role'] == 'assistant' -%}"
    "{{- '<|assistant|>' + message['content'] + '<|end|>' -}}"
    "{%- else -%}"
    "{{- '<|user|>' + message['content'] -}}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)


def build() -> PreTrainedTokenizerFast:
    """Build the tokenizer from the phrase book; it loads back with a plain `AutoTokenizer`."""
    tokenizer = Tokenizer(models.BPE(vocab=_vocabulary(), merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(t, special=True, normalized=False) for t in _special_tokens()]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
    )


def _special_tokens() -> tuple[str, ...]:
    return (PAD, END, SYSTEM, USER, ASSISTANT)


def _vocabulary() -> dict[str, int]:
    """Special tokens first, then the 256 bytes, then the words, lower-case and capitalised."""
    space = "Ġ"  # how the byte-level alphabet writes a space
    tokens = [*_special_tokens(), *sorted(pre_tokenizers.ByteLevel.alphabet())]
    for word in phrasebook.words():
        tokens += [space + word, space + word.capitalize()]
    tokens = list(dict.fromkeys(tokens))
    if len(tokens) > VOCAB_SIZE:
        raise ValueError(
            f"the phrase book has too many words: got {len(tokens)} tokens, expected at most "
            f"{VOCAB_SIZE}; drop words or raise VOCAB_SIZE and train the policy again"
        )
    return {token: i for i, token in enumerate(tokens)}

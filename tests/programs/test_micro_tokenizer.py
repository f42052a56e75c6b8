"""The micro policy's tokenizer: lossless, and short on the phrase book."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from programs.micro import path, phrasebook, tokenizer

TOKENIZER = tokenizer.build()


def ids_of(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_special_tokens=False)


@given(st.text())
def test_any_text_survives_a_round_trip(text: str) -> None:
    assert TOKENIZER.decode(ids_of(text)) == text


@given(st.lists(st.sampled_from([*phrasebook.words(), "4719", " ", "<|end|>", ".", "\n", "é"])))
def test_any_mixture_of_known_words_survives_a_round_trip(parts: list[str]) -> None:
    text = " ".join(parts)
    assert TOKENIZER.decode(ids_of(text)) == text


def test_every_digit_is_one_token_wherever_it_stands() -> None:
    digits = {d: ids_of(d) for d in "0123456789"}
    assert all(len(ids) == 1 for ids in digits.values())
    assert ids_of("4719") == [i for d in "4719" for i in digits[d]]
    assert ids_of("x 47")[-2:] == [i for d in "47" for i in digits[d]]


def test_a_phrase_book_word_is_one_token_in_either_case() -> None:
    for word in phrasebook.words():
        assert len(ids_of(" " + word)) == 1
        assert len(ids_of(" " + word.capitalize())) == 1


def test_the_chat_template_keeps_instructions_short() -> None:
    messages = [
        {"role": "system", "content": "Reverse the digits, then exchange the two ends."},
        {"role": "user", "content": "4719"},
    ]
    text = TOKENIZER.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert text == (
        "<|system|> Reverse the digits, then exchange the two ends.<|user|>4719<|assistant|>"
    )
    assert len(ids_of(str(text))) == 17


def test_the_chat_template_ends_an_assistant_turn() -> None:
    messages = [{"role": "user", "content": "47"}, {"role": "assistant", "content": "74"}]
    assert TOKENIZER.apply_chat_template(messages, tokenize=False) == (
        "<|user|>47<|assistant|>74<|end|>"
    )


@pytest.mark.parametrize("where", ["fresh", "shipped"])
def test_it_loads_back_with_a_plain_auto_tokenizer(where: str, tmp_path: Path) -> None:
    folder = path() if where == "shipped" else tmp_path
    if where == "fresh":
        TOKENIZER.save_pretrained(tmp_path)
    loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    text = " sort the digits in ascending order. 90210 \n ünïcode"
    assert loaded.encode(text, add_special_tokens=False) == ids_of(text)
    assert loaded.decode(ids_of(text)) == text
    assert loaded.chat_template == TOKENIZER.chat_template
    assert (loaded.pad_token_id, loaded.eos_token_id) == (0, 1)

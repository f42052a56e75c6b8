"""The shipped micro policy: it is what its quality table says, and it leaves room to learn."""

import json
from dataclasses import asdict
from statistics import fmean
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from programs.micro import path, phrasebook, tokenizer
from programs.micro.lessons import Encoder, Lesson
from programs.micro.pretrain import Recipe, pretrain, train
from programs.micro.quality import QualityTable, measure, quality

SHIPPED: dict[str, Any] = json.loads((path() / "quality.json").read_text())


def check_room_to_learn(table: dict[str, Any]) -> None:
    """What every shipped policy must satisfy, sampled at temperature 1."""
    held_out = [cell["sampled"] for cell in table["held_out"].values()]
    assert table["retention"] >= 0.97
    assert min(cell["sampled"] for cell in table["singles"].values()) >= 0.95
    assert min(held_out) <= 0.1
    assert max(held_out) >= 0.6
    assert fmean(cell["sampled"] for cell in table["held_out_vague"].values()) <= 0.05


def test_the_shipped_table_meets_the_bar() -> None:
    check_room_to_learn(SHIPPED)
    assert set(SHIPPED["held_out"]) == {" > ".join(p) for p in phrasebook.held_out_pairs()}


def test_the_shipped_policy_came_from_the_default_recipe() -> None:
    assert SHIPPED["recipe"] == asdict(Recipe())


def test_the_shipped_policy_is_what_its_table_says() -> None:
    table = quality(path(), examples=24, seed=2).to_dict()
    for part in ("singles", "trained", "held_out", "held_out_vague"):
        for measure_name in ("sampled", "greedy"):
            name = f"{part}/{measure_name}"
            assert table["summary"][name] == pytest.approx(SHIPPED["summary"][name], abs=0.03)
    assert table["retention"] == pytest.approx(SHIPPED["retention"], abs=0.01)


def test_the_checkpoint_is_small_and_says_nothing_about_sampling() -> None:
    config = json.loads((path() / "generation_config.json").read_text())
    assert set(config) <= {"bos_token_id", "eos_token_id", "pad_token_id", "transformers_version"}
    assert (path() / "model.safetensors").stat().st_size < 4_000_000
    model = json.loads((path() / "config.json").read_text())
    assert not model["tie_word_embeddings"]
    assert model["max_position_embeddings"] >= 1024


@pytest.mark.parametrize("courtesy", phrasebook.COURTESIES)
def test_harmless_words_change_nothing(courtesy: str) -> None:
    words = AutoTokenizer.from_pretrained(path())
    model = AutoModelForCausalLM.from_pretrained(path(), dtype=torch.float32)
    digits = (4, 7, 1, 9, 0)
    lessons = [
        Lesson(
            courtesy.format(phrasebook.phrase((op,), i)), digits, phrasebook.apply((op,), digits)
        )
        for op in phrasebook.OPERATIONS
        for i in range(3)
    ]
    measured = measure(model, words, lessons)
    assert measured.greedy == 1.0
    assert measured.sampled >= 0.9


def test_the_table_agrees_with_generated_answers() -> None:
    words = AutoTokenizer.from_pretrained(path())
    model: Any = AutoModelForCausalLM.from_pretrained(path(), dtype=torch.float32)
    pair, digits = phrasebook.held_out_pairs()[9], (4, 7, 1, 9)
    lesson = Lesson(phrasebook.phrase(pair), digits, phrasebook.apply(pair, digits))
    encoder = Encoder(words)
    ids = torch.tensor([encoder.prompt(lesson)])
    draws = model.generate(
        ids.repeat(512, 1), attention_mask=torch.ones(512, ids.shape[1]), max_new_tokens=8,
        do_sample=True, temperature=1.0, top_k=0, generator=None,
    )  # fmt: skip
    wanted = encoder.answer(lesson)
    right = [row[: len(wanted)].tolist() == wanted for row in draws[:, ids.shape[1] :]]
    expected = measure(model, words, [lesson]).sampled
    assert fmean(right) == pytest.approx(expected, abs=0.08)


def test_prompts_are_what_the_chat_template_makes() -> None:
    words = tokenizer.build()
    lesson = Lesson("Add one to each digit 0.", (0, 0, 4, 7), (1, 1, 5, 8))
    messages = [
        {"role": "system", "content": lesson.instruction},
        {"role": "user", "content": "0047"},
    ]
    text = words.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert Encoder(words).prompt(lesson) == words.encode(str(text), add_special_tokens=False)
    assert words.decode(Encoder(words).answer(lesson)) == "1158<|end|>"


def test_training_is_deterministic_for_a_seed() -> None:
    words = tokenizer.build()

    def weights(seed: int) -> torch.Tensor:
        recipe = Recipe(seed=seed, steps=3, batch_size=8, hidden=64, feedforward=64, layers=1)
        model = train(recipe, words)
        return torch.cat([p.flatten() for p in model.parameters()])

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


def test_a_model_needs_its_tokenizer() -> None:
    model = AutoModelForCausalLM.from_pretrained(path())
    with pytest.raises(ValueError, match="tokenizer"):
        quality(model)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_command_reproduces_the_quality(tmp_path: Any) -> None:
    table: QualityTable = pretrain(tmp_path)
    check_room_to_learn(table.to_dict())
    for name in ("singles/sampled", "trained/sampled", "held_out/sampled"):
        assert table.summary()[name] == pytest.approx(SHIPPED["summary"][name], abs=0.1)

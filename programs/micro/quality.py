"""How well a micro policy follows instructions: the quality table.

Nothing is sampled. The chance that a policy answers exactly right at temperature 1 is the product
of the probabilities of the right answer's tokens, and a greedy answer is right exactly when each of
those tokens is the most likely one: a single forward pass gives both without any noise.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.modeling_utils import PreTrainedModel

from programs.micro import phrasebook
from programs.micro.lessons import IGNORED, Encoder, Lesson, collate, questions
from programs.micro.phrasebook import Ops


@dataclass(frozen=True)
class Accuracy:
    """Exact-match accuracy of one cell of the table.

    Attributes:
        greedy: Share of examples answered right when decoding greedily.
        sampled: Expected share answered right when sampling at temperature 1.
        entropy: Mean entropy per answer token, in nats, along the right answer.
    """

    greedy: float
    sampled: float
    entropy: float


@dataclass(frozen=True)
class QualityTable:
    """What a micro policy can do, cell by cell; keys are operations joined by ` > `.

    Attributes:
        singles: One operation, named by its right instruction.
        trained: The trained pairs with their right instruction.
        held_out: The held-out pairs with their right instruction.
        held_out_vague: The held-out pairs with a vague instruction.
    """

    singles: Mapping[str, Accuracy]
    trained: Mapping[str, Accuracy]
    held_out: Mapping[str, Accuracy]
    held_out_vague: Mapping[str, Accuracy]

    @property
    def retention(self) -> float:
        """Mean sampled accuracy over the ten single operations."""
        return fmean(cell.sampled for cell in self.singles.values())

    def summary(self) -> dict[str, float]:
        """Return the mean of every part, sampled and greedy, and the held-out entropy."""
        means: dict[str, float] = {}
        for name in ("singles", "trained", "held_out", "held_out_vague"):
            cells = list(getattr(self, name).values())
            means[f"{name}/sampled"] = fmean(c.sampled for c in cells)
            means[f"{name}/greedy"] = fmean(c.greedy for c in cells)
        means["singles/worst"] = min(c.sampled for c in self.singles.values())
        means["held_out/entropy"] = fmean(c.entropy for c in self.held_out.values())
        return means

    def to_dict(self) -> dict[str, Any]:
        """Return the table with its summary as plain JSON values."""
        return {"summary": self.summary(), "retention": self.retention, **asdict(self)}


def quality(
    policy: str | Path | PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    examples: int = 72,
    seed: int = 1,
) -> QualityTable:
    """Measure a policy, given as a checkpoint folder or as a model with its tokenizer.

    Args:
        policy: A folder for `from_pretrained`, or a causal language model.
        tokenizer: The model's tokenizer; not needed for a folder.
        examples: Questions per cell; the wordings of the instruction take turns.
        seed: Decides the questions.

    Raises:
        ValueError: A model was given without its tokenizer.
    """
    if not isinstance(policy, PreTrainedModel):
        tokenizer = tokenizer or AutoTokenizer.from_pretrained(policy)
        policy = AutoModelForCausalLM.from_pretrained(policy, dtype=torch.float32)
    if tokenizer is None:
        raise ValueError("a model came without its tokenizer; pass both, or the checkpoint folder")
    rng = Random(seed)

    def cells(all_meant: Sequence[Ops], *, vague: bool = False) -> dict[str, Accuracy]:
        table: dict[str, Accuracy] = {}
        for meant in all_meant:
            lessons = questions(meant, () if vague else meant, examples, rng)
            table[" > ".join(meant)] = measure(policy, tokenizer, lessons)
        return table

    return QualityTable(
        singles=cells([(op,) for op in phrasebook.OPERATIONS]),
        trained=cells(phrasebook.trained_pairs()),
        held_out=cells(phrasebook.held_out_pairs()),
        held_out_vague=cells(phrasebook.held_out_pairs(), vague=True),
    )


@torch.inference_mode()
def measure(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, lessons: Sequence[Lesson]
) -> Accuracy:
    """Measure a model on some lessons."""
    batch = collate(Encoder(tokenizer), lessons)
    model.eval()
    logits = model(input_ids=batch.ids.to(model.device)).logits[:, :-1].float().cpu()
    logp = logits.log_softmax(-1)
    answered = batch.targets != IGNORED
    targets = batch.targets.clamp(min=0)
    right_logp = logp.gather(-1, targets[..., None]).squeeze(-1) * answered
    greedy_right = (logits.argmax(-1) == targets) | ~answered
    entropy = -(logp.exp() * logp).sum(-1)[answered]
    return Accuracy(
        greedy=greedy_right.all(-1).float().mean().item(),
        sampled=right_logp.sum(-1).exp().mean().item(),
        entropy=entropy.mean().item(),
    )

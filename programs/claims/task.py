"""The claims task: two searches, then a verdict on whether the passages found support a claim.

Which words find a passage, that the second search has to follow what the first one found, and what
counts as refuted stand in no instruction; the metric shows it case by case.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, Literal

import dspy
from pydantic import Field, field_validator

from programs.claims import generator, hover
from programs.claims.corpus import SHIPPED, Passage
from programs.claims.feedback import comment
from programs.claims.generator import Claim
from programs.claims.grading import VERDICTS, WEIGHTS, Run
from programs.claims.outlines import KINDS
from programs.claims.retrieval import Retriever, load
from programs.task import Entry, Options, Task

SEEDS: Final = {
    "first_query": "Write a search query for the claim.",
    "second_query": "Write another search query for the claim.",
    "verdict": "Decide whether the claim is supported.",
}
"""Predictor → its instruction at the start."""

ENOUGH: Final = 0.97
"""Mean reward at which the task counts as solved; a wrong verdict, or half the passages missing,
costs 0.5 or 0.25."""


class ClaimVerifier(dspy.Module):
    """Searches, searches again in the light of what was found, and decides.

    Args:
        retriever: of the corpus; shared, not copied, by copies of the program, and not saved.
        k: passages of each search.
    """

    def __init__(self, retriever: Retriever, k: int) -> None:
        super().__init__()
        self.retriever = retriever
        self.k = k
        self.first_query = _predict("first_query", "claim -> query")
        self.second_query = _predict("second_query", "claim, passages: list[str] -> query")
        self.verdict = _predict("verdict", "claim, passages: list[str] -> verdict")

    def forward(self, claim: str) -> dspy.Prediction:
        """Verify a claim.

        Returns:
            ``verdict``; the queries, ``first_query`` and ``second_query``; the titles that they
            found, best first, ``first_titles`` and ``second_titles``.
        """
        asked: Any = self.first_query(claim=claim)
        first = self._search(asked.query)
        again: Any = self.second_query(claim=claim, passages=_texts(first))
        second = self._search(again.query)
        decision: Any = self.verdict(claim=claim, passages=_texts([*first, *second]))
        return dspy.Prediction(
            verdict=decision.verdict,
            first_query=asked.query,
            first_titles=[passage.title for passage in first],
            second_query=again.query,
            second_titles=[passage.title for passage in second],
        )

    def _search(self, query: object) -> list[Passage]:
        return self.retriever.search(query if isinstance(query, str) else "", self.k)


def _predict(name: str, shape: str) -> dspy.Predict:
    return dspy.Predict(dspy.make_signature(shape, SEEDS[name]))


def _texts(passages: Sequence[Passage]) -> list[str]:
    """Passages for a prompt; what both searches found stands there once."""
    return list(dict.fromkeys(map(str, passages)))


def metric(
    gold: dspy.Example,
    pred: dspy.Prediction,
    trace: object = None,
    pred_name: str | None = None,
    pred_trace: object = None,
) -> dspy.Prediction:
    """Score a run in [0, 1], with feedback on it or on one predictor.

    What earns what is in :mod:`programs.claims.grading`.
    """
    run = Run(gold, pred)
    return dspy.Prediction(
        score=run.score,
        feedback=comment(run, pred_name),
        objective_scores=run.objectives,
        predictor_scores=run.predictors,
    )


def exact(gold: dspy.Example, pred: dspy.Prediction, trace: object = None) -> float:
    """1 if the verdict is right and all gold passages were found, else 0: HoVer's own score."""
    return float(Run(gold, pred).exact)


def example(claim: Claim) -> dspy.Example:
    """A claim with its labels; its id is a hash of its text."""
    return dspy.Example(
        id="claims-" + hashlib.sha256(claim.text.encode()).hexdigest()[:12],
        claim=claim.text,
        kind=claim.kind,
        verdict=claim.verdict,
        hops=[list(titles) for titles in claim.hops],
        evidence=[asdict(evidence) for evidence in claim.evidence],
        wrong_hop=claim.wrong_hop,
        explanation=claim.explanation,
    ).with_inputs("claim")


class ClaimsOptions(Options):
    """Keys of ``[task]`` for ``claims``."""

    source: Literal["generated", "hover"] = Field(
        default="generated",
        description="Claims about an invented world whose corpus is shipped, or HoVer's.",
    )
    k: int = Field(default=4, ge=1, le=50, description="Passages that each search finds.")
    hops: tuple[Literal[1, 2, 3, 4], ...] = Field(
        default=(1, 2, 3),
        min_length=1,
        description="How many gold passages a claim may have: 1 to 3 if generated; in HoVer, where "
        "it is the number of hops, 2 to 4.",
    )
    dataset: str = Field(
        default="vincentkoc/hover-parquet",
        description="HoVer in the Hugging Face cache, or a folder with its Parquet files.",
    )
    corpus: Path | None = Field(
        default=None,
        description="HoVer's passages: a JSON Lines file of `title` and `text`, which is a string "
        "or a list of sentences.",
    )

    @field_validator("corpus")
    @classmethod
    def _absolute(cls, corpus: Path | None) -> Path | None:
        # The run directory outlives the folder that the command was given in.
        return None if corpus is None else corpus.expanduser().absolute()


def build(options: ClaimsOptions, seed: int) -> Task:
    """The task; the 2×2 counts the right verdicts that rest on all their passages.

    Raises:
        ValueError: more claims than there are, or HoVer or its corpus is absent.
    """
    sizes = {"train": options.train_size, "val": options.val_size, "test": options.test_size}
    if options.source == "hover":
        if options.corpus is None:
            raise ValueError(
                'corpus: not set, but source = "hover" needs passages to search; give the path of '
                "a JSON Lines file with `title` and `text` (see programs/claims/README.md)"
            )
        retriever = load(options.corpus)
        drawn = hover.claims(options.dataset, sizes, options.hops, seed, retriever.passages)
    else:
        retriever = load(SHIPPED)
        drawn = {
            split: generator.claims(split, size, options.hops, seed)
            for split, size in sizes.items()
        }
    train, val, test = ([example(claim) for claim in drawn[split]] for split in sizes)
    return Task(
        program=ClaimVerifier(retriever, options.k),
        trainset=train,
        valset=val,
        testset=test,
        metric=metric,
        eval_metric=exact,
        enough=ENOUGH,
    )


def facts() -> dict[str, object]:
    """The predictors, the verdicts, the kinds of claims, and what the score is made of."""
    return {
        "predictors": list(SEEDS),
        "verdicts": list(VERDICTS),
        "kinds": dict(KINDS),
        "weights": dict(WEIGHTS),
    }


ENTRY: Final = Entry(
    name="claims",
    summary="claims are verified in two searches of a corpus (HoVer, or an invented world)",
    options=ClaimsOptions,
    build=build,
    facts=facts,
)

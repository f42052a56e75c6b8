"""The word problem task: a question in words, a number as the answer."""

from __future__ import annotations

import hashlib
from random import Random
from typing import Final, Literal, Self

import dspy
from pydantic import Field, model_validator

from programs.math_word.cached import Source, draw_splits
from programs.math_word.generated import generate
from programs.math_word.grading import READABLE, Verdict, judge
from programs.math_word.templates import TEMPLATES
from programs.math_word.working import WordProblem
from programs.task import Entry, Options, Task

SEED_INSTRUCTION: Final = "Answer the question."

MAX_STEPS: Final = max(TEMPLATES)


class MathWord(dspy.Module):
    """One predictor, ``solve.predict``: it reasons, then answers."""

    def __init__(self) -> None:
        super().__init__()
        self.solve = dspy.ChainOfThought(
            dspy.make_signature("question -> answer", SEED_INSTRUCTION)
        )

    def forward(self, question: str) -> dspy.Prediction:
        """Answer a question; ``answer`` is a text that should hold one number."""
        return self.solve(question=question)


class MathWordOptions(Options):
    """Keys of ``[task]`` for ``math_word``."""

    source: Literal["generated", "huggingface"] = Field(
        default="generated",
        description="Problems from templates, or a dataset from the cache or a folder.",
    )
    min_steps: int = Field(
        default=1, ge=1, le=MAX_STEPS, description="generated: least operations of a problem."
    )
    max_steps: int = Field(
        default=4, ge=1, le=MAX_STEPS, description="generated: most operations of a problem."
    )
    dataset: str = Field(
        default="openai/gsm8k",
        min_length=1,
        description="huggingface: name of a dataset in the cache, or a folder with data files; "
        "never downloaded.",
    )
    dataset_config: str = Field(
        default="main", description="huggingface: its configuration; empty: the only one."
    )
    train_split: str = Field(
        default="train", description="huggingface: split of the training and validation problems."
    )
    test_split: str = Field(default="test", description="huggingface: split of the test problems.")
    question_field: str = Field(
        default="question", description="huggingface: column with the question."
    )
    answer_field: str = Field(
        default="answer",
        description="huggingface: column with the number, or a solution that ends in '#### 42'.",
    )

    @model_validator(mode="after")
    def _steps_in_order(self) -> Self:
        if self.min_steps > self.max_steps:
            raise ValueError(
                f"min_steps: got {self.min_steps}, expected at most max_steps, {self.max_steps}; "
                "lower it or raise max_steps"
            )
        return self


def metric(
    gold: dspy.Example,
    pred: dspy.Prediction,
    trace: object = None,
    pred_name: str | None = None,
    pred_trace: object = None,
) -> dspy.Prediction:
    """Score an answer: 1 if its last number is the right one, little for another, 0 for none."""
    verdict = _judge(gold, pred)
    return dspy.Prediction(
        score=verdict.score,
        feedback=verdict.words,
        objective_scores={"exact": float(verdict.exact), "number": float(verdict.score > 0)},
    )


def exact(gold: dspy.Example, pred: dspy.Prediction, trace: object = None) -> float:
    """1 if the last number of the answer is the right one, else 0."""
    return float(_judge(gold, pred).exact)


def _judge(gold: dspy.Example, pred: dspy.Prediction) -> Verdict:
    value = getattr(pred, "answer", None)
    return judge(
        "" if value is None else str(value),
        expected=gold.answer,
        question=gold.question,
        results=gold.results,
        solution=gold.solution,
    )


def example(problem: WordProblem) -> dspy.Example:
    """A problem as an example; its id is a hash of the question."""
    return dspy.Example(
        id="math_word-" + hashlib.sha256(problem.question.encode()).hexdigest()[:16],
        question=problem.question,
        answer=problem.answer,
        solution=problem.solution,
        results=list(problem.results),
    ).with_inputs("question")


def build(options: MathWordOptions, seed: int) -> Task:
    """The task; the 2×2 counts right answers.

    Raises:
        ValueError: more examples than there are, or a dataset that is not there or not fit.
    """
    train, val, test = (
        [example(problem) for problem in problems] for problems in _problems(options, seed)
    )
    return Task(
        program=MathWord(),
        trainset=train,
        valset=val,
        testset=test,
        metric=metric,
        eval_metric=exact,
    )


def _problems(
    options: MathWordOptions, seed: int
) -> tuple[list[WordProblem], list[WordProblem], list[WordProblem]]:
    """Problems for training, validation and test."""
    rng = Random(f"math_word/{seed}")
    train, val, test = options.train_size, options.val_size, options.test_size
    if options.source == "huggingface":
        source = Source(
            dataset=options.dataset,
            config=options.dataset_config,
            train_split=options.train_split,
            test_split=options.test_split,
            question_field=options.question_field,
            answer_field=options.answer_field,
        )
        return draw_splits(source, (train, val, test), rng)
    drawn = generate(
        train + val + test, rng, min_steps=options.min_steps, max_steps=options.max_steps
    )
    return drawn[:train], drawn[train : train + val], drawn[train + val :]


def facts() -> dict[str, object]:
    """The predictor, the templates by number of steps, and what an answer earns."""
    return {
        "predictors": ["solve.predict"],
        "templates": {
            str(steps): [template.__name__ for template in templates]
            for steps, templates in TEMPLATES.items()
        },
        "score": {"right": 1.0, "another number": READABLE, "no number": 0.0},
    }


ENTRY: Final = Entry(
    name="math_word",
    summary="arithmetic word problems, generated or from a dataset such as GSM8K",
    options=MathWordOptions,
    build=build,
    facts=facts,
)

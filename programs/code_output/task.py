"""What a small Python program gives, or what it was given (after CodeIO, arXiv 2502.07316)."""

from __future__ import annotations

from typing import Final, Literal, get_args

import dspy
from pydantic import Field

from programs.code_output import sandbox
from programs.code_output.data import Direction, solve, splits
from programs.code_output.grading import (
    Verdict,
    judge_arguments,
    judge_printed,
    judge_returned,
)
from programs.task import Entry, Options, Task

SEED_INSTRUCTIONS: Final[dict[Direction, str]] = {
    "output": "Say what the call gives.",
    "input": "Find arguments that give the result.",
}
PREDICTORS: Final[dict[Direction, str]] = {
    "output": "predict_output.predict",
    "input": "predict_input.predict",
}
"""Direction → name of its predictor."""


class CodeProgram(dspy.Module):
    """One predictor for each direction; an example calls one of them."""

    def __init__(self, directions: tuple[Direction, ...] = ("output", "input")) -> None:
        super().__init__()
        if "output" in directions:
            self.predict_output = dspy.ChainOfThought(
                dspy.make_signature("code, call -> result", SEED_INSTRUCTIONS["output"])
            )
        if "input" in directions:
            self.predict_input = dspy.ChainOfThought(
                dspy.make_signature("code, result -> arguments", SEED_INSTRUCTIONS["input"])
            )

    def forward(self, code: str, call: str, result: str) -> dspy.Prediction:
        """Predict the ``result`` of a call, or, of an empty call, ``arguments`` for a result."""
        if call:
            return self.predict_output(code=code, call=call)
        return self.predict_input(code=code, result=result)


class CodeOutputOptions(Options):
    """Keys of ``[task]`` for ``code_output``."""

    direction: Literal["output", "input", "both"] = Field(
        default="both",
        description="Predict what a call gives, arguments for a given result, or either.",
    )
    difficulty: int = Field(
        default=2,
        ge=1,
        le=3,
        description="Length of the programs: 1 a function with one or two blocks, 2 up to three "
        "parameters and perhaps a helper function, 3 nested loops and helper functions.",
    )
    max_output: int = Field(
        default=80, ge=1, le=300, description="Most characters of a result; longer ones are left."
    )


def metric(
    gold: dspy.Example,
    pred: dspy.Prediction,
    trace: object = None,
    pred_name: str | None = None,
    pred_trace: object = None,
) -> dspy.Prediction:
    """Score one run: exact and partial credit, and what the program really gives.

    Raises:
        SandboxError: arguments could not be tried, through no fault of the answer.
    """
    own = PREDICTORS[gold.direction]
    verdict = judge(gold, pred)
    others = f"This predictor was not called: {own} has answered."
    return dspy.Prediction(
        score=verdict.score,
        feedback=verdict.words if pred_name in (None, own) else others,
        objective_scores={"exact": float(verdict.exact), "partial": verdict.score},
        predictor_scores={own: verdict.score},
    )


def exact(gold: dspy.Example, pred: dspy.Prediction, trace: object = None) -> float:
    """1 for a right answer, 0 for any other."""
    return float(judge(gold, pred).exact)


def judge(gold: dspy.Example, pred: dspy.Prediction) -> Verdict:
    """What to think of a prediction; a field that is absent or no text is an empty answer."""
    forward = gold.direction == "output"
    answer = getattr(pred, "result" if forward else "arguments", None)
    text = answer if isinstance(answer, str) else ""
    if not forward:
        return judge_arguments(gold.code, gold.result, gold.answer, text, sandbox.run)
    judge_text = judge_printed if gold.style == "print" else judge_returned
    return judge_text(gold.call, gold.answer, text)


def build(options: CodeOutputOptions, seed: int) -> Task:
    """The task: programs are drawn and run now, some 700 in a second."""
    directions = get_args(Direction) if options.direction == "both" else (options.direction,)
    sizes = {"train": options.train_size, "val": options.val_size, "test": options.test_size}
    solved = solve(
        sum(sizes.values()),
        seed,
        directions=directions,
        difficulty=options.difficulty,
        max_output=options.max_output,
    )
    train, val, test = splits(solved, sizes)
    return Task(
        program=CodeProgram(directions),
        trainset=train,
        valset=val,
        testset=test,
        metric=metric,
        eval_metric=exact,
    )


def facts() -> dict[str, object]:
    """The predictors by direction."""
    return {"predictors": dict(PREDICTORS)}


ENTRY: Final = Entry(
    name="code_output",
    summary="what a small Python program gives, or arguments for which it gives a result",
    options=CodeOutputOptions,
    build=build,
    facts=facts,
)

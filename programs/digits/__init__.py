"""Hidden rules on lists of digits: one predictor (``digits``) or two (``digits-pipeline``)."""

from programs.digits.pipeline import DigitsPipeline, PipelineRule
from programs.digits.task import SEED_INSTRUCTION, Digits, DigitsProgram, other_skills

__all__ = [
    "SEED_INSTRUCTION",
    "Digits",
    "DigitsPipeline",
    "DigitsProgram",
    "PipelineRule",
    "other_skills",
]

"""Which examples make prompts that the policy has no room to answer."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import dspy

from fst_agents.serving.host import ChatTokenizer
from fst_agents.types import Problem

MOST_MEASURED = 500
"""Examples that are measured, those with the most text: to tokenize all would take minutes."""


@dataclass(frozen=True)
class Ruler:
    """Measures prompts in the policy's tokens.

    It is taken that a predictor whose inputs are all among the example's is given them as they
    are, under its own instruction and demos; other predictors are not measured.
    """

    adapter: dspy.Adapter
    tokenizer: ChatTokenizer
    context_length: int

    def faults(self, name: str, predictor: Any, known: Sequence[Problem]) -> list[str]:
        """The prompts of one predictor that leave no token for an answer, longest text first."""
        fields = list(predictor.signature.input_fields)
        given: list[tuple[str, dict[str, Any]]] = []
        for problem in known:
            inputs = problem.example.inputs()
            if fields and all(field in inputs for field in fields):
                given.append((problem.id, {field: inputs[field] for field in fields}))
        longest = heapq.nlargest(
            MOST_MEASURED, given, key=lambda pair: sum(map(_bytes, pair[1].values()))
        )
        lines: list[str] = []
        for example, inputs in longest:
            try:
                messages: list[dict[str, Any]] = self.adapter.format(
                    predictor.signature, predictor.demos, dict(inputs)
                )
            except Exception:  # noqa: BLE001 - the program may make something else of its inputs
                continue
            start = f"example {example!r}: its prompt for predictor {name!r}"
            if not all(isinstance(message["content"], str) for message in messages):
                return [f"{start} is not text alone; only text can be sampled from a policy"]
            try:
                tokens = self._long(messages)
                longest_field = max(fields, key=lambda field: _bytes(inputs[field]))
                own = self._tokens(inputs[longest_field]) if tokens else 0
            except Exception as error:  # noqa: BLE001 - a chat template raises what it likes
                said = " ".join(str(error).split())
                return [f"{start} does not fit the policy's chat template: {said}"]
            if tokens:
                lines.append(
                    f"{start} has {tokens} tokens, longest field {longest_field!r} ({own} tokens); "
                    f"the policy's context is {self.context_length}; shorten it, or raise "
                    "serve.context_length"
                )
        return lines

    def _long(self, messages: list[dict[str, Any]]) -> int | None:
        """The tokens of a prompt that leaves no room; ``None`` if there is some.

        Counting bytes comes first: no tokenizer makes more tokens than a text has bytes, and the
        chat template adds what it adds to empty messages.
        """
        frame = len(self.tokenizer.render([{**message, "content": ""} for message in messages]))
        if frame + sum(_bytes(message["content"]) for message in messages) < self.context_length:
            return None
        tokens = len(self.tokenizer.render(messages))
        return tokens if tokens >= self.context_length else None

    def _tokens(self, value: Any) -> int:
        text, nothing = ([{"role": "user", "content": said}] for said in (str(value), ""))
        return len(self.tokenizer.render(text)) - len(self.tokenizer.render(nothing))


def _bytes(value: Any) -> int:
    """Bytes of a value's text. Half a surrogate pair, which is no text, counts as three."""
    return len(str(value).encode(errors="surrogatepass"))

"""A DSPy adapter that adds no words of its own, for policies with small vocabularies."""

import re
from typing import Any, cast

import dspy
from dspy.adapters.base import Adapter
from dspy.adapters.utils import apply_output_field_defaults, format_field_value, parse_value
from dspy.signatures.signature import Signature


class CompactAdapter(Adapter):
    """Instruction as the system message, bare values as the others.

    A signature with one input (or output) shows its value alone; with several, each field gets a
    `name: value` line. One `Predict` call is one LM call: a completion that does not parse is an
    error, never a hidden second request.
    """

    def format_system_message(self, signature: type[Signature]) -> str:
        """Return the instruction and nothing else."""
        return signature.instructions

    def format_user_message_content(
        self,
        signature: type[Signature],
        inputs: dict[str, Any],
        prefix: str = "",
        suffix: str = "",
        main_request: bool = False,
    ) -> str:
        """Return the values of the input fields; fields without a value are left out."""
        given = {name: inputs[name] for name in signature.input_fields if name in inputs}
        content = _render(signature.input_fields, given)
        return "\n".join(part for part in (prefix, content, suffix) if part)

    def format_assistant_message_content(
        self,
        signature: type[Signature],
        outputs: dict[str, Any],
        missing_field_message: str | None = None,
    ) -> str:
        """Return the values of the output fields, with a stand-in for those that are missing."""
        values = {
            name: outputs.get(name, missing_field_message) for name in signature.output_fields
        }
        return _render(signature.output_fields, values)

    def parse(self, signature: type[Signature], completion: str) -> dict[str, Any]:
        """Read the output fields back from a completion, coerced to their types.

        Raises:
            AdapterParseError: A required field is missing or does not have its type; the fields
                that did parse are in `parsed_result`.
        """
        fields: dict[str, Any] = {}
        problems: list[str] = []
        for name, text in _split(signature, completion).items():
            try:
                fields[name] = parse_value(text, signature.output_fields[name].annotation)
            except ValueError as error:
                problems.append(f"field {name!r} cannot be read from {text!r}: {error}")
        complete = apply_output_field_defaults(signature, fields)
        if problems or complete.keys() != signature.output_fields.keys():
            raise dspy.AdapterParseError(
                adapter_name=type(self).__name__,
                signature=cast(Any, signature),  # DSPy annotates an instance but takes the class
                lm_response=completion,
                message="\n".join(problems) or None,
                parsed_result=cast(Any, fields),
            )
        return complete


def _render(fields: dict[str, Any], values: dict[str, Any]) -> str:
    texts = {name: _text(fields[name], value) for name, value in values.items()}
    if len(fields) == 1:
        return "".join(texts.values())
    return "\n".join(f"{name}: {text}" for name, text in texts.items())


def _text(field: Any, value: Any) -> str:
    if type(value) is str:  # as it is; to find that out, DSPy would build a serializer every time
        return value
    return str(format_field_value(field_info=field, value=value))


def _split(signature: type[Signature], completion: str) -> dict[str, str]:
    """Cut a completion into field texts; the first mention of a field counts."""
    names = list(signature.output_fields)
    if len(names) == 1:
        return {names[0]: completion.strip()}
    label = re.compile(rf"^[ \t]*({'|'.join(map(re.escape, names))})[ \t]*:", re.MULTILINE)
    marks = list(label.finditer(completion))
    ends = [*(mark.start() for mark in marks), len(completion)][1:]
    texts: dict[str, str] = {}
    for mark, end in zip(marks, ends, strict=True):
        texts.setdefault(mark[1], completion[mark.end() : end].strip())
    return texts

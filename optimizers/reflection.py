"""The reflection model as what gepa needs of it: a function from prompt to answer.

Three ways to have one: the offline reflector (handed in by the composition root), any LiteLLM
model by name, or the user's own callable or ``dspy.LM``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from fst_agents.errors import ConfigError, ReflectionError

Reflection = Callable[[str], str]

MAX_TEXT_BYTES = 20_000
"""Longest instruction that is accepted as one."""

DEFAULT_ARGS: Mapping[str, Any] = {
    "temperature": 1.0,
    "max_tokens": 4096,
    "timeout": 120.0,
    "num_retries": 2,
}


def build_reflection(
    name: str, args: Mapping[str, Any] | None = None, offline: Reflection | None = None
) -> Reflection:
    """The reflection model of a run file (``fast.reflection_lm``, ``fast.reflection_args``).

    ``"offline"`` is the callable handed in; every other name is LiteLLM's, and ``args`` go to
    ``litellm.completion`` over :data:`DEFAULT_ARGS` (``timeout`` in seconds).

    Raises:
        ConfigError: no offline reflector here, or a name LiteLLM does not know.
    """
    if name != "offline":
        return LiteLlmReflection(name, {} if args is None else args)
    if offline is None:
        raise ConfigError(
            "fast.reflection_lm: 'offline' only knows the tasks that are shipped; name a LiteLLM "
            "model, for example 'openai/gpt-5-mini', or pass reflection_lm= in Python"
        )
    if args:
        raise ConfigError(
            f"fast.reflection_args: got {sorted(args)}, but the offline reflector takes none"
        )
    return offline


def wrap_reflection(lm: Callable[[str], Any]) -> Reflection:
    """A user's callable or ``dspy.LM`` as ``str → str``.

    Accepted answers: a string, or what a ``dspy.LM`` returns: a list whose first item is a string
    or a dict with the string under ``"text"``.

    Raises:
        ConfigError: ``lm`` cannot be called. The wrapped function raises
            :class:`ReflectionError` for any other answer.
    """
    if not callable(lm):
        raise ConfigError(
            f"reflection_lm: expected a callable from prompt to text or a dspy.LM, got {lm!r}"
        )

    def reflect(prompt: str) -> str:
        answer = lm(prompt)
        if isinstance(answer, list) and answer:
            first = answer[0]
            answer = first.get("text") if isinstance(first, dict) else first
        return _checked(answer, "reflection_lm")

    return reflect


class LiteLlmReflection:
    """One chat completion per prompt through LiteLLM, which is imported here and not before."""

    def __init__(self, model: str, args: Mapping[str, Any]) -> None:
        # Prices are of no use here; without this, importing LiteLLM asks the network for them.
        os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
        import litellm
        from litellm.exceptions import BadRequestError

        litellm.suppress_debug_info = True  # it would print advertisements to standard output
        try:
            litellm.get_llm_provider(model, api_base=args.get("api_base"))
        except BadRequestError as error:
            raise ConfigError(
                f"fast.reflection_lm: {model!r} is not a LiteLLM model name; expected "
                "'<provider>/<model>', for example 'openai/gpt-5-mini'"
            ) from error
        self._complete: Callable[..., Any] = litellm.completion
        self._args = {**DEFAULT_ARGS, **args, "model": model}

    def __call__(self, prompt: str) -> str:
        """The answer's text. Raises LiteLLM's errors, or ReflectionError where there is none."""
        response = self._complete(messages=[{"role": "user", "content": prompt}], **self._args)
        choice = response.choices[0]
        return _checked(choice.message.content, f"{self._args['model']} ({choice.finish_reason})")


def _checked(text: object, source: str) -> str:
    if not isinstance(text, str) or not text.strip():
        raise ReflectionError(f"{source}: expected a non-empty text, got {text!r:.200}")
    return text


def answer_fault(answer: str, text: str, current: str) -> str | None:
    """Why an answer cannot be used, ``None`` where it can.

    ``answer`` is what the model said, ``text`` what gepa read from it, ``current`` the
    instruction that it was to improve.
    """
    if answer.count("```") < 2:
        return "no complete ``` block in the answer"
    if not text.strip():
        return "the ``` block is empty"
    if text.split() == current.split():
        return "the instruction is unchanged"
    size = len(text.encode())
    if size > MAX_TEXT_BYTES:
        return f"the instruction has {size} bytes, at most {MAX_TEXT_BYTES} are accepted"
    return None

"""The reflection model as what gepa needs of it: a function from prompt to answer.

Three ways to have one: a task's offline reflector (handed in by the composition root), any LiteLLM
model by name, or the user's own callable or ``dspy.LM``.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from fst_agents.errors import ConfigError, ReflectionError, RunDirError
from fst_agents.json_files import append_lines
from fst_agents.redaction import hide
from fst_agents.replay import LogReplay

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
            "fast.reflection_lm: 'offline' knows the digits tasks only; name a LiteLLM "
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


class StandInReflection:
    """Adds a sentence that says nothing: for smoke runs, where only the plumbing is tried.

    ``calls``: answers given so far; the next one says its number.
    """

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, prompt: str) -> str:
        """The current instruction, which gepa's prompt quotes first, and a numbered sentence.

        Raises:
            ReflectionError: the prompt quotes no instruction.
        """
        quoted = re.search(r"```\w*\n(.*?)\n```", prompt, re.DOTALL)
        if quoted is None:
            raise ReflectionError("a reflection prompt without an instruction between ``` fences")
        self.calls += 1
        return f"```\n{quoted[1].strip()} (Attempt {self.calls}.)\n```"


class LiteLlmReflection:
    """One chat completion per prompt through LiteLLM, which is imported here and not before."""

    def __init__(self, model: str, args: Mapping[str, Any]) -> None:
        # Prices are of no use here; without this, importing LiteLLM asks the network for them.
        os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
        import litellm
        from litellm.exceptions import BadRequestError

        taken = sorted({"model", "messages"} & set(args))
        if taken:
            raise ConfigError(
                f"fast.reflection_args: {', '.join(taken)} cannot be given there; the model is "
                "fast.reflection_lm, and its messages are gepa's"
            )
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


@runtime_checkable
class CountedReflection(Protocol):
    """A reflection whose next answer depends on how many it has given, and on nothing else of what
    went before."""

    calls: int


class RecordedReflection:
    """Writes every answer down before it is used, so that a resumed run need not ask again.

    A line of the file is ``{"prompt": SHA-256, "answer": text}``, or ``"error"`` in place of
    ``"answer"``. Failures are written with the first answer that follows them: a run that ended
    over them asks again.
    """

    def __init__(
        self,
        ask: Reflection,
        file: Path,
        mark: int = 0,
        *,
        source: object = None,
        secrets: frozenset[str] = frozenset(),
    ) -> None:
        """What stands in ``file`` beyond ``mark`` (bytes) is read back as long as the prompts are
        the same. ``source``, where its answers are counted, is told how many this run has had.
        ``secrets`` are blotted out of errors.
        """
        self._secrets = secrets
        self._ask = ask
        self._file = file
        self._source = source
        self._before = LogReplay(file, mark)
        self._failures: list[dict[str, str]] = []
        self._calls = 0
        if mark:
            with file.open("rb") as stream:
                self._calls = stream.read(mark).count(b"\n")

    def __call__(self, prompt: str) -> str:
        """The answer.

        Raises:
            RunDirError: it could not be written down.
            Exception: whatever the reflection model raises.
        """
        key = hashlib.sha256(prompt.encode(errors="replace")).hexdigest()
        known = self._before.take(1, lambda lines: lines[0].get("prompt") == key)
        number, self._calls = self._calls, self._calls + 1
        if known is not None:
            return _repeated(known[0])
        if isinstance(self._source, CountedReflection):
            self._source.calls = number
        try:
            answer = self._ask(prompt)
        except Exception as error:
            raised = f"{type(error).__name__}: {error}"
            said = hide(raised, self._secrets)
            self._failures.append({"prompt": key, "error": said})
            if said != raised:
                raise ReflectionError(f"the reflection model failed with {said}") from None
            raise
        try:
            append_lines(self._file, [*self._failures, {"prompt": key, "answer": answer}])
        except OSError as error:  # not the model's fault, and not to be put up with
            raise RunDirError(
                f"{self._file}: an answer could not be written down ({error}); the last checkpoint "
                f"is intact. Make room and continue with 'fst train --resume {self._file.parent}'"
            ) from error
        self._failures.clear()
        return answer

    def mark(self) -> int:
        """Where the file stands, in bytes; what has not been read back until now never will be."""
        self._before.cut()
        return self._file.stat().st_size if self._file.exists() else 0


def _repeated(line: Mapping[str, str]) -> str:
    if "error" in line:
        raise ReflectionError(line["error"])
    return line["answer"]


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
    if any("\ud800" <= character <= "\udfff" for character in text):
        return "the instruction has half characters (lone surrogates), which are no text"
    if text.split() == current.split():
        return "the instruction is unchanged"
    size = len(text.encode())
    if size > MAX_TEXT_BYTES:
        return f"the instruction has {size} bytes, at most {MAX_TEXT_BYTES} are accepted"
    return None

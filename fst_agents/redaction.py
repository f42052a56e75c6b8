"""What may be written down of a configuration: everything but its secrets."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic_core import to_jsonable_python

from fst_agents.config import RunConfig
from fst_agents.errors import ConfigError

REDACTED = "<redacted>"
SHORTEST = 8
"""Characters of a secret that is looked for in other texts; a shorter one would be any word."""
_SECRET_KEY = re.compile(
    r"api[_-]?key|token(?!iz)|secret|password|authorization|credential|(^|[_-])key$", re.I
)
_COUNTED = re.compile(r"tokens?(?!iz)", re.I)
"""Tokens are also what is counted; a secret of that name is no number."""
_NUMBER = re.compile(r"\d+(\.\d+)?[kmg]?i?", re.I)
_SECRET_IN_URL = re.compile(r"(://[^:/@\s]*:)[^@/\s]+@")


def public_config(config: RunConfig) -> dict[str, Any]:
    """The configuration as plain values, without what nobody should read.

    Texts under a key that smells of a secret and passwords inside URLs become ``<redacted>``, and
    so does what follows such an option in ``serve.extra_args``. Numbers stay: ``max_tokens`` is
    no secret, nor is ``--max-num-batched-tokens 4096``, nor anything about a tokenizer.
    """
    data = to_jsonable_python(config.model_dump(mode="python"), fallback=str)
    data["fast"]["reflection_args"] = _redact(data["fast"]["reflection_args"])
    for fixed in data["fixed"].values():
        fixed["args"] = _redact(fixed["args"])
    data["serve"]["extra_args"] = _redact_options(data["serve"]["extra_args"])
    return _strip_passwords(data)


def secrets_lacking(config: RunConfig, *sections: str) -> list[str]:
    """A line for each key whose secret was blotted out when the run was written.

    Args:
        sections: those of the run file that are used; all of them if none is named.
    """
    data = config.model_dump(mode="python", include=set(sections) or None)
    return [
        f"{key}: secrets are not kept in the run directory; give it again (--set {key}=…)"
        for key in _redacted(data)
    ]


def refuse_redacted(config: RunConfig, *sections: str) -> None:
    """Whatever is started from a run directory's configuration has its secrets.

    Raises:
        ConfigError: the lines of :func:`secrets_lacking`.
    """
    lines = secrets_lacking(config, *sections)
    if lines:
        raise ConfigError(lines)


def _redacted(value: Any, key: str = "") -> Iterator[str]:
    """The keys under which something has been blotted out."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _redacted(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, str):
        if REDACTED in value:
            yield key
    elif isinstance(value, list | tuple) and any(True for v in value for _ in _redacted(v, key)):
        yield key


def secrets_of(settings: Mapping[str, Any]) -> frozenset[str]:
    """The texts under keys that smell of a secret, however deep, such as of ``os.environ``."""
    found: set[str] = set()

    def look(value: Any, secret: bool) -> None:
        if isinstance(value, Mapping):
            for key, item in value.items():
                look(item, secret or _SECRET_KEY.search(str(key)) is not None)
        elif isinstance(value, list | tuple):
            for item in value:
                look(item, secret)
        elif secret and isinstance(value, str) and len(value) >= SHORTEST:
            found.add(value)

    look(settings, False)
    return frozenset(found)


def hide(text: str, secrets: Iterable[str]) -> str:
    """A text without secrets that it quotes: some endpoints repeat the key that they refuse."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, REDACTED)
    return text


def redact_url(url: str) -> str:
    """A URL with the password of its user blotted out."""
    return _SECRET_IN_URL.sub(rf"\1{REDACTED}@", url)


def _redact(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {k: _redact(v, k if not _SECRET_KEY.search(key) else key) for k, v in value.items()}
    if isinstance(value, list):
        return [_redact(item, key) for item in value]
    return REDACTED if isinstance(value, str) and _SECRET_KEY.search(key) else value


def _redact_options(arguments: list[str]) -> list[str]:
    """``--api-key X Y`` and ``--api-key=X``: an option has all that stands before the next one."""
    out: list[str] = []
    asked = ""
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if argument.startswith("--"):
            asked = "" if equals else name
            out.append(f"{name}={REDACTED}" if equals and _secret(name, value) else argument)
        else:
            out.append(REDACTED if _secret(asked, argument) else argument)
    return out


def _secret(option: str, value: str) -> bool:
    if _COUNTED.search(option) and _NUMBER.fullmatch(value):
        return False
    return _SECRET_KEY.search(option) is not None


def _strip_passwords(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _strip_passwords(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_strip_passwords(item) for item in value]
    return redact_url(value) if isinstance(value, str) else value

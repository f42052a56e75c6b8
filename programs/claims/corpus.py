"""Passages: the shipped corpus of the invented world, or a file of one's own."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from programs.claims.world import Entity

SHIPPED: Final = Path(__file__).parent / "data" / "corpus.jsonl"
"""One line per entity of :func:`programs.claims.world.world`."""


@dataclass(frozen=True, slots=True)
class Passage:
    """What a retriever finds.

    Attributes:
        title: unique in its corpus.
        sentences: its text, in one piece or in sentences.
    """

    title: str
    sentences: tuple[str, ...]

    @property
    def text(self) -> str:
        return " ".join(sentence.strip() for sentence in self.sentences)

    def __str__(self) -> str:
        """As predictors read it: ``title | text``."""
        return f"{self.title} | {self.text}"


def read_corpus(path: Path) -> list[Passage]:
    """The passages of a JSON Lines file.

    Every line is an object with ``title`` and ``text``, a string or a list of sentences; other
    keys are ignored, and so are blank lines.

    Raises:
        ValueError: there is no such file, it has no passage, or a line is something else.
    """
    if not path.is_file():
        raise ValueError(
            f"corpus: no file {str(path)!r}; expected a JSON Lines file of passages with `title` "
            "and `text`; give its path (see programs/claims/README.md for HoVer's)"
        )
    with path.open(encoding="utf-8") as lines:
        passages = [
            _passage(line, f"corpus: line {number} of {str(path)!r}")
            for number, line in enumerate(lines, 1)
            if line.strip()
        ]
    if not passages:
        raise ValueError(f"corpus: {str(path)!r} has no passages; expected one JSON object a line")
    return passages


def corpus_lines(entities: Iterable[Entity]) -> Iterator[str]:
    """The shipped file's lines, without their ends."""
    for number, entity in enumerate(entities):
        passage = {"id": f"p{number:03}", "title": entity.title, "text": entity.text}
        yield json.dumps(passage, ensure_ascii=False)


def normal(title: str) -> str:
    """A title in the one of Unicode's forms by which titles are compared."""
    return unicodedata.normalize("NFC", title).strip()


def _passage(line: str, where: str) -> Passage:
    try:
        row: Any = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} is no JSON ({error}); mend or remove it") from error
    title, text = (row.get("title"), row.get("text")) if isinstance(row, dict) else (None, None)
    sentences = [text] if isinstance(text, str) else text
    if (
        not isinstance(title, str)
        or not isinstance(sentences, list)
        or not all(isinstance(sentence, str) for sentence in sentences)
    ):
        raise ValueError(
            f"{where} is {line.strip()!r:.80}; expected an object with `title`, a string, and "
            "`text`, a string or a list of sentences"
        )
    return Passage(normal(title), tuple(sentences))

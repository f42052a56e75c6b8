"""BM25 over a list of passages, by the library bm25s: deterministic, and shared by everything."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np

from programs.claims.corpus import Passage, read_corpus

MAX_TERMS: Final = 64
"""How many different words of a query count; a longer one costs no more time."""


class Retriever:
    """Finds passages by the words of a query. Only read after it is made: threads may share it.

    Copies of a program share it, too, and it is no part of a program's state.

    Args:
        passages: at least one, with unique titles. Titles are searched as well as texts.
    """

    def __init__(self, passages: Sequence[Passage]) -> None:
        import bm25s

        self.passages = passages
        self._split: Any = bm25s.tokenize
        # Asked for by name: with "auto" the scores would depend on whether numba is installed.
        self._index = bm25s.BM25(backend="numpy")
        texts = (f"{passage.title} {passage.text}" for passage in passages)
        tokens = self._split(texts, show_progress=False)
        self._index.index(tokens, show_progress=False)

    def search(self, query: str, k: int) -> list[Passage]:
        """The best passages, at most ``k``, best first; of equal ones the earlier in the corpus.

        Fewer where fewer share a word with the query. Case, punctuation, word order, stop words
        and repetition do not count.
        """
        words = self._split(query, return_ids=False, show_progress=False)[0]
        terms: Any = self._index.get_tokens_ids(list(dict.fromkeys(words))[:MAX_TERMS])
        if not terms:
            return []
        scores = self._index.get_scores_from_ids(terms)
        return [self.passages[i] for i in top(scores, k)]

    def __deepcopy__(self, memo: object) -> Retriever:
        return self


def top(scores: Any, k: int) -> list[int]:
    """Indices of the ``k`` highest positive scores; equal scores in the order of their indices.

    Args:
        scores: of the passages, shape [passages].
    """
    k = min(k, len(scores))
    least = np.partition(scores, -k)[-k]
    above = np.flatnonzero(scores > least)
    equal = np.flatnonzero(scores == least)[: k - len(above)]
    chosen = np.concatenate([above, equal])
    order = np.lexsort((chosen, -scores[chosen]))
    return [int(i) for i in chosen[order] if scores[i] > 0]


def load(path: Path) -> Retriever:
    """A corpus with its index, which is made once per process and file.

    Raises:
        ValueError: as :func:`~programs.claims.corpus.read_corpus`.
    """
    return _load(path, path.stat().st_mtime_ns if path.is_file() else 0)


@lru_cache(maxsize=2)
def _load(path: Path, changed: int) -> Retriever:
    """``changed`` is part of the key: another file under the same name is another corpus."""
    return Retriever(read_corpus(path))

"""The order in which problems are met: shuffled epochs, and a look ahead for the anchor set."""

from __future__ import annotations

import random
from collections.abc import Sequence
from fractions import Fraction

from fst_agents.errors import ConfigError
from fst_agents.types import Problem


class ProblemStream:
    """Endless batches of distinct problems; where it stands is one number, the cursor.

    Every epoch is one shuffle of all problems, drawn from the seed and the epoch's number, so the
    stream can start anywhere. A batch never reaches across two epochs: the remainder that does
    not fill a batch is left out of that epoch.

    Raises:
        ConfigError: fewer problems than one batch.
    """

    def __init__(self, problems: Sequence[Problem], batch_size: int, seed: int) -> None:
        if len(problems) < batch_size:
            raise ConfigError(
                f"slow.batch_size: got {batch_size}, but the training set has {len(problems)} "
                "problems; lower it or add problems"
            )
        self._problems = list(problems)
        self._batch_size = batch_size
        self._seed = seed
        self.cursor = 0
        """Batches handed out so far."""

    def next(self) -> list[Problem]:
        """The next batch; the cursor moves on."""
        batch = self._batch(self.cursor)
        self.cursor += 1
        return batch

    def look_ahead(self, batches: int) -> list[Problem]:
        """The distinct problems of the next batches, in order; the cursor stays."""
        ahead = [p for k in range(batches) for p in self._batch(self.cursor + k)]
        return list({p.id: p for p in ahead}.values())

    def skip(self, batches: int) -> None:
        """Pass over batches, as if they had been handed out."""
        self.cursor += batches

    def keep_time(self, place: Fraction, rate: Fraction) -> None:
        """Where a run stands whose batches do not tell: at ``place`` in batches of another one,
        and further by ``rate`` with every batch. It matters only to problems that change."""

    def _batch(self, index: int) -> list[Problem]:
        per_epoch = len(self._problems) // self._batch_size
        epoch, place = divmod(index, per_epoch)
        order = list(self._problems)
        random.Random(f"{self._seed}/epoch/{epoch}").shuffle(order)
        return order[place * self._batch_size : (place + 1) * self._batch_size]


class StagedStream(ProblemStream):
    """Problems that change on the way: ``batches`` batches of each part, of the last for ever.

    Raises:
        ConfigError: a part has fewer problems than one batch.
    """

    def __init__(
        self, parts: Sequence[Sequence[Problem]], batch_size: int, seed: int, *, batches: int
    ) -> None:
        super().__init__([p for part in parts for p in part], batch_size, seed)
        self._parts = [ProblemStream(part, batch_size, seed) for part in parts]
        self._batches = batches
        self._timed = 0
        self._place, self._rate = Fraction(0), Fraction(1)

    def keep_time(self, place: Fraction, rate: Fraction) -> None:
        self._timed, self._place, self._rate = self.cursor, place, rate

    def _batch(self, index: int) -> list[Problem]:
        place = self._place + (index - self._timed) * self._rate
        part = min(int(place // self._batches), len(self._parts) - 1)
        # A run that keeps its own time has taken more batches by then, never fewer.
        return self._parts[part]._batch(max(0, index - part * self._batches))

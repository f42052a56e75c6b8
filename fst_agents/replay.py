"""What has been paid for is read back from a log instead of being paid for again."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


class LogReplay:
    """The lines that stand in a JSON lines file beyond a mark, taken one request at a time.

    Whoever appends to the file asks here first. As long as the same things are asked for in the
    same order as before the stop, the file answers. At the first request that it cannot answer
    it is cut off there, and from then on it is appended to as if nothing had followed.
    """

    def __init__(self, file: Path, mark: int = 0) -> None:
        """``mark``: where the first line that may be taken begins, in bytes."""
        self._file = file
        self._place = mark
        self._over = not file.exists()

    def take(self, count: int, same: Callable[[list[Any]], bool]) -> list[Any] | None:
        """The values of the next ``count`` lines, if they are there whole and are the ``same``.

        ``None`` otherwise, now and ever after: the rest of the file has been cut off.
        """
        if self._over:
            return None
        values, end = self._ahead(count)
        if len(values) == count and same(values):
            self._place = end
            return values
        self.cut()
        return None

    def cut(self) -> None:
        """Forget what has not been taken. Idempotent."""
        if not self._over and self._file.stat().st_size > self._place:
            os.truncate(self._file, self._place)
        self._over = True

    def _ahead(self, count: int) -> tuple[list[Any], int]:
        """Up to ``count`` values, and the position behind them; a torn line is none."""
        values: list[Any] = []
        with self._file.open("rb") as stream:
            stream.seek(self._place)
            end = self._place
            while len(values) < count and (line := stream.readline()).endswith(b"\n"):
                try:
                    values.append(json.loads(line))
                except ValueError as error:
                    logging.getLogger(__name__).warning(
                        "%s: the line at byte %d is no JSON (%s); it and what follows is asked "
                        "for again",
                        self._file,
                        end,
                        error,
                    )
                    break
                end += len(line)
        return values, end

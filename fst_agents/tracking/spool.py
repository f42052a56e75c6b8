"""The spool: a JSON lines file in the run directory that every event is written to first.

It is the queue, too: nothing is held in memory, nothing is lost when the process dies. Events are
delivered once they are *committed*: a run commits when it can no longer fall back behind them, so a
resumed run rewinds to its checkpoint's mark and no event is delivered twice. Beside the spool lies
the *cursor* (``tracking.state.json``): how far delivery has come, which events the store
refused, and the ids the store gave to the runs.
"""

from __future__ import annotations

import json
import os
import threading
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from fst_agents.json_files import dumps

Event = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far a spool has been delivered. ``offset`` and ``refused`` are byte positions."""

    offset: int = 0
    refused: tuple[int, ...] = ()
    uri: str = ""
    experiment_id: str = ""
    runs: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def run_id(self) -> str | None:
        return self.runs.get("main")


class Spool:
    """One spool file and its cursor. ``put`` and reading may happen in different threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._state = path.with_name(f"{path.stem}.state.json")
        self._changed = threading.Condition()
        self._committed = 0
        self._closed = False

    def put(self, event: Event) -> None:
        """Append an event; cost: one small write."""
        line = dumps(event) + b"\n"
        with self._changed:
            with self.path.open("ab") as stream:
                stream.write(line)
            self._changed.notify_all()

    @property
    def end(self) -> int:
        """Where the next event will stand."""
        return self.path.stat().st_size if self.path.exists() else 0

    def commit(self) -> None:
        """Let everything written so far be delivered."""
        with self._changed:
            self._committed = self.end
            self._changed.notify_all()

    def rewind(self, mark: int | None = None) -> list[Event]:
        """Forget the events from a mark on (default: all that are not committed).

        Returns those that must stay, because they were delivered already.
        """
        with self._changed:
            start = self._committed if mark is None else mark
            keep = max(start, self._committed, self.cursor().offset)
            if self.end > keep:
                os.truncate(self.path, keep)
        stay: list[Event] = []
        while (found := self.read(start)) is not None:
            event, start = found
            stay.append(event)
        return stay

    def close(self) -> None:
        """No more events will come; all there are may be delivered."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def closed(self) -> bool:
        return self._closed

    def wait_closed(self, seconds: float) -> bool:
        """Sleep, but not beyond the moment the spool is closed."""
        with self._changed:
            return self._changed.wait_for(lambda: self._closed, seconds)

    def next(self, offset: int) -> tuple[Event, int] | None:
        """The event at a position and the position after it; waits until it is committed.

        ``None`` once the spool is closed and holds nothing more.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or offset < self._committed)
        return self.read(offset)

    def read(self, offset: int) -> tuple[Event, int] | None:
        """The event at a position, if it is there whole."""
        if not self.path.exists():
            return None
        with self.path.open("rb") as stream:
            stream.seek(offset)
            line = stream.readline()
        return (json.loads(line), offset + len(line)) if line.endswith(b"\n") else None

    def remaining(self, cursor: Cursor) -> int:
        """Events that have not arrived: those behind the cursor and those refused."""
        if not self.path.exists():
            return 0
        with self.path.open("rb") as stream:
            stream.seek(cursor.offset)
            return sum(line.endswith(b"\n") for line in stream) + len(cursor.refused)

    def cursor(self) -> Cursor:
        if not self._state.exists():
            return Cursor()
        data = json.loads(self._state.read_bytes())
        return replace(Cursor(**data), refused=tuple(data["refused"]))

    def save(self, cursor: Cursor) -> None:
        """Replace the cursor file."""
        temporary = self._state.with_name(f".{self._state.name}.tmp")
        temporary.write_text(json.dumps(asdict(cursor)) + "\n", encoding="utf-8")
        temporary.replace(self._state)

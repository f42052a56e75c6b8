"""The spool: a JSON lines file in the run directory that every event is written to first.

It is the queue, too: nothing is held in memory, nothing is lost when the process dies. Beside it
lies the *cursor* (``tracking.state.json``): how far delivery has come, which events the store
refused, and the ids the store gave to the runs.
"""

from __future__ import annotations

import json
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
        self._closed = False

    def put(self, event: Event) -> None:
        """Append an event; cost: one small write."""
        line = dumps(event) + b"\n"
        with self._changed:
            with self.path.open("ab") as stream:
                stream.write(line)
            self._changed.notify_all()

    def close(self) -> None:
        """No more events will come."""
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
        """The event at a position and the position after it; waits for it.

        ``None`` once the spool is closed and holds nothing more.
        """
        with self._changed:
            while (found := self.read(offset)) is None and not self._closed:
                self._changed.wait()
        return found

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

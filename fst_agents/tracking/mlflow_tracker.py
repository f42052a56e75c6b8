"""MLflow without waiting for it: training writes to the spool, a thread delivers.

An outage of the store costs delay and nothing else. The thread retries with growing pauses; an
event that a working store refuses several times is passed over, counted, and stays in the spool,
from which :func:`replay` can deliver later.
"""

from __future__ import annotations

import logging
import shlex
import sys
import threading
import uuid
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from fst_agents.errors import RunDirError
from fst_agents.redaction import redact_url
from fst_agents.tracking.delivery import THREAD_NAME, MlflowStore, import_mlflow, store_uri
from fst_agents.tracking.spool import Cursor, Event, Spool
from fst_agents.tracking.tracker import MAIN, EventTracker, Scalar, Status

logger = logging.getLogger(__name__)

PAUSES = (0.2, 1.0, 5.0, 30.0)
"""Seconds between attempts at one event; the last repeats while the store is away."""
ATTEMPTS = 3
"""Attempts after which an event is passed over if the store works otherwise."""
RUN_ID_PATIENCE = 15.0
"""Most seconds that asking for the run id waits, over the whole life of a tracker."""


class Store(Protocol):
    """What a courier needs of :class:`~fst_agents.tracking.delivery.MlflowStore`."""

    def deliver(self, event: Event, cursor: Cursor) -> Cursor: ...

    def answers(self, cursor: Cursor) -> bool: ...


class Courier:
    """Carries the events of a spool to a store, in order, until the spool is closed and empty."""

    def __init__(self, spool: Spool, store: Store) -> None:
        self._spool = spool
        self._store = store
        self.cursor = spool.cursor()
        self.tried = threading.Event()
        """Set once the first event has arrived or failed."""
        self.abandoned = threading.Event()
        """Set from outside: stop after the event in hand."""
        self._warned = False

    def run(self) -> None:
        """Carry until the end; returns early where the store is away and the spool is closed."""
        self._retry_refused()
        while found := self._spool.next(self.cursor.offset):
            event, offset = found
            arrived = self._carry(event)
            if self.abandoned.is_set() or arrived is None:
                return
            if not arrived:
                refused = (*self.cursor.refused, self.cursor.offset)
                self.cursor = replace(self.cursor, refused=refused)
            self._save(replace(self.cursor, offset=offset))

    def _carry(self, event: Event) -> bool | None:
        """True: arrived. False: refused by a working store. None: given up, the store is away."""
        attempt = 0
        while not self._attempt(event):
            attempt += 1
            if attempt >= ATTEMPTS and self._store.answers(self.cursor):
                return False
            if attempt >= ATTEMPTS and self._spool.closed:
                return None
            self._pause(PAUSES[min(attempt, len(PAUSES)) - 1])
            if self.abandoned.is_set():
                return None
        return True

    def _pause(self, seconds: float) -> None:
        """Wait; the end of the run cuts a long wait short."""
        if self._spool.wait_closed(seconds):
            self.abandoned.wait(min(seconds, 1.0))

    def _attempt(self, event: Event) -> bool:
        try:
            self.cursor = self._store.deliver(event, self.cursor)
        except Exception as error:  # noqa: BLE001 - the boundary: no store may stop a training run
            self._warn(event, error)
            return False
        finally:
            self.tried.set()
        return True

    def _retry_refused(self) -> None:
        for offset in self.cursor.refused:
            found = self._spool.read(offset)
            if found is not None and self._attempt(found[0]):
                left = tuple(o for o in self.cursor.refused if o != offset)
                self._save(replace(self.cursor, refused=left))

    def _save(self, cursor: Cursor) -> None:
        self.cursor = cursor
        self._spool.save(cursor)

    def _warn(self, event: Event, error: Exception) -> None:
        level = logging.DEBUG if self._warned else logging.WARNING
        self._warned = True
        logger.log(
            level,
            "MLflow did not take a %r event (%s: %s); training goes on, nothing is lost: see %s",
            event["kind"],
            type(error).__name__,
            redact_url(str(error).partition("\n")[0])[:300],
            self._spool.path,
        )


class MlflowTracker(EventTracker):
    """Tracks a run in MLflow. Made by :meth:`start`; :meth:`finish` must be called at the end."""

    def __init__(self, spool: Spool, store: MlflowStore, attached: str | None) -> None:
        super().__init__(spool.put)
        self._spool = spool
        self._store = store
        self._attached = attached
        self._courier = Courier(spool, store)
        self._thread = threading.Thread(target=self._courier.run, name=THREAD_NAME, daemon=True)
        self._patience = RUN_ID_PATIENCE
        self._undelivered: int | None = None

    @classmethod
    def start(
        cls,
        uri: str | None,
        experiment: str,
        run_name: str,
        params: Mapping[str, Any],
        tags: Mapping[str, Scalar],
        spool: Path,
        runs: Path | None = None,
    ) -> MlflowTracker:
        """Start tracking; returns before the store has been touched.

        If the caller has an active MLflow run (and ``uri`` names no other store), the tracker
        joins it, and then never ends it.

        Args:
            uri: tracking URI; ``None``: ``MLFLOW_TRACKING_URI``, else SQLite in ``runs``.
            params: logged once, nested mappings flattened; must hold no secrets
                (:func:`fst_agents.redaction.public_config`).
            spool: a file in the run directory.
            runs: the folder of run directories, for ``mlflow.db`` and ``mlartifacts``; default:
                the parent of the run directory.
        """
        runs = spool.absolute().parent.parent if runs is None else runs.absolute()
        attach = _active_run(uri)
        store = MlflowStore(attach["uri"] if attach is not None else store_uri(uri, runs))
        attached = attach["run_id"] if attach is not None else None
        if attach is not None:
            attach = {**attach, "uri": redact_url(attach["uri"])}
        tracker = cls(Spool(spool), store, attached)
        names = {"experiment": experiment, "run_name": run_name, "runs": str(runs)}
        tracker._emit("start", MAIN, key=uuid.uuid4().hex, attach=attach, **names)
        tracker.log_params(params)
        tracker.set_tags(tags)
        tracker.commit()
        tracker._thread.start()
        return tracker

    @classmethod
    def resume(cls, uri: str | None, spool: Path, mark: int) -> MlflowTracker:
        """Go on with the run that a spool belongs to, from a mark of :meth:`mark`.

        Args:
            uri: as in :meth:`start`; a run that had joined the caller's goes on in that one.
            mark: what was written behind it is forgotten, unless it was delivered already.

        Raises:
            RunDirError: the spool does not begin with the start of a run.
        """
        file = Spool(spool)
        first = file.read(0)
        if first is None or first[0]["kind"] != "start":
            raise RunDirError(f"{spool}: not the spool of a run; it cannot be gone on with")
        attach = first[0]["attach"]
        stay = [event for event in file.rewind(mark) if event["kind"] == "metrics"]
        if stay:  # an older checkpoint, because the newest was damaged
            logger.warning(
                "MLflow has %d event(s) of the part that is run again: these points will be there "
                "twice",
                len(stay),
            )
        where = uri if attach is None else attach["uri"]
        store = MlflowStore(store_uri(where, Path(first[0]["runs"])))
        tracker = cls(file, store, attach["run_id"] if attach is not None else None)
        tracker._emit("reopen", MAIN)
        tracker.commit()
        tracker._thread.start()
        return tracker

    def mark(self) -> int:
        return self._spool.end

    def forget(self, mark: int) -> None:
        self._spool.rewind(mark)

    def commit(self) -> None:
        self._spool.commit()

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the run, waiting a little for it; ``None`` while the store is away."""
        if self._patience > 0 and not self._courier.tried.wait(self._patience):
            self._patience = 0.0
        return self._courier.cursor.run_id

    @property
    def url_hint(self) -> str | None:
        return url_hint(self._store.uri, self._courier.cursor)

    def finish(self, status: Status = "FINISHED", *, seconds: float = 60.0) -> int:
        """End the run and deliver what is left, for at most ``seconds``.

        Of a run that did not finish, what was not committed is forgotten: resumed, it would come
        again. Returns how many events did not arrive; they stay in the spool. Calling it again does
        nothing and returns the same.
        """
        if self._undelivered is None:
            if status != "FINISHED":
                self._spool.rewind()
            self._emit("end", MAIN, status=status, attached=self._attached)
            self._spool.close()
            self._thread.join(seconds)
            self._courier.abandoned.set()
            self._courier.tried.set()
            self._undelivered = self._spool.remaining(self._courier.cursor)
            if self._undelivered:
                logger.warning(_UNDELIVERED, self._undelivered, self._spool.path)
        return self._undelivered


_UNDELIVERED = (
    "%d event(s) did not reach MLflow; they are kept in %s, "
    "and fst_agents.tracking.replay(spool, uri=...) delivers them"
)


def replay(spool: Path, *, uri: str) -> int:
    """Deliver what a spool still holds; returns how many events did not arrive even now.

    What the same store already has is not sent again; another store gets everything.
    """
    file = Spool(spool)
    store = MlflowStore(store_uri(uri, spool.absolute().parent.parent))
    if file.cursor().uri != redact_url(store.uri):
        file.save(Cursor())
    file.close()
    courier = Courier(file, store)
    courier.run()
    return file.remaining(courier.cursor)


def url_hint(uri: str, cursor: Cursor) -> str:
    """The page of a run, and for a local database the command that serves it first."""
    page = f"/#/experiments/{cursor.experiment_id}/runs/{cursor.run_id}" if cursor.run_id else ""
    if uri.startswith(("http://", "https://")):
        return f"{redact_url(uri).rstrip('/')}{page}"
    python = _short(Path(sys.executable))
    command = [python, "-m", "mlflow", "ui", "--backend-store-uri", redact_url(uri)]
    return f"{_UI_ENVIRONMENT} {shlex.join(command)}  # http://127.0.0.1:5000{page}"


# Without these MLflow's server looks for the network and starts a pool of workers.
_UI_ENVIRONMENT = "LITELLM_LOCAL_MODEL_COST_MAP=True MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false"


def _short(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def _active_run(uri: str | None) -> dict[str, str] | None:
    """The caller's active run and its store, if ``uri`` does not ask for another store."""
    if "mlflow" not in sys.modules:
        return None  # nobody can have started one, and importing it here would take a second
    mlflow = import_mlflow()
    active = mlflow.active_run()
    here = mlflow.get_tracking_uri()
    if active is None or uri not in (None, here):
        return None
    return {"run_id": active.info.run_id, "uri": here}

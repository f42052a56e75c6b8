"""Stands between us and a server process, and ends the server's whole family when we end.

Run as a script: ``python guardian.py SCRATCH LOG COMMAND…``. Standard input is the lifeline: it
is a pipe whose other end only the owner holds, so it closes however the owner dies, SIGKILL
included. On its end, on SIGTERM, or when the server ends by itself, every descendant is ended
(orphans are adopted first), SCRATCH is removed, and the server's exit code is passed on. What the
server says goes to LOG, which is rotated: a server may run for weeks. Imports nothing of this
project, so that it starts at once.
"""

from __future__ import annotations

import ctypes
import logging
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
from logging.handlers import RotatingFileHandler
from types import FrameType
from typing import IO

import psutil

GRACE = 8.0
"""Seconds between SIGTERM and SIGKILL."""

LOG_BYTES = 10_000_000
"""Size at which LOG becomes LOG.1, LOG.1 becomes LOG.2, and so on."""

LOGS_BEFORE = 2
"""Earlier parts of the log that are kept."""

LONGEST_LINE = 65_536
"""Bytes after which a line is broken."""

_PR_SET_CHILD_SUBREAPER = 36


def main(scratch: str, log: str, command: list[str]) -> int:
    """Run the command until it or its owner ends; return its exit code."""
    if sys.platform == "linux":  # elsewhere orphans of a crashed server go to init
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    told: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        told.append(number)

    signal.signal(signal.SIGTERM, note)
    server = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    writer = threading.Thread(target=_write_log, args=(server.stdout, log), daemon=True)
    writer.start()
    while server.poll() is None and not told and not _lifeline_cut():
        pass
    _end_family(server)
    writer.join(GRACE)  # the pipe has its end once the whole family is gone
    shutil.rmtree(scratch, ignore_errors=True)
    return server.wait()


def _write_log(said: IO[bytes], log: str) -> None:
    logging.raiseExceptions = False  # a full disk costs lines of the log, not the server
    handler = RotatingFileHandler(
        log, maxBytes=LOG_BYTES, backupCount=LOGS_BEFORE, encoding="utf-8"
    )
    while line := said.readline(LONGEST_LINE):
        text = line.decode(errors="replace").removesuffix("\n")
        handler.emit(logging.LogRecord("server", logging.INFO, "", 0, text, None, None))
    handler.close()


def _lifeline_cut(wait: float = 0.2) -> bool:
    ready, _, _ = select.select([sys.stdin], [], [], wait)
    return bool(ready) and not os.read(sys.stdin.fileno(), 1)


def _end_family(server: subprocess.Popen[bytes]) -> None:
    """SIGTERM to the server, which stops its workers; then SIGKILL to whatever is left."""
    family = psutil.Process().children(recursive=True)
    if server.poll() is None:
        server.terminate()
        psutil.wait_procs([psutil.Process(server.pid)], timeout=GRACE)
        psutil.wait_procs(family, timeout=1)
    left = {*family, *psutil.Process().children(recursive=True)}
    for process in left:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(list(left), timeout=GRACE)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3:]))

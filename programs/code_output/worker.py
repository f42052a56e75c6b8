"""One sandboxed interpreter: requests in, results out."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from fst_agents.errors import FstError

ZYGOTE: Final = Path(__file__).with_name("zygote.py")
GRACE_SECONDS: Final = 30.0
"""How much longer than a program a worker may take before it counts as lost."""


class SandboxError(FstError):
    """The sandbox itself failed; says nothing about the program."""


class Kind(StrEnum):
    """How a program ended."""

    VALUE = "value"
    ERROR = "error"
    TIMEOUT = "timeout"
    MEMORY = "memory"
    TOO_LONG = "too_long"
    REFUSED = "refused"
    CRASHED = "crashed"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may use.

    ``cpu_seconds`` is what an endless loop meets, whatever else the machine does; ``wall_seconds``
    is for programs that sleep. ``memory_bytes`` bounds the address space, of which the interpreter
    itself takes some 40 MB. ``output_chars`` bounds the printed text and the value's ``repr``.
    """

    cpu_seconds: int = 1
    wall_seconds: float = 5.0
    memory_bytes: int = 256 << 20
    output_chars: int = 10_000


@dataclass(frozen=True, slots=True)
class Request:
    """Source to run and, unless ``function`` is empty, a function of it to call afterwards.

    ``arguments`` is the literal of a tuple, such as ``"(3, 'ab')"``; it is read by
    :func:`ast.literal_eval` inside the sandbox and never run.
    """

    source: str
    function: str = ""
    arguments: str = "()"


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a request.

    ``value`` is the ``repr`` of what the function returned, ``stdout`` the printed text, ``error``
    the exception (``"KeyError: 'a'"``) or what was refused or exceeded. Only of ``Kind.VALUE`` and
    ``Kind.ERROR`` is the printed text kept.
    """

    kind: Kind
    value: str = ""
    stdout: str = ""
    error: str = ""


class LostError(Exception):
    """A worker is gone or does not answer."""


class Worker:
    """One launcher and its zygote, and the pipes to them. Not safe to share between threads."""

    def __init__(self, limits: Limits) -> None:
        if sys.platform != "linux":
            raise SandboxError(
                f"sandbox: got {sys.platform}, expected linux, whose kernel holds programs in; "
                "use a Linux container or machine"
            )
        self._patience = limits.wall_seconds + GRACE_SECONDS
        # Not -I: it ignores PYTHONHASHSEED, without which the order in a set differs between runs.
        # The environment is this one variable, so there is nothing else that -E would ignore.
        flags = ["-P", "-s", "-S", "-B", "-Wignore"]
        settings = [str(os.getpid()), json.dumps(asdict(limits))]
        self._process = subprocess.Popen(
            [sys.executable, *flags, str(ZYGOTE), *settings],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"PYTHONHASHSEED": "0", "PYTHONUTF8": "1"},
            cwd="/",
            start_new_session=True,
        )
        self._unread = b""
        try:
            self.layers = frozenset(map(str, json.loads(self._line())["layers"]))
        except LostError as error:
            self._process.kill()
            words = self._process.communicate()[1].decode("utf-8", "replace").strip()
            raise SandboxError(f"sandbox: it does not start: {error}; {words[-500:]}") from error
        if "seccomp" not in self.layers:
            self.close()
            raise SandboxError(
                f"sandbox: got {', '.join(sorted(self.layers))}, expected seccomp as well; use a "
                "Linux kernel (x86-64 or AArch64) and a container that allow seccomp filters"
            )

    def ask(self, request: Request) -> Result:
        """One request, one result."""
        try:
            stdin = self._process.stdin
            assert stdin is not None
            stdin.write(json.dumps(asdict(request)).encode() + b"\n")
            stdin.flush()
        except (OSError, ValueError) as error:
            raise LostError(str(error)) from error
        return _result(json.loads(self._line()))

    def kill(self) -> None:
        """End launcher, zygote and guest, who share a session of their own. From any thread."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def close(self) -> None:
        """:meth:`kill`, and close the pipes: only for who holds the worker. Harmless twice."""
        self.kill()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):  # what was still to be written has no reader
                    pipe.close()

    def _line(self) -> bytes:
        """The next line from the zygote.

        Raises:
            LostError: the pipe ended, or nothing came in time.
        """
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        ready = select.poll()
        ready.register(pipe, select.POLLIN)
        deadline = time.monotonic() + self._patience
        while b"\n" not in self._unread:
            left = deadline - time.monotonic()
            if left <= 0 or not ready.poll(left * 1000):
                raise LostError(f"no answer in {self._patience} s")
            part = os.read(pipe, 65536)
            if not part:
                raise LostError("the worker ended")
            self._unread += part
        line, _, self._unread = self._unread.partition(b"\n")
        return line


def _result(answer: dict[str, Any]) -> Result:
    """Read the zygote's answer; ``report`` in it is the guest's word, and may be anything."""
    try:
        fields = json.loads(answer["report"])
        texts = {name: fields.get(name, "") for name in ("value", "stdout", "error")}
        if all(isinstance(text, str) for text in texts.values()):
            return Result(Kind(fields["kind"]), **texts)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass  # no report, or none of ours: how the process ended says the rest
    if answer["late"]:
        return Result(Kind.TIMEOUT, error="wall time")
    match answer["signal"]:
        case signal.SIGXCPU:
            return Result(Kind.TIMEOUT, error="CPU time")
        case signal.SIGSYS:
            return Result(Kind.REFUSED, error="a system call")
        case number:
            return Result(Kind.CRASHED, error=f"ended without a report by signal {number}")

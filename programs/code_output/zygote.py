"""The inside of the sandbox, run as a script of its own by :mod:`programs.code_output.sandbox`.

Three generations of processes, each with less power than the one before it:

* the *launcher* moves into namespaces of its own, watches the process that started it, and ends
  everything when that process ends;
* the *zygote*, its only child, is process 1 of those namespaces; it reads requests and runs none;
* a *guest* is forked from the zygote for each request, gives up whatever is left, runs the program,
  writes one report into a pipe and ends.

The protocol is lines of JSON: a request on standard input, an answer on standard output. What a
guest reports is passed on unread; docs/sandbox.md says what each layer holds. Standard library
only, Linux only: the script runs under ``python -S``.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import ctypes
import gc
import io
import json
import os
import platform
import resource
import select
import signal
import struct
import sys
import tempfile
import time
import types
from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn

MODULES: Final = frozenset(
    {
        "_strptime", "abc", "bisect", "collections", "collections.abc", "copy", "dataclasses",
        "datetime", "decimal", "enum", "fractions", "functools", "heapq", "itertools", "json",
        "math", "operator", "random", "re", "statistics", "string", "textwrap", "time", "types",
        "typing",
    }
)  # fmt: skip
"""What a program may import; loaded beforehand, since a guest cannot open files."""

EVENTS: Final = frozenset(
    {
        "array.__new__", "builtins.id", "compile", "exec", "object.__delattr__",
        "object.__getattr__", "object.__setattr__", "sys._getframe", "sys._getframemodulename",
        "sys.excepthook", "sys.unraisablehook", "time.sleep",
    }
)  # fmt: skip
"""Audit events of harmless programs; any other one ends the guest."""

SYSCALLS: Final[Mapping[str, tuple[int, tuple[int, ...]]]] = {
    # write mmap munmap mremap mprotect madvise brk futex exit exit_group rt_sigreturn clock_gettime
    # gettimeofday clock_nanosleep nanosleep getrandom getpid gettid sched_yield restart_syscall
    "x86_64": (
        0xC000003E,
        (1, 9, 11, 25, 10, 28, 12, 202, 60, 231, 15, 228, 96, 230, 35, 318, 39, 186, 24, 219),
    ),
    "aarch64": (
        0xC00000B7,
        (
            *(64, 222, 215, 216, 226, 233, 214, 98, 93, 94),
            *(139, 113, 169, 115, 101, 278, 172, 178, 124, 128),
        ),
    ),
}
"""Machine → (AUDIT_ARCH, the numbers of the system calls that a guest may make)."""

PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 1, 22, 38, 2
CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x08000000, 0x10000000, 1 << 29, 1 << 30
WATCH_SECONDS: Final = 0.5
"""How often the launcher looks whether its parent still lives."""


def main(parent: int, limits: Mapping[str, Any]) -> NoReturn:
    """Become launcher and zygote; serve until standard input ends.

    Args:
        parent: process id of whoever started this script; with its end this ends.
        limits: the fields of :class:`programs.code_output.sandbox.Limits`.
    """
    for name in sorted(MODULES):
        __import__(name)
    layers = ["limits", "audit"]
    libc = ctypes.CDLL(None, use_errno=True)
    with contextlib.suppress(OSError):
        _checked(libc.unshare(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWPID | CLONE_NEWIPC))
        layers.append("namespaces")
    zygote = os.fork()
    if zygote:
        _watch(parent, zygote)
    _checked(libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))
    if _leave_file_system():
        layers.append("empty root")
    _checked(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    _checked(libc.capset(struct.pack("II", 0x20080522, 0), bytes(24)))
    if _has_seccomp(libc):
        layers.append("seccomp")
    for which in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE):
        resource.setrlimit(which, (0, 0))
    gc.collect()
    gc.freeze()  # pages that a guest's collections would otherwise copy
    _answer({"layers": layers})
    while line := sys.stdin.buffer.readline():
        _answer(_serve(json.loads(line), limits, libc))
    os._exit(0)


def _watch(parent: int, zygote: int) -> NoReturn:
    """The launcher: wait for the end of the zygote or of the parent, whichever comes first.

    A parent-death signal would not do here: it follows the *thread* that started the script.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    os.closerange(0, 3)  # or the zygote's end would not be seen on the other side of its pipes
    while os.getppid() == parent and os.waitpid(zygote, os.WNOHANG) == (0, 0):
        signal.sigtimedwait({signal.SIGCHLD}, WATCH_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.kill(zygote, signal.SIGKILL)
    os._exit(0)


def _leave_file_system() -> bool:
    """Move into a directory that is already deleted; as root directory where that is allowed."""
    folder = tempfile.mkdtemp(prefix="fst-sandbox-")
    os.chdir(folder)
    os.rmdir(folder)
    try:
        os.chroot(".")
    except PermissionError:
        return False
    return True


def _has_seccomp(libc: Any) -> bool:
    """Whether filters can be set here: the kernel reads a null filter only if it knows filters."""
    libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, None, 0, 0)
    return ctypes.get_errno() == 14 and platform.machine() in SYSCALLS  # EFAULT


def confine_system_calls(libc: Any) -> None:
    """Let the kernel kill this process at any system call but those of :data:`SYSCALLS`.

    Raises:
        OSError: the kernel does not take the filter.
        KeyError: the machine is not one of those in :data:`SYSCALLS`.
    """
    architecture, numbers = SYSCALLS[platform.machine()]
    load, equal, give = 0x20, 0x15, 0x06  # of classic BPF
    kill, allow = 0x80000000, 0x7FFF0000  # SECCOMP_RET_KILL_PROCESS, SECCOMP_RET_ALLOW
    steps = [(load, 0, 0, 4), (equal, 1, 0, architecture), (give, 0, 0, kill), (load, 0, 0, 0)]
    steps += [(equal, len(numbers) - i, 0, number) for i, number in enumerate(numbers)]
    steps += [(give, 0, 0, kill), (give, 0, 0, allow)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = struct.pack("HxxxxxxP", len(steps), ctypes.addressof(code))
    _checked(libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0))


def _serve(request: Mapping[str, str], limits: Mapping[str, Any], libc: Any) -> dict[str, Any]:
    """Fork a guest, read what it reports within the limits, and see to its end."""
    reading, writing = os.pipe()
    guest = os.fork()
    if not guest:
        try:
            _guest(request, limits, writing, libc)
        finally:  # whatever went wrong: never return into the zygote's loop
            os._exit(1)
    os.close(writing)
    report, late = _read(reading, limits)
    os.close(reading)
    with contextlib.suppress(ProcessLookupError):
        os.kill(guest, signal.SIGKILL)  # finished, or not entitled to go on
    _, status = os.waitpid(guest, 0)
    ended_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    return {"report": report.decode("utf-8", "replace"), "late": late, "signal": ended_by}


def _read(pipe: int, limits: Mapping[str, Any]) -> tuple[bytes, bool]:
    """What arrives before the pipe ends, the time is up or it is too much; and if time was up."""
    ready = select.poll()
    ready.register(pipe, select.POLLIN)
    deadline = time.monotonic() + limits["wall_seconds"]
    most = 24 * limits["output_chars"] + 10_000  # a character is at most twelve in JSON
    report = b""
    while len(report) < most:
        left = deadline - time.monotonic()
        if left <= 0 or not ready.poll(left * 1000):
            return report, True
        part = os.read(pipe, 65536)
        if not part:
            break
        report += part
    return report, False


def _guest(request: Mapping[str, str], limits: Mapping[str, Any], pipe: int, libc: Any) -> NoReturn:
    """Give everything up, then run the program and report."""
    os.closerange(0, pipe)
    os.closerange(pipe + 1, 1024)
    seconds, memory = limits["cpu_seconds"], limits["memory_bytes"]
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))  # SIGXCPU, then SIGKILL
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))

    def report(kind: str, **texts: str) -> NoReturn:
        message = json.dumps({"kind": kind, **texts}).encode()
        while message:
            message = message[os.write(pipe, message) :]
        os._exit(0)

    def audit(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and str(arguments[0]).startswith("<"):
            raise FileNotFoundError  # a syntax error looks for its line in the file "<program>"
        if event not in EVENTS:
            what = arguments[0] if arguments and type(arguments[0]) in (str, bytes, int) else ""
            report("refused", error=f"{event} {what!r:.100}".removesuffix(" ''"))

    most = limits["output_chars"]
    stdout = _Stdout(most, lambda: report("too_long", error=f"it printed more than {most}"))
    sys.stdout = sys.stderr = stdout
    sys.stdin = None
    confine_system_calls(libc)
    sys.addaudithook(audit)
    try:
        value = _run(request, lambda name: report("refused", error=f"import of {name!r:.100}"))
        texts = {"value": value, "stdout": stdout.getvalue()}
    except MemoryError:
        report("memory")
    except BaseException as error:  # noqa: BLE001 - the program's, SystemExit included
        report("error", error=_describe(error), stdout=stdout.getvalue())
    if len(value) > most:
        report("too_long", error=f"the result has {len(value)} characters, more than {most}")
    report("value", **texts)


class _Stdout(io.StringIO):
    """Standard output of a guest, which ends when it gets too long."""

    def __init__(self, most: int, too_long: Callable[[], NoReturn]) -> None:
        super().__init__(newline="")
        self._most, self._too_long = most, too_long

    def write(self, text: str, /) -> int:
        if self.tell() + len(text) > self._most:
            self._too_long()
        return super().write(text)


def _run(request: Mapping[str, str], refuse: Callable[[str], NoReturn]) -> str:
    """Run the source; the ``repr`` of the function's value, or nothing if none is asked for."""

    def guarded(name: str, *rest: Any) -> types.ModuleType:
        return __import__(name, *rest) if name in MODULES else refuse(name)

    module = types.ModuleType("program")
    sys.modules["program"] = module  # where dataclasses and the like look themselves up
    scope = vars(module)
    scope["__builtins__"] = {**vars(builtins), "__import__": guarded}
    exec(compile(request["source"], "<program>", "exec", dont_inherit=True), scope)
    if not request["function"]:
        return ""
    arguments = ast.literal_eval(request["arguments"])
    if type(arguments) is not tuple:
        raise TypeError(f"arguments: got {type(arguments).__name__}, expected a tuple")
    return repr(scope[request["function"]](*arguments))


def _describe(error: BaseException) -> str:
    """``ZeroDivisionError: division by zero``, cut short."""
    try:
        words = str(error)
    except Exception:  # noqa: BLE001 - the program's own __str__
        words = ""
    return f"{type(error).__name__}: {words}"[:300].removesuffix(": ")


def _answer(message: Mapping[str, Any]) -> None:
    sys.stdout.buffer.write(json.dumps(message).encode() + b"\n")
    sys.stdout.buffer.flush()


def _checked(code: int) -> None:
    if code:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


if __name__ == "__main__":
    main(int(sys.argv[1]), json.loads(sys.argv[2]))

"""Break out of the sandbox, in every way that comes to mind; each has to be held and named."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from programs.code_output import sandbox as module
from programs.code_output.sandbox import Kind, Limits, Request, Result, Sandbox, SandboxError

ROOT = Path(__file__).resolve().parents[2]
SECRET = "a-key-that-must-not-leak"

INDEX = "IndexError: list index out of range"

WALK = """
os = next(c for c in ().__class__.__base__.__subclasses__() if c.__name__ == "_wrap_close")
os = os.__init__.__globals__
modules = os["sys"].modules
load = os["__builtins__"]["__import__"]
"""
"""The way from nothing to ``os``, ``sys.modules`` and the interpreter's own import."""


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SECRET", SECRET)
        with Sandbox(Limits(wall_seconds=3.0), workers=1) as box:
            assert box.layers >= {"audit", "limits", "seccomp"}
            yield box


def one(box: Sandbox, source: str, function: str = "", arguments: str = "()") -> Result:
    """The result of one request; the sandbox must be as good as new afterwards."""
    attack, after = box.run([Request(source, function, arguments), Request("print('still here')")])
    assert after == Result(Kind.VALUE, stdout="still here\n")
    return attack


# --- what programs may do ---


@pytest.mark.parametrize(
    ("source", "function", "arguments", "expected"),
    [
        ("def f(n): return n + 1", "f", "(41,)", Result(Kind.VALUE, "42")),
        ("def f(a, b): return b, a", "f", "('x', [1])", Result(Kind.VALUE, "([1], 'x')")),
        ("print('a', 1)\nprint('ü\\ud800')", "", "()", Result(Kind.VALUE, "", "a 1\nü\ud800\n")),
        ("def f(): print('p'); return 1", "f", "()", Result(Kind.VALUE, "1", "p\n")),
        ("print(1)\n[][0]", "", "()", Result(Kind.ERROR, "", "1\n", INDEX)),
        ("def f(): return f()", "f", "()", None),
        ("raise SystemExit(3)", "", "()", Result(Kind.ERROR, error="SystemExit: 3")),
        ("def f(): pass", "g", "()", Result(Kind.ERROR, error="KeyError: 'g'")),
        ("def f(n): return n", "f", "(__import__('os'),)", None),
        ("def f(n): return n", "f", "3", None),
        ("input()", "", "()", None),
        ("return 3", "", "()", None),
        ("x = (", "", "()", None),
        ("\0", "", "()", None),
    ],
)  # fmt: skip
def test_a_program_is_run_and_its_end_reported(
    box: Sandbox, source: str, function: str, arguments: str, expected: Result | None
) -> None:
    result = one(box, source, function, arguments)
    assert result.kind is Kind.ERROR if expected is None else result == expected


def test_the_harmless_part_of_the_standard_library_can_be_imported(box: Sandbox) -> None:
    source = """
import dataclasses, datetime, decimal, json, random, re, statistics, time
from collections import Counter, namedtuple
@dataclasses.dataclass
class Point:
    x: int
time.sleep(0.01)
random.Random().random()
print(Point(3), Counter("aab").most_common(1), namedtuple("T", "a", defaults=[1])())
print(datetime.datetime.strptime("2020", "%Y").year, decimal.Decimal("0.1") + 1)
print(json.dumps([re.findall("a+", "aab"), statistics.mean([1, 2])]))
"""
    expected = "Point(x=3) [('a', 2)] T(a=1)\n2020 1.1\n[[\"aa\"], 1.5]\n"
    assert one(box, source) == Result(Kind.VALUE, stdout=expected)


def test_the_order_in_a_set_is_the_same_in_every_run() -> None:
    source = "def f(): return list({w for w in 'one two three four five six'.split()})"
    values: set[str] = set()
    for _ in range(3):
        with Sandbox(workers=1) as fresh:
            values.add(fresh.run([Request(source, "f")])[0].value)
    assert len(values) == 1


# --- what they may not ---


REFUSED = {
    "read a file": ("open('/etc/passwd').read()", "open '/etc/passwd'"),
    "write a file": ("open('x', 'w')", "open 'x'"),
    "swallow the refusal": ("try: open('x')\nexcept BaseException: pass", "open 'x'"),
    "import os": ("import os", "import of 'os'"),
    "import ctypes": ("import ctypes", "import of 'ctypes'"),
    "import a submodule": ("import json.tool", "import of 'json.tool'"),
    "walk to os.open": (WALK + "os['open']('/etc/passwd', 0)", "open '/etc/passwd'"),
    "walk to a listing": (WALK + "os['listdir']('/')", "os.listdir '/'"),
    "walk to io": (WALK + "modules['io'].FileIO('/etc/passwd')", "open '/etc/passwd'"),
    "the real import": (WALK + "load('socket')", "import 'socket'"),
    "a socket": (WALK + "load('_socket').socket()", "import '_socket'"),
    "os.system": (WALK + "os['system']('true')", "os.system b'true'"),
    "exec": (WALK + "os['execv']('/bin/true', ['true'])", "os.exec '/bin/true'"),
    "a subprocess": (WALK + "load('_posixsubprocess')", "import '_posixsubprocess'"),
    "a fork": (WALK + "os['fork']()", "os.fork"),
    "a fork bomb": (WALK + "while True: os['fork']()", "os.fork"),
    "a thread": (WALK + "load('_thread').start_new_thread(print, ())", None),
    "loaded ctypes": (WALK + "modules['ctypes'].CDLL(None)", None),
    "raw memory": (WALK + "modules['ctypes'].string_at(0)", "ctypes.string_at 0"),
    "kill the zygote": (WALK + "os['kill'](1, 9)", "os.kill 1"),
    "kill its group": (WALK + "os['killpg'](0, 9)", "os.killpg 0"),
    "look at the parent": (WALK + "os['getppid']()", "a system call"),
    "open a pipe": (WALK + "os['pipe']()", "a system call"),
    "close the report": (WALK + "for fd in range(99): os['close'](fd)", "a system call"),
    "stat": (WALK + "os['stat']('/etc/passwd')", "a system call"),
    "read a descriptor": (WALK + "os['read'](0, 1)", "a system call"),
    "ignore SIGXCPU": (WALK + "modules['signal'].signal(24, lambda *_: None)", "a system call"),
    "an alarm": (WALK + "modules['signal'].alarm(1)", "a system call"),
    "raise its limits": (WALK + "modules['resource'].setrlimit(7, (99, 99))", None),
    "unlink": (WALK + "os['unlink']('x')", "os.remove 'x'"),
    "other objects": ("import types\n" + WALK + "load('gc').get_objects()", "gc.get_objects -1"),
    "bytecode": ("f = lambda: 1\nf.__code__.replace(co_code=b'zz')", None),
    "a debugger": ("breakpoint()", None),
    "another hook": (WALK + "os['sys'].addaudithook(print)", "sys.addaudithook"),
    "a trace": (WALK + "os['sys'].settrace(print)", "sys.settrace"),
}


@pytest.mark.parametrize("attack", REFUSED)
def test_an_attempt_is_refused(box: Sandbox, attack: str) -> None:
    source, words = REFUSED[attack]
    result = one(box, source)
    assert result.kind is Kind.REFUSED, result
    assert words is None or result.error == words


def test_a_listening_port_is_not_reached(box: Sandbox) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        port = server.getsockname()[1]
        code = f"load('socket').create_connection(('127.0.0.1', {port}))"
        assert one(box, WALK + code).kind is Kind.REFUSED
        with pytest.raises(TimeoutError):
            server.accept()


def test_no_file_is_written(box: Sandbox, tmp_path: Path) -> None:
    target = tmp_path / "out"
    assert one(box, f"open({str(target)!r}, 'w').write('x')").kind is Kind.REFUSED
    assert not target.exists()


def test_the_environment_is_empty(box: Sandbox) -> None:
    result = one(box, WALK + "def f(): return sorted(os['environ'])", "f")
    assert result.kind is Kind.VALUE
    assert set(eval(result.value)) <= {"PYTHONHASHSEED", "PYTHONUTF8", "LC_CTYPE"}
    argv = one(box, WALK + "def f(): return os['sys'].argv, os['sys'].path", "f")
    assert SECRET not in argv.value
    assert "site-packages" not in argv.value


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("x = [0] * 10**10", Kind.MEMORY),
        ("x = []\nwhile True: x.append('x' * 10**6)", Kind.MEMORY),
        ("while True: pass", Kind.TIMEOUT),
        ("while True:\n  try:\n    while True: pass\n  except BaseException: pass", Kind.TIMEOUT),
        ("10 ** 10 ** 9", Kind.TIMEOUT),
        ("import re\nre.match('(a*)*b', 'a' * 50)", Kind.TIMEOUT),
        ("import time\ntime.sleep(60)", Kind.TIMEOUT),
        ("print('x' * 10**6)", Kind.TOO_LONG),
        ("while True: print('x')", Kind.TOO_LONG),
        ("try:\n  while True: print('x')\nexcept BaseException: pass", Kind.TOO_LONG),
    ],
)
def test_what_takes_too_much_is_stopped(box: Sandbox, source: str, kind: Kind) -> None:
    started = time.monotonic()
    assert one(box, source).kind is kind
    assert time.monotonic() - started < 20


def test_a_result_that_is_too_long_is_not_returned(box: Sandbox) -> None:
    result = one(box, "def f(): return 'x' * 20_000", "f")
    assert (result.kind, result.value) == (Kind.TOO_LONG, "")
    assert "20002 characters, more than 10000" in result.error


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("class E(Exception):\n  def __str__(self): raise E\nraise E", Kind.ERROR),
        ("class E(Exception):\n  def __str__(self): return 'x' * 10**6\nraise E", Kind.ERROR),
        ("class R:\n  def __repr__(self): while_true\ndef f(): return R()", Kind.ERROR),
        (WALK + "os['_exit'](0)", Kind.CRASHED),
        (WALK + "os['abort']()", Kind.REFUSED),
        ("def f(x=[]):\n  x.append(x)\n  return x", Kind.VALUE),
    ],
)
def test_a_program_that_is_odd_to_report(box: Sandbox, source: str, kind: Kind) -> None:
    result = one(box, source, "f" if "def f" in source else "")
    assert result.kind is kind
    assert len(result.error) <= 300


@pytest.mark.parametrize(
    "lie", ["b'x'", "b'\\n{}\\n'", "b'[' * 99999", "b'{\"kind\": 3}'", "bytes(300_000)"]
)
def test_writing_to_descriptors_harms_only_the_report(box: Sandbox, lie: str) -> None:
    source = f"""{WALK}
for fd in range(100):
    try: os["write"](fd, {lie})
    except OSError: pass
"""
    assert one(box, source).kind is Kind.CRASHED


def test_a_forged_report_is_a_lie_about_itself(box: Sandbox) -> None:
    """What docs/sandbox.md does not promise: the report is the guest's own word."""
    forged = b'{"kind": "value", "value": "42"}'
    source = f"""{WALK}
for fd in range(100):
    try: os["write"](fd, {forged!r})
    except OSError: pass
os["_exit"](0)
"""
    assert one(box, source) == Result(Kind.VALUE, "42")


def test_a_guest_leaves_nothing_behind_for_the_next(box: Sandbox) -> None:
    spoil = WALK + "modules['json'].dumps = None\nmodules['builtins'].len = None\nx = 1"
    first, second = box.run(
        [Request(spoil), Request("def f(): return len('ab'), 'x' in globals()", "f")]
    )
    assert first.kind is Kind.CRASHED  # it broke what reports for it
    assert second == Result(Kind.VALUE, "(2, False)")


# --- the kernel's part, without the hook ---


KERNEL = """
import importlib.util, os, signal, socket, ctypes, sys
spec = importlib.util.spec_from_file_location("zygote", sys.argv[1])
zygote = importlib.util.module_from_spec(spec)
spec.loader.exec_module(zygote)
listening = socket.create_server(("127.0.0.1", 0))
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl(zygote.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
child = os.fork()
if not child:
    zygote.confine_system_calls(libc)
    exec(sys.argv[2])
    os._exit(7)
status = os.waitpid(child, 0)[1]
print("SIGSYS" if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGSYS else status)
"""


@pytest.mark.parametrize(
    "attack",
    [
        "open('/etc/passwd')",
        "open('/tmp/x', 'w')",
        "socket.socket()",
        "listening.accept()",
        "os.fork()",
        "os.kill(os.getpid(), 0)",
        "os.execv('/bin/true', ['true'])",
        "libc.ptrace(0, 0, 0, 0)",
        "libc.unshare(0)",
        "libc.syscall(0x40000000 + 1, 1, b'x', 1)",
        "libc.prctl(22, 2, 0, 0, 0)",
        "import threading; threading.Thread(target=print).start()",
    ],
)
def test_the_filter_alone_stops_it(attack: str) -> None:
    zygote = ROOT / "programs/code_output/zygote.py"
    command = [sys.executable, "-c", KERNEL, str(zygote), attack]
    assert subprocess.check_output(command, text=True).strip() == "SIGSYS"


def test_the_filter_lets_a_program_compute() -> None:
    zygote = ROOT / "programs/code_output/zygote.py"
    work = "import time; time.sleep(0.01); x = [i for i in range(10**6)]; os.urandom(8)"
    command = [sys.executable, "-c", KERNEL, str(zygote), work]
    assert subprocess.check_output(command, text=True).strip() == str(7 << 8)


def test_the_namespaces_are_its_own(box: Sandbox) -> None:
    if "namespaces" not in box.layers:
        pytest.skip("this kernel does not let users make namespaces")
    inside = (p for p in processes() if p.ppid() != os.getpid())
    zygote = max(inside, key=lambda p: p.create_time())  # other tests leave the shared one
    for name in ("user", "net", "pid", "ipc"):
        ours, theirs = (os.readlink(f"/proc/{pid}/ns/{name}") for pid in (os.getpid(), zygote.pid))
        assert ours != theirs
    assert os.readlink(f"/proc/{zygote.pid}/root").endswith("(deleted)")
    status = Path(f"/proc/{zygote.pid}/status").read_text("utf-8")
    assert "CapEff:\t0000000000000000" in status
    assert "NoNewPrivs:\t1" in status


# --- threads, and the end of processes ---


def processes() -> list[psutil.Process]:
    """The sandboxes' processes below this one."""
    found: list[psutil.Process] = []
    for process in psutil.Process().children(recursive=True):
        if any("zygote.py" in word for word in process.cmdline()):
            found.append(process)
    return found


def gone(pids: set[int], seconds: float = 10.0) -> bool:
    """Whether all processes end in time; a zombie has ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        alive = [p for p in pids if psutil.pid_exists(p)]
        if all(psutil.Process(p).status() == psutil.STATUS_ZOMBIE for p in alive):
            return True
        time.sleep(0.05)
    return False


def test_many_threads_share_a_sandbox() -> None:
    def ask(n: int) -> list[str]:
        requests = [Request("def f(n): return n * n", "f", f"({n + i},)") for i in range(3)]
        return [result.value for result in box.run(requests)]

    with Sandbox(workers=2) as box, ThreadPoolExecutor(64) as threads:
        answers = list(threads.map(ask, range(128)))
    assert answers == [[str((n + i) ** 2) for i in range(3)] for n in range(128)]


def test_close_ends_every_process_even_a_busy_one() -> None:
    before = {process.pid for process in processes()}
    box = Sandbox(Limits(wall_seconds=60.0), workers=2)
    failed = threading.Event()

    def sleep() -> None:
        with pytest.raises(SandboxError, match="closed"):
            box.run([Request("import time\ntime.sleep(50)")])
        failed.set()

    thread = threading.Thread(target=sleep)
    thread.start()
    while len(own := {process.pid for process in processes()} - before) < 3:
        time.sleep(0.05)  # launcher, zygote, guest
    box.close()
    assert failed.wait(10)
    assert gone(own)
    thread.join()
    box.close()
    with pytest.raises(SandboxError, match="closed"):
        box.run([Request("1")])


def test_a_worker_killed_from_outside_is_replaced() -> None:
    before = {process.pid for process in processes()}
    with Sandbox(workers=1) as box:
        assert box.run([Request("1")])[0].kind is Kind.VALUE
        own = {process.pid for process in processes()} - before
        assert len(own) == 2
        for pid in own:
            os.kill(pid, signal.SIGKILL)
        assert gone(own)
        assert box.run([Request("1")])[0].kind is Kind.VALUE


VICTIM = """
import threading, time
from programs.code_output.sandbox import Limits, Request, Sandbox
box = Sandbox(Limits(wall_seconds=99.0), workers=1)
busy = Request("import time; time.sleep(90)")
# The thread that starts the worker ends, the process lives on: the worker must, too.
starter = threading.Thread(target=lambda: box.run([Request("")]))
starter.start(); starter.join(); time.sleep(1.2)
threading.Thread(target=box.run, args=([busy],), daemon=True).start()
print("ready", flush=True)
time.sleep(90)
"""


def test_nothing_outlives_a_parent_that_is_killed() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", VICTIM], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as victim:
        assert victim.stdout is not None
        assert victim.stdout.readline() == "ready\n"
        family: set[int] = set()
        while len(family) < 3:
            family = {p.pid for p in psutil.Process(victim.pid).children(recursive=True)}
            time.sleep(0.05)
        victim.kill()
    assert gone(family)


FORKED = """
import os
from programs.code_output.sandbox import Request, default, run
first = run([Request("def f(): return 1", "f")])[0].value
child = os.fork()
answer = run([Request("def f(): return 2", "f")])[0].value
assert answer == "2", answer
if not child:
    default().close()
    os._exit(5)
assert os.waitpid(child, 0)[1] == 5 << 8
print(first, run([Request("def f(): return 3", "f")])[0].value)
"""


def test_a_forked_process_gets_workers_of_its_own() -> None:
    answer = subprocess.check_output([sys.executable, "-c", FORKED], cwd=ROOT, text=True)
    assert answer == "1 3\n"


def test_other_platforms_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with Sandbox() as box, pytest.raises(SandboxError, match=r"got darwin, expected linux.*Linux"):
        box.run([Request("1")])


def test_the_default_sandbox_is_one() -> None:
    assert module.default() is module.default()
    assert module.run([Request("def f(): return 1", "f")]) == [Result(Kind.VALUE, "1")]

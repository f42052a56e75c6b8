"""Code of one's own that a run file names: ``module:name`` or ``path/to/file.py:name``."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import sys
import sysconfig
import traceback
from collections.abc import Generator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import fst_agents
from fst_agents._layout import PACKAGES
from fst_agents.errors import ConfigError

_OURS = [Path(fst_agents.__file__).resolve().parents[1] / package for package in PACKAGES]
_STDLIB = Path(sysconfig.get_path("stdlib")).resolve()


def load(key: str, reference: str) -> Any:
    """What a reference names.

    While the module is imported the current directory comes first on ``sys.path``, and before it
    the folder of a file that is named by its path. Afterwards neither is there: modules of one's
    own that are needed later must be imported at the top, not inside functions.

    Args:
        key: the key of the run file, for the message.
        reference: ``module:name`` or ``path/to/file.py:name``; the name may have dots.

    Raises:
        ConfigError: one line that says what is wrong, and where in the user's own code.
    """
    place, _, name = reference.rpartition(":")
    is_file = place.endswith(".py")
    if not name or not (is_file or all(part.isidentifier() for part in place.split("."))):
        raise ConfigError(
            f"{key}: got {reference!r}; expected 'module:name' or 'path/to/file.py:name'"
        )
    module = _file(key, Path(place).expanduser()) if is_file else _module(key, place)
    found: Any = module
    for part in name.split("."):
        with running(key, f"looking up {name} in {place}"):
            known = hasattr(found, part)
        if not known:
            own = [n for n, value in vars(module).items() if _defined_in(module, value)]
            raise ConfigError(
                f"{key}: {place} has no {name!r}; it defines {', '.join(own) or 'nothing'}"
            )
        found = getattr(found, part)
    return found


@contextlib.contextmanager
def running(key: str, what: str) -> Generator[None]:
    """The boundary between a user's code and us: what it raises becomes one line.

    Raises:
        ConfigError: ``what`` raised which error, and in which line of the user's own code.
    """
    try:
        yield
    except (Exception, SystemExit) as error:
        said = " ".join(str(error).split())
        kind = type(error).__name__
        raise ConfigError(
            f"{key}: {what} raised {kind}{': ' if said else ''}{said}{_place(error)}"
        ) from error


def _module(key: str, place: str) -> ModuleType:
    root = place.split(".")[0]
    here = Path.cwd()
    for package in PACKAGES:  # before the current directory can offer others of the same names
        importlib.import_module(package)
    own = [here / f"{root}.py", here / root / "__init__.py"]
    candidates = [*own, here / root] if root in PACKAGES else own
    local = next((path for path in candidates if path.exists()), None)
    loaded = getattr(sys.modules.get(root), "__file__", None)
    if local and loaded and Path(loaded).resolve() not in [path.resolve() for path in own]:
        owner = "a package of fst-agents" if root in PACKAGES else "a module in use"
        raise ConfigError(
            f"{key}: {local} cannot be imported, for {root!r} is already the name of {owner} "
            f"({loaded}); rename yours, or give a path: 'path/to/file.py:name'"
        )
    with running(key, f"importing {place}"), _importable([here]):
        try:
            return importlib.import_module(place)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{place}.".startswith(f"{error.name}."):
                raise  # the module is there, and something that it needs is not
            missing = error.name
    raise ConfigError(
        f"{key}: no module {missing!r} in {here} or among what is installed; change to its folder, "
        "or give the path of the file: 'path/to/file.py:name'"
    )


def _file(key: str, path: Path) -> ModuleType:
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:  # a name with a null character is a ValueError
        raise ConfigError(f"{key}: {path} cannot be read: {error}") from error
    # The name is the file's and its content's: what is named twice is loaded once.
    digest = hashlib.sha256(str(path.resolve()).encode() + content).hexdigest()[:12]
    name = f"{path.stem}_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module  # dataclasses and pydantic look there while it runs
    try:
        with running(key, f"importing {path}"), _importable([path.resolve().parent, Path.cwd()]):
            exec(compile(content, str(path), "exec"), vars(module))
    except BaseException:
        del sys.modules[name]
        raise
    return module


@contextlib.contextmanager
def _importable(folders: Sequence[Path]) -> Generator[None]:
    added = [str(folder) for folder in folders]
    sys.path[:0] = added
    importlib.invalidate_caches()
    try:
        yield
    finally:
        for folder in added:
            with contextlib.suppress(ValueError):  # the user's module took it away itself
                sys.path.remove(folder)


def _place(error: BaseException) -> str:
    """The deepest line of the user's own code that an error came through."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({error.filename}:{error.lineno})"
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename).resolve()
        foreign = any(file.is_relative_to(folder) for folder in [_STDLIB, *_OURS])
        if file.is_file() and not foreign and "site-packages" not in file.parts:
            return f" ({frame.filename}:{frame.lineno})"
    return ""


def _defined_in(module: ModuleType, value: Any) -> bool:
    return getattr(value, "__module__", None) == module.__name__

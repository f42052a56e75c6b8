"""Folders that a user names for what a command writes."""

from __future__ import annotations

from pathlib import Path

from fst_agents.errors import RunDirError


def new_folder(path: Path) -> None:
    """Make a folder that was not there.

    Raises:
        RunDirError: it exists, or cannot be made.
    """
    try:
        path.mkdir(parents=True)
    except FileExistsError as error:
        raise RunDirError(f"{path}: exists already; name a new folder") from error
    except (OSError, ValueError) as error:  # a name with a null character is a ValueError
        raise RunDirError(f"{path}: cannot be made: {error}; name another folder") from error

"""Files that are either whole or not there."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from lrat.errors import RunFolderError


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Give ``path`` the bytes that ``write`` puts out, or leave it as it was.

    Written beside it, synced to the disk, then renamed; a kill at any moment leaves the old file
    or the new one. Raises ``RunFolderError`` on a full disk or a read-only folder.
    """
    beside = temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(beside, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
        _sync_folder(path.parent)
    except OSError as error:
        _discard(beside)
        reason = error.strerror or str(error)
        raise RunFolderError(
            f"cannot write {path}: {reason}; free space or make the folder writable, "
            "then run the same command again"
        ) from error
    except BaseException:
        _discard(beside)
        raise


def temporary(path: Path) -> Path:
    """Where the bytes of ``path`` gather before the rename."""
    return path.with_name(f".{path.name}.tmp")


def _discard(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        # The folder became unreadable: the error under way says so.
        return


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where the system lets folders be opened."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

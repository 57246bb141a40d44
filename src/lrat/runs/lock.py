"""One process at a time trains in a run folder."""

import errno
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lrat.errors import RunFolderError
from lrat.files.read import check_inside
from lrat.files.write import discard

LOCK = ".lock"
_POLL_SECONDS = 0.2
_ATTEMPTS = 5
_NO_LOCKS_HERE = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


class _InUseError(RunFolderError):
    """Somebody else holds the folder, or did until a moment ago."""


@contextmanager
def locked(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold ``folder`` for this process alone; RunFolderError if another one holds it, or with
    ``wait`` as soon as that one has ended.

    Two runs in one folder would overwrite each other's checkpoints. The system lets the lock go
    when its process ends, however it ends, so what a killed process leaves hinders nobody. The
    file, and a folder that was made for it alone, are gone afterwards. On systems or file systems
    without such locks nothing is held.
    """
    try:
        import fcntl  # noqa: F401 - not on a system that is not POSIX
    except ImportError:
        yield
        return
    while True:
        made = [place for place in (folder, *folder.parents) if not place.exists()]
        try:
            descriptor = _taken(folder)
            break
        except _InUseError:
            if not wait:
                raise
            time.sleep(_POLL_SECONDS)
    try:
        with suppress(OSError):  # on a full disk whoever waits is told no number
            os.ftruncate(descriptor, 0)
            os.write(descriptor, str(os.getpid()).encode())
        try:
            yield
        finally:
            # While it is held: nobody else can have locked this file.
            discard(folder / LOCK)
            for place in made:
                with suppress(OSError):  # something was written there
                    place.rmdir()
    finally:
        os.close(descriptor)


@contextmanager
def alone(place: Path) -> Iterator[None]:
    """Do something while no other process does it too; ``place`` is a folder for the lock alone,
    gone afterwards, also where a killed process had left it."""
    try:
        with locked(place, wait=True):
            yield
    finally:
        with suppress(OSError):  # another process has it now
            place.rmdir()


def _taken(folder: Path) -> int:
    """The lock file of ``folder``, locked where that is possible."""
    import fcntl

    descriptor = _open(folder)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 20).decode(errors="replace")
            raise _InUseError(
                f"{folder} is in use{holder and f' by process {holder}'}: wait until that run has "
                "ended, or choose another --out"
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS_HERE:
                raise RunFolderError(f"cannot lock {folder}: {error.strerror}") from error
        _check_still_there(folder, descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _open(folder: Path) -> int:
    """The lock file of ``folder``, both made where they are missing."""
    try:
        check_inside(folder / LOCK)
        _make(folder)
        # Whose folder this is may have put a link or a pipe there.
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
        descriptor = os.open(folder / LOCK, flags, 0o666)
    except FileExistsError:
        raise RunFolderError(f"{folder} is a file: choose another --out") from None
    except OSError as error:
        if isinstance(error, FileNotFoundError) and _can_hold(folder):
            # Its holder removed the folder as well.
            raise _InUseError(f"{folder} was in use until a moment ago: try again") from None
        raise RunFolderError(
            f"cannot write {folder / LOCK}: {error.strerror}; choose another --out, or make the "
            "folder writable"
        ) from error
    about = os.fstat(descriptor)
    if stat.S_ISREG(about.st_mode) and about.st_nlink < 2:
        return descriptor
    os.close(descriptor)
    raise RunFolderError(f"{folder / LOCK} is no file of a run: remove it")


def _can_hold(folder: Path) -> bool:
    """Whether the folder is there or can be made: below ``/proc`` it cannot."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError:
        return False
    return True


def _make(folder: Path) -> None:
    """``folder`` and what is above it, where holders may remove them meanwhile."""
    for _ in range(_ATTEMPTS):
        with suppress(FileNotFoundError):
            folder.mkdir(parents=True, exist_ok=True)
            return
    raise RunFolderError(f"cannot make the folder {folder} there: choose another --out")


def _check_still_there(folder: Path, descriptor: int) -> None:
    """Refuse a file that its holder removed between our opening and our locking it."""
    ours = os.fstat(descriptor)
    try:
        there = os.stat(folder / LOCK)
    except FileNotFoundError:
        there = None
    if there is None or (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino):
        raise _InUseError(f"{folder} was in use until a moment ago: try again")

"""One process at a time trains in a run folder."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import repeat
from pathlib import Path

from lrat.errors import RunFolderError
from lrat.files.read import check_inside
from lrat.files.write import discard

LOCK = ".lock"
_ATTEMPTS = 5
_NO_LOCKS_HERE = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


@contextmanager
def locked(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold ``folder`` for this process alone; RunFolderError if another one holds it, or with
    ``wait`` as soon as that one has ended.

    Two runs in one folder would overwrite each other's checkpoints. The system releases the lock
    when its process ends, however it ends, so what a killed process leaves hinders nobody. The
    file, and a folder created for it alone, are removed afterwards. On systems or file systems
    without such locks nothing is held.
    """
    try:
        import fcntl  # noqa: F401 - not on a system that is not POSIX
    except ImportError:
        yield
        return
    descriptor, created = _hold(folder, wait=wait)
    try:
        with suppress(OSError):  # on a full disk a process that is refused sees no number
            os.ftruncate(descriptor, 0)
            os.write(descriptor, str(os.getpid()).encode())
        try:
            yield
        finally:
            # While it is held: nobody else can have locked this file.
            discard(folder / LOCK)
            for each in created:
                with suppress(OSError):  # something was written there
                    each.rmdir()
    finally:
        os.close(descriptor)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Do something while no other process does it too; ``folder`` is for the lock alone, gone
    afterwards, also where a killed process had left it."""
    try:
        with locked(folder, wait=True):
            yield
    finally:
        with suppress(OSError):  # another process has it now
            folder.rmdir()


def _hold(folder: Path, *, wait: bool) -> tuple[int, list[Path]]:
    """The lock file, locked where that is possible, and the folders that were made for it.

    Its last holder may remove the file, and the folder too, between any two steps here.
    """
    for _ in repeat(None) if wait else range(_ATTEMPTS):
        created = [each for each in (folder, *folder.parents) if not each.exists()]
        with suppress(FileNotFoundError):
            descriptor = _open(folder)
            try:
                _lock(folder, descriptor, wait=wait)
                is_there = os.path.samestat(os.fstat(descriptor), os.stat(folder / LOCK))
            except BaseException:
                os.close(descriptor)
                raise
            if is_there:
                return descriptor, created
            os.close(descriptor)
    raise RunFolderError(f"{folder} was in use until a moment ago: try again")


def _lock(folder: Path, descriptor: int, *, wait: bool) -> None:
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        holder = os.read(descriptor, 20).decode(errors="replace")
        raise RunFolderError(
            f"{folder} is in use{holder and f' by process {holder}'}: wait until that run has "
            "ended, or choose another --out"
        ) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS_HERE:
            raise RunFolderError(f"cannot lock {folder}: {error.strerror}") from error


def _open(folder: Path) -> int:
    """The lock file of ``folder``, both made where they are missing; ``FileNotFoundError`` where a
    holder removed the folder meanwhile."""
    try:
        check_inside(folder / LOCK)
        _make(folder)
        # Whose folder this is may have put a link or a pipe there.
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
        descriptor = os.open(folder / LOCK, flags, 0o666)
    except FileNotFoundError:
        raise
    except FileExistsError:
        raise RunFolderError(f"{folder} is a file: choose another --out") from None
    except OSError as error:
        raise RunFolderError(
            f"cannot write {folder / LOCK}: {error.strerror}; choose another --out, or make the "
            "folder writable"
        ) from error
    about = os.fstat(descriptor)
    if stat.S_ISREG(about.st_mode) and about.st_nlink < 2:
        return descriptor
    os.close(descriptor)
    raise RunFolderError(f"{folder / LOCK} is no file of a run: remove it")


def _make(folder: Path) -> None:
    """``folder`` and what is above it, where holders may remove them meanwhile."""
    for _ in range(_ATTEMPTS**2):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return
        except FileNotFoundError:
            continue
        except FileExistsError:  # also of a folder that was there, and is no more
            if folder.exists() and not folder.is_dir():
                raise
    raise RunFolderError(f"cannot make the folder {folder} there: choose another --out")

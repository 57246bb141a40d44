"""Files that are either whole or not there: bytes, text, JSON, columnar tables."""

import errno
import io
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt

from lrat.errors import RunFolderError
from lrat.reading import check_inside, open_stored
from lrat.text import reason

TABLE_SUFFIXES = (".parquet", ".npz")
Columns: TypeAlias = dict[str, npt.NDArray[Any]]
"""A table: arrays of equal length by name."""
Write: TypeAlias = Callable[[BinaryIO], object]
_VISIBLE_WITHIN_SECONDS = 30.0
_LOOK_EVERY_SECONDS = 0.5


def write_atomically(path: Path, write: Write) -> None:
    """Give ``path`` the bytes that ``write`` puts out, or leave it as it was.

    Written beside it, synced to the disk, then renamed, and the folder synced; a kill at any moment
    leaves the old file or the new one. Raises ``RunFolderError`` on a full disk or a read-only
    folder, also where ``write`` is of a library that gives such errors other names.
    """
    write_together((path, write))


def write_together(*files: tuple[Path, Write]) -> None:
    """Several files of one folder as ``write_atomically``: none is renamed before all are written.

    They are written and renamed in the given order; a kill between two renames leaves some of them
    new.
    """
    besides = [temporary(path) for path, _ in files]
    try:
        for (path, write), beside in zip(files, besides, strict=True):
            _write_beside(path, beside, write)
        for (path, _), beside in zip(files, besides, strict=True):
            try:
                os.replace(beside, path)
                sync_folder(path.parent)
            except OSError as error:
                raise unwritable(path, error) from error
    except BaseException:
        for beside in besides:
            discard(beside)
        raise


def _write_beside(path: Path, beside: Path, write: Write) -> None:
    raw: _Watched | None = None
    try:
        check_inside(path.parent)
        make_folder(path.parent)
        raw = _Watched(beside, "wb")
        with io.BufferedWriter(raw) as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
    except Exception as error:
        known = None if raw is None else raw.failure
        failure = error if isinstance(error, OSError) else known
        if failure is None:
            raise
        raise unwritable(path, failure) from error


def append_line(path: Path, line: str) -> None:
    """Add ``line`` and a line end, whole or not at all; ``RunFolderError`` if it is not at all."""
    try:
        check_inside(path)
        with open(path, "ab", buffering=0) as file:
            before = file.seek(0, os.SEEK_END)
            content = f"{line}\n".encode()
            try:
                written = file.write(content)
                if written < len(content):
                    # A nearly full disk takes a part; the rest says why it cannot be taken.
                    file.write(content[written:])
            except OSError:
                file.truncate(before)
                raise
    except OSError as error:
        raise unwritable(path, error) from error


def make_folder(folder: Path) -> None:
    """Make ``folder`` and what is above it, durably."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for place in missing:
        sync_folder(place.parent)


def unwritable(path: Path, error: OSError) -> RunFolderError:
    """What to tell whoever's disk is full or whose folder is read-only."""
    cure = (
        "put a folder or file of its own in its place"
        if error.errno == errno.ELOOP
        else "free space or make the folder writable"
    )
    return RunFolderError(
        f"cannot write {path}: {reason(error)}; {cure}, then run the same command again"
    )


class _Watched(io.FileIO):
    """A file that remembers why it could not be written."""

    failure: OSError | None = None

    def write(self, content: Any, /) -> int:
        try:
            return super().write(content)
        except OSError as error:
            self.failure = error
            raise


def temporary(path: Path) -> Path:
    """Where the bytes of ``path`` gather before the rename."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def remove_leftovers(*folders: Path) -> None:
    """Remove what writes of killed processes left beside their files; nobody else may write."""
    for folder in folders:
        for path in folder.glob(".*.tmp"):
            discard(path)


def write_text(path: Path, text: str) -> None:
    """UTF-8 text, atomically."""
    write_atomically(path, lambda file: file.write(text.encode()))


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """JSON without NaN or infinity, atomically."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_table(stem: Path, columns: Mapping[str, npt.NDArray[Any]]) -> Path:
    """A table atomically as Parquet, or as .npz with the same columns where pyarrow is missing.

    ``stem`` is the path without its ending; returns the path with it.
    """
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError:
        path = stem.with_name(f"{stem.name}.npz")
        arrays: dict[str, Any] = dict(columns)
        write_atomically(path, lambda file: np.savez_compressed(file, **arrays))
        return path

    path = stem.with_name(f"{stem.name}.parquet")
    write_atomically(path, lambda file: parquet.write_table(arrow.table(dict(columns)), file))
    return path


def read_table(path: Path, columns: Sequence[str] | None = None) -> Columns:
    """The columns that ``write_table`` wrote, or these of them; raises whatever numpy or pyarrow do
    on damage."""
    if path.suffix == ".npz":
        # Opened here: numpy leaves a damaged archive's file open.
        with open_stored(path) as stream, np.load(stream, allow_pickle=False) as archive:
            return {name: archive[name] for name in columns or archive.files}
    try:
        from pyarrow import parquet
    except ImportError:
        raise RunFolderError("reading Parquet needs pyarrow: pip install pyarrow") from None
    with open_stored(path) as stream, parquet.ParquetFile(stream) as file:
        chosen = None if columns is None else list(columns)
        table = file.read(columns=chosen, use_threads=False)
    return {name: table[name].to_numpy() for name in chosen or table.column_names}


def appears(path: Path) -> bool:
    """Whether a file that another process has written is seen here: network file systems show new
    files late, so after half a minute at most."""
    deadline = time.monotonic() + _VISIBLE_WITHIN_SECONDS
    while not path.is_file():
        if time.monotonic() >= deadline:
            return False
        time.sleep(_LOOK_EVERY_SECONDS)
    return True


def discard(path: Path) -> None:
    """Remove a file if that is possible, and if no link leads to it out of the run folder."""
    try:
        check_inside(path.parent)
        path.unlink(missing_ok=True)
    except OSError:
        # The folder became unusable: the error under way says so.
        return


def sync_folder(folder: Path) -> None:
    """Make a rename inside durable, where the system lets folders be opened."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

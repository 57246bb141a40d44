"""Writing of files, whole or not at all: bytes, text, JSON, columnar tables.

Files that lrat reads back hold SHA-256 of their content, so that one flipped bit is noticed: a JSON
object in its last key, ``checksum``, a table or a file of tensors for each column in its metadata
(the comment of an .npz archive). Files of earlier versions have no checksum and are read without.
"""

import errno
import hashlib
import io
import json
import os
import re
import time
import uuid
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt

from lrat.errors import RunFolderError
from lrat.files.archives import check_sizes
from lrat.files.read import (
    CHECKSUM,
    check_inside,
    checksum,
    open_stored,
    parse_object,
    read_json,
    safetensors_metadata,
)
from lrat.text import reason, storable

TABLE_SUFFIXES = (".parquet", ".npz")
Columns: TypeAlias = dict[str, npt.NDArray[Any]]
"""A table: arrays of equal length by name."""
Write: TypeAlias = Callable[[BinaryIO], object]
_MOST_ROWS = 20_000_000
"""The most rows of a table that is read, since a few bytes may encode any number of rows; the parts
of an evaluation have those of a batch."""
_VISIBLE_WITHIN_SECONDS = 30.0
_LOOK_EVERY_SECONDS = 0.5
_HALVES = re.compile("[\ud800-\udfff]")
_TEMPORARY = re.compile(r"\.(.+\.[a-z]+)\.[0-9a-f]{32}(?:\.tmp)?")
"""The pattern of the names that ``temporary`` gives."""


def write_atomically(path: Path, write: Write) -> None:
    """Give ``path`` the bytes that ``write`` writes, or leave it as it was.

    They are written to a temporary file in the same folder, synced to the disk, then renamed, and
    the folder is synced; a kill at any moment leaves the old file or the new one. Raises
    ``RunFolderError`` on a full disk or a read-only folder, also where ``write`` calls a library
    that raises other errors then.
    """
    write_together((path, write))


def write_together(*files: tuple[Path, Write]) -> None:
    """Several files of one folder as ``write_atomically``: none is renamed before all are written.

    They are written and renamed in the given order; a kill between two renames leaves some of them
    new.
    """
    sources = [temporary(path) for path, _ in files]
    with ExitStack() as locks:
        try:
            for (path, write), source in zip(files, sources, strict=True):
                _write_temporary(path, source, write, locks)
            for (path, _), source in zip(files, sources, strict=True):
                try:
                    os.replace(source, path)
                    sync_folder(path.parent)
                except OSError as error:
                    raise unwritable(path, error) from error
        except BaseException:
            for source in sources:
                discard(source)
            raise


def _write_temporary(path: Path, source: Path, write: Write, locks: ExitStack) -> None:
    """Write ``source`` and lock it until ``locks`` ends, so that it is not taken for a leftover."""
    raw: _Watched | None = None
    try:
        check_inside(path.parent)
        make_folder(path.parent)
        raw = _opened(source, locks)
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


def _opened(source: Path, locks: ExitStack) -> "_Watched":
    raw = _Watched(source, "wb")
    while _lock(raw.fileno(), wait=True) and os.fstat(raw.fileno()).st_nlink == 0:
        raw.close()  # another process removed it as a leftover before it was locked
        raw = _Watched(source, "wb")
    if os.name != "nt":  # an open file cannot be renamed there
        locks.callback(os.close, os.dup(raw.fileno()))
    return raw


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Processes and threads run the code inside one after the other for one ``folder``, where
    folders can be locked."""
    if os.name == "nt":
        yield
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise unwritable(folder, error) from error
    try:
        _lock(descriptor, wait=True)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, *, wait: bool) -> bool:
    """Whether the file could be locked; closing its last descriptor unlocks it."""
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except (ImportError, OSError):
        return False
    return True


def append_line(path: Path, line: str) -> None:
    """Append ``line`` and a line end, whole or not at all, in which case it raises
    ``RunFolderError``. A backup by hard links keeps the content of before."""
    try:
        check_inside(path)
        if path.is_file() and path.stat().st_nlink > 1:
            with open_stored(path) as stored:
                whole = stored.read() + f"{line}\n".encode()
            write_atomically(path, lambda file: file.write(whole))
            return
        with open(path, "ab", buffering=0) as file:
            before = file.seek(0, os.SEEK_END)
            content = f"{line}\n".encode()
            try:
                written = file.write(content)
                if written < len(content):
                    # A nearly full disk takes a part; writing the rest raises the error.
                    file.write(content[written:])
                os.fsync(file.fileno())
            except OSError:
                file.truncate(before)
                raise
    except OSError as error:
        raise unwritable(path, error) from error


def make_folder(folder: Path) -> None:
    """Create ``folder`` and its missing parents, durably."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for each in missing:
        sync_folder(each.parent)


def unwritable(path: Path, error: OSError) -> RunFolderError:
    """The error for a full disk, a read-only folder, or a link out of the run folder."""
    cure = (
        "replace the link by a folder or file"
        if error.errno == errno.ELOOP
        else "free space or make the folder writable"
    )
    return RunFolderError(
        f"cannot write {path}: {reason(error)}; {cure}, then run the same command again"
    )


class _Watched(io.FileIO):
    """A file that remembers the error of a failed write."""

    failure: OSError | None = None

    def write(self, content: Any, /) -> int:
        try:
            return super().write(content)
        except OSError as error:
            self.failure = error
            raise


def temporary(path: Path) -> Path:
    """The temporary path of ``path`` before the rename, with a random name: processes in two
    containers may have the same number."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")


def is_temporary(path: Path) -> bool:
    """Whether this is the name of an unfinished file of ``write_atomically``."""
    return _TEMPORARY.fullmatch(path.name) is not None


def remove_leftovers(*folders: Path, name: str | None = None) -> None:
    """Remove temporary files of killed processes in these folders, or those of the file ``name``.

    Files that a process is writing are locked, and stay; where files cannot be locked, all stay.
    """
    for folder in folders:
        for path in folder.glob(".*"):
            match = _TEMPORARY.fullmatch(path.name)
            if match is not None and name in (None, match[1]):
                _remove_unlocked(path)


def _remove_unlocked(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
    except OSError:  # it no longer exists, is a link, or belongs to another user
        return
    try:
        if _lock(descriptor, wait=False):
            discard(path)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """UTF-8 text, atomically; see ``storable``."""
    content = storable(text).encode()
    write_atomically(path, lambda file: file.write(content))


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """A JSON object with its checksum and without NaN or infinity, atomically."""
    write_text(path, to_json(value, indent=2) + "\n")


def write_if_new(path: Path, value: Mapping[str, Any]) -> None:
    """``write_json``, unless the file has this value: it may be in a read-only folder."""
    try:
        is_equal = read_json(path) == parse_object(to_json(value))
    except (OSError, ValueError):
        is_equal = False  # missing, or damaged
    if not is_equal:
        write_json(path, value)


def to_json(value: Mapping[str, Any], *, indent: int | None = None) -> str:
    """A JSON object with its checksum as the last key, its texts ``storable``; ``ValueError`` for
    NaN and infinity."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    if text != storable(text):
        value = json.loads(_HALVES.sub(lambda half: f"\\\\u{ord(half[0]):04x}", text))
    whole = {**value, CHECKSUM: checksum(value)}
    return json.dumps(whole, indent=indent, allow_nan=False)


def write_table(stem: Path, columns: Mapping[str, npt.NDArray[Any]]) -> Path:
    """Write a table with its checksums atomically as Parquet, or as .npz where pyarrow is missing.

    ``stem`` is the path without its suffix; returns the path with it.
    """
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError:
        path = stem.with_name(f"{stem.name}.npz")
        write_archive(path, columns)
        return path

    path = stem.with_name(f"{stem.name}.parquet")
    table = arrow.table(dict(columns)).replace_schema_metadata({CHECKSUM: _checksums(columns)})
    write_atomically(path, lambda file: parquet.write_table(table, file))
    return path


def write_archive(path: Path, columns: Mapping[str, npt.NDArray[Any]]) -> None:
    """Arrays with their checksums as .npz, atomically."""
    content = io.BytesIO()
    arrays: dict[str, Any] = dict(columns)
    np.savez_compressed(content, **arrays)
    with zipfile.ZipFile(content, "a") as archive:
        archive.comment = _checksums(columns).encode()
    write_atomically(path, lambda file: file.write(content.getbuffer()))


def write_tensors(path: Path, columns: Mapping[str, npt.NDArray[Any]]) -> None:
    """Arrays with their checksums as safetensors, atomically."""
    from safetensors.numpy import save  # the core works without it

    content = save(dict(columns), {CHECKSUM: _checksums(columns)})
    write_atomically(path, lambda file: file.write(content))


def read_tensors(path: Path) -> Columns:
    """The arrays of ``write_tensors``; raises as ``read_table``."""
    from safetensors.numpy import load

    with open_stored(path) as stream:
        content = stream.read()
    arrays = load(content)
    _check_digests(arrays, safetensors_metadata(content).get(CHECKSUM, ""))
    return arrays


def read_table(path: Path, columns: Sequence[str] | None = None) -> Columns:
    """The columns of ``write_table``, or only these of them; raises the exceptions of numpy or
    pyarrow for damaged files, ``RunFolderError`` for missing values and wrong checksums."""
    if path.suffix == ".npz":
        # Opened here, since numpy does not close the file of a damaged archive.
        with open_stored(path) as stream, np.load(stream, allow_pickle=False) as archive:
            names = columns or archive.files
            check_sizes(archive.zip, names, os.fstat(stream.fileno()).st_size)
            table = {name: archive[name] for name in names}
            text = archive.zip.comment.decode()
    else:
        table, text = _read_parquet(path, columns)
    _check_digests(table, text)
    return table


def _check_digests(table: Columns, text: str) -> None:
    stored = parse_object(text) if text else {}
    for name, values in table.items():
        if text and stored.get(name) != _digest(values):
            raise RunFolderError(f"the column {name} is not as it was written")


def _read_parquet(path: Path, columns: Sequence[str] | None) -> tuple[Columns, str]:
    try:
        from pyarrow import parquet
    except ImportError:
        raise RunFolderError("reading Parquet needs pyarrow: pip install pyarrow") from None
    with open_stored(path) as stream, parquet.ParquetFile(stream) as file:
        if file.metadata.num_rows > _MOST_ROWS:
            raise RunFolderError(f"it speaks of {file.metadata.num_rows:,} rows")
        chosen = None if columns is None else list(columns)
        table = file.read(columns=chosen, use_threads=False)
    for name in chosen or table.column_names:
        if table[name].null_count:
            raise RunFolderError(f"the column {name} lacks values")
    arrays = {name: table[name].to_numpy() for name in chosen or table.column_names}
    return arrays, (table.schema.metadata or {}).get(CHECKSUM.encode(), b"").decode()


def _checksums(columns: Mapping[str, npt.NDArray[Any]]) -> str:
    return to_json({name: _digest(np.asarray(values)) for name, values in columns.items()})


def _digest(values: npt.NDArray[Any]) -> str:
    """SHA-256 of type, shape and values, the same for text in every type of array."""
    if values.dtype.kind in "OSU":
        kind, content = "text", "\0".join(map(str, values.tolist())).encode()
    else:
        kind, content = values.dtype.str, np.ascontiguousarray(values).tobytes()
    return hashlib.sha256(f"{kind} {values.shape} ".encode() + content).hexdigest()


def appears(path: Path) -> bool:
    """Whether a file of another process appears within half a minute: network file systems show
    new files late."""
    deadline = time.monotonic() + _VISIBLE_WITHIN_SECONDS
    while not path.is_file():
        if time.monotonic() >= deadline:
            return False
        time.sleep(_LOOK_EVERY_SECONDS)
    return True


def discard(path: Path) -> None:
    """Remove a file if that is possible, and if no link leads out of the run folder."""
    try:
        check_inside(path.parent)
        path.unlink(missing_ok=True)
    except OSError:
        return  # the caller raises the cause


def sync_folder(folder: Path) -> None:
    """Make a rename inside the folder durable, where the system can open folders."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

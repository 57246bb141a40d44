"""Files that are either whole or not there: bytes, text, JSON, columnar tables."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from lrat.errors import RunFolderError

TABLE_SUFFIXES = (".parquet", ".npz")


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
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


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


def read_table(path: Path) -> dict[str, npt.NDArray[Any]]:
    """The columns that ``write_table`` wrote; raises whatever numpy or pyarrow do on damage."""
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as archive:
            return dict(archive)
    try:
        from pyarrow import parquet
    except ImportError:
        raise RunFolderError("reading Parquet needs pyarrow: pip install pyarrow") from None
    with parquet.ParquetFile(path) as file:
        table = file.read(use_threads=False)
    return {name: table[name].to_numpy() for name in table.column_names}


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

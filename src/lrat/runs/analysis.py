"""The folder of an analysis: what it was made of, what is known already, where results go."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from lrat.errors import RunFolderError
from lrat.evaluation.storage.store import differences
from lrat.files.read import is_there, read_json, read_whole
from lrat.files.write import (
    TABLE_SUFFIXES,
    Columns,
    discard,
    read_table,
    remove_leftovers,
    write_json,
    write_table,
)

ANALYSES = "analysis"
IDENTITY, SUMMARY = "identity.json", "summary.json"
OVERLAP, RANKINGS = "overlap.json", "rankings.json"
VULNERABILITY, WEIGHTS, EMBEDDING = "vulnerability", "weights", "embedding"
FIGURES = "figures"
_TABLES = (VULNERABILITY, WEIGHTS, EMBEDDING)


@dataclass(frozen=True)
class AnalysisStore:
    """One folder; every file appears whole or not at all, the summary last."""

    folder: Path

    def open(self, identity: Mapping[str, Any]) -> str | None:
        """Begin the folder, or find that it was begun under the same identity.

        What lies there under another identity (the run trained on, other settings) is out of date
        and is made anew: returns in what it differed, None where nothing had to be removed. A
        folder whose identity cannot be read is taken as out of date too.
        """
        wanted = json.loads(json.dumps(identity))
        remove_leftovers(self.folder)
        stored = self._read(IDENTITY)
        if stored == wanted:
            return None
        stale = self.folder.is_dir() and any(self._files())
        if stale:
            for path in self._files():
                discard(path)
        write_json(self.folder / IDENTITY, wanted)
        if not stale:
            return None
        return "; ".join(differences(stored or {}, wanted)) if stored else f"{IDENTITY} was lost"

    def _files(self) -> list[Path]:
        """What an analysis writes; nothing else in the folder is touched."""
        tables = [f"{name}{suffix}" for name in _TABLES for suffix in TABLE_SUFFIXES]
        names = (SUMMARY, *tables, OVERLAP, RANKINGS, IDENTITY)  # the summary first
        figures = (self.folder / FIGURES).glob("*.*")
        return [path for name in names if is_there(path := self.folder / name)] + [*figures]

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            return read_json(self.folder / name)
        except (OSError, ValueError):
            return None

    def finished(self) -> dict[str, Any] | None:
        """The summary of an earlier call over the same identity; None where there is none."""
        return self._read(SUMMARY)

    def table(self, name: str, columns: Sequence[str]) -> Columns | None:
        """A table of this folder, if it is there; ``RunFolderError`` for a damaged one."""
        for suffix in TABLE_SUFFIXES:
            path = self.folder / f"{name}{suffix}"
            if is_there(path):
                return _checked(read_whole(path, read_table, _CURE), path, columns)
        return None

    def write(self, name: str, columns: Mapping[str, npt.NDArray[Any]]) -> Path:
        return write_table(self.folder / name, columns)

    def remove(self, name: str) -> None:
        """A table that would be of something else than the rest."""
        for suffix in TABLE_SUFFIXES:
            discard(self.folder / f"{name}{suffix}")

    def remove_file(self, name: str) -> None:
        discard(self.folder / name)

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        write_json(self.folder / name, value)


_CURE = "delete it and analyse again"


def _checked(table: Columns, path: Path, columns: Sequence[str]) -> Columns:
    missing = [name for name in columns if name not in table]
    if missing:
        raise RunFolderError(f"{path} lacks the columns {', '.join(missing)}: {_CURE}")
    return table

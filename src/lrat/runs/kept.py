"""Results that a run keeps in a folder under an identity: a curve, an analysis, a masking panel.

One policy holds for all of them, and for evaluations: results of other weights, or of another
version of the user's code, get a folder of their own (``sources.own_folder``), and whatever else
differs is refused with the difference.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from lrat.errors import DataError, RunFolderError
from lrat.evaluation.storage.store import check_identity, claim
from lrat.files.names import FINGERPRINT, IDENTITY
from lrat.files.read import is_there, listed, read_record, read_whole
from lrat.files.write import (
    TABLE_SUFFIXES,
    Columns,
    discard,
    read_table,
    remove_leftovers,
    write_json,
)

_Value = TypeVar("_Value")


@dataclass(frozen=True, kw_only=True)
class KeptResult:
    """What lies in ``folder``; every file appears whole or not at all.

    ``identity``: everything that the numbers depend on but for the device. ``what`` was kept and
    how it is measured ``again`` are for errors.
    """

    folder: Path
    identity: Mapping[str, Any]
    what: str
    again: str

    @property
    def _stored_identity(self) -> dict[str, Any]:
        """The identity as JSON reads it back."""
        return dict(json.loads(json.dumps(self.identity)))

    def begin(self) -> None:
        """Begin the folder, or continue it; ``RunFolderError`` with the difference where it has
        another identity, and where it holds results without any."""
        if not is_there(self.folder / IDENTITY) and any(self._results()):
            raise RunFolderError(
                f"{self.folder} holds results but no {IDENTITY}, so that nobody knows of what: "
                "bring it back, or move the folder away"
            )
        cure = "remove it, or repeat the old settings"
        claim(self.folder, self._stored_identity, what=self.what, cure=cure)
        remove_leftovers(self.folder)

    def _results(self) -> list[Path]:
        visible = [path for path in listed(self.folder) if not path.name.startswith(".")]
        return [path for path in visible if path.name != FINGERPRINT]

    def table(self, name: str, parse: Callable[[Columns], _Value]) -> _Value | None:
        """What ``parse`` makes of a table; None where there is none, ``RunFolderError`` for a
        damaged one."""
        for suffix in TABLE_SUFFIXES:
            path = self.folder / f"{name}{suffix}"
            if is_there(path):
                return read_whole(path, lambda path: parse(read_table(path)), self.again)
        return None

    def json(
        self, name: str, parse: Callable[[dict[str, Any]], _Value], *, under: str | None = None
    ) -> _Value | None:
        """What ``parse`` makes of a record; None where there is none, ``RunFolderError`` for a
        damaged one.

        ``under``: the key that holds the record's own identity, where the folder has that of
        something else; a record of another identity is refused with the difference.
        """
        path = self.folder / name
        if not is_there(path):
            return None
        stored = read_record(path, self.again)
        if under is not None:
            there = stored.pop(under, None)
            there = there if isinstance(there, dict) else {}
            check_identity(path, there, self._stored_identity, what=self.what, cure=self.again)
        return read_whole(path, lambda _: parse(stored), self.again)

    def finish(self, name: str, value: Mapping[str, Any], *, under: str | None = None) -> None:
        """Write the record that says that the results are complete, so the last file of all."""
        identity = {} if under is None else {under: self._stored_identity}
        write_json(self.folder / name, {**identity, **value})

    def remove(self, name: str) -> None:
        """A record, or a table by its name without ending, of which the rest is no more."""
        for suffix in ("", *TABLE_SUFFIXES):
            discard(self.folder / f"{name}{suffix}")


def with_columns(*names: str) -> Callable[[Columns], Columns]:
    """A table that has these columns at least, for ``KeptResult.table``."""

    def checked(table: Columns) -> Columns:
        missing = [name for name in names if name not in table]
        if missing:
            raise DataError(f"it lacks the columns {', '.join(missing)}")
        return table

    return checked

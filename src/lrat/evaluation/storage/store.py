"""Outcomes on disk: one part per attack and chunk, an identity that guards them, a summary.

A folder holds ``identity.json``, ``outcomes/``, ``gallery/`` (a few images, see ``gallery``), on
request ``images/`` (the returned images) and, once all images are done, ``summary.json``.
``extent.json`` holds the number of all images, ``notes.json`` sentences about problems of the
numbers, if there are any. Every file is written whole or not at all. The name of a part follows
from its attack and images, so one folder can hold parts of several runs or processes with the same
identity.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from lrat.errors import DataError, RunFolderError, SettingError
from lrat.evaluation.outcomes import NATURAL, Outcomes
from lrat.evaluation.storage.gallery import Gallery, GalleryStore, gather
from lrat.evaluation.storage.records import (
    ANEW,
    ball_of,
    notes_of,
    read_identity,
    read_summary,
    stored_summary,
    write_summary,
)
from lrat.files.names import EXTENT, GALLERY, IDENTITY, IMAGES, NOTES, PARTS, SUMMARY
from lrat.files.read import is_there, listed, read_record, read_whole, trouble
from lrat.files.write import (
    TABLE_SUFFIXES,
    discard,
    one_at_a_time,
    read_table,
    remove_leftovers,
    temporary,
    write_if_new,
    write_json,
    write_table,
    write_tensors,
)

Identity = dict[str, Any]
Table = TypeVar("Table")
_MISSING = "(absent)"
_ROUNDING = 1e-5
"""The rounding error of float32 distances, as a share of epsilon."""
_CURE = "delete it and evaluate again, the rest is reused"
_AGAIN = "run the same evaluation again"


def write_part(folder: Path, outcomes: Outcomes) -> Path:
    """Write one part with the rows of one attack, in any order: Parquet, or .npz with the same
    columns without pyarrow."""
    stem = _stem(str(outcomes.attack[0]), outcomes.index)
    return write_table(folder / PARTS / stem, outcomes.columns())


def _stem(attack: str, index: npt.NDArray[np.int64]) -> str:
    """The name of a part with these images, in any order, under this attack."""
    images = np.sort(index)
    return f"{attack}-{images[0]:08d}-{digest_of(images)}"


def digest_of(index: npt.NDArray[np.int64]) -> str:
    """Twelve hex digits, the digest of a set of image numbers."""
    images = np.sort(index).astype("<i8")
    return hashlib.blake2b(images.tobytes(), digest_size=6).hexdigest()


def read_part(path: Path) -> Outcomes:
    """The rows of a part; ``RunFolderError`` for a damaged file, and for one whose rows contradict
    themselves or its name."""
    return read_whole(path, _checked_part, _CURE)


def _checked_part(path: Path) -> Outcomes:
    rows = Outcomes.from_columns(read_table(path))
    reason = rows.contradiction
    if len(rows) and path.stem != _stem(str(rows.attack[0]), rows.index):
        reason = "its name is of another attack or other images"
    if len(np.unique(rows.attack)) > 1:
        reason = "it holds rows of several attacks"
    if reason is not None:
        raise DataError(reason)
    return rows


def read_parts(folder: Path) -> Outcomes:
    """All rows of all parts of ``folder``; where parts overlap, an image has two rows."""
    return Outcomes.concatenate(read_part(path) for path in parts_of(folder))


def check_rows(folder: Path, identity: Identity, rows: Outcomes) -> None:
    """Refuse rows of attacks that are not in the identity, and images outside its ball."""
    if not len(rows):
        return
    unknown = ~np.isin(rows.attack, [NATURAL, *identity["attacks"]])
    outside = np.zeros(len(rows), dtype=bool)
    ball = ball_of(identity["threat"])
    if ball is not None:
        slack = identity.get("tolerance", 0.0) + _ROUNDING * ball[1]
        outside = ~(rows.distance <= ball[1] + slack)
    if (unknown | outside).any():
        at = int((unknown | outside).argmax())
        position = f"at a distance of {rows.distance[at]:.4g}, outside {identity['threat']}"
        raise RunFolderError(
            f"{folder} holds image {rows.index[at]} under {rows.attack[at]}, "
            f"{'which this evaluation does not have' if unknown[at] else position}: delete "
            f"{PARTS}/{rows.attack[at]}-* and evaluate again"
        )


def claim(
    folder: Path, identity: Identity, *, what: str = "evaluation", cure: str | None = None
) -> None:
    """Begin ``folder`` with an identity, or check that it was begun with the same one.

    ``RunFolderError``, with the difference, ``what`` the folder holds and the ``cure``, for another
    identity; also for outcomes without an identity.
    """
    if not _exists(folder / IDENTITY):
        if _exists(folder / PARTS):
            raise RunFolderError(f"{folder} holds outcomes but no {IDENTITY}: choose a new folder")
        _write_first(folder / IDENTITY, identity)
    # Also after writing it, since another process may have been first.
    stored = read_record(folder / IDENTITY, ANEW)
    check_identity(folder, stored, identity, what=what, cure=cure)


def check_identity(
    path: Path, stored: Identity, current: Identity, *, what: str, cure: str | None
) -> None:
    """``RunFolderError`` with all differences where ``path`` has another identity.

    ``cure`` None: the cure for the folder of an evaluation.
    """
    different = "; ".join(differences(stored, current))
    if different:
        raise RunFolderError(
            f"{path} belongs to another {what} ({different}): {cure or _cure(path)}"
        )


def read_one_part(folder: Path, attack: str) -> Outcomes | None:
    """The rows of one of this attack's parts, the first by name; None where it has none."""
    for path in parts_of(folder, f"{attack}-*"):
        rows = read_part(path).under(attack)
        if len(rows):  # another attack's name may begin with this one's
            return rows
    return None


def parts_of(folder: Path, names: str = "*") -> list[Path]:
    """The files of outcomes in ``folder``, by name."""
    try:
        paths = listed(folder / PARTS, names)
    except OSError as error:
        raise RunFolderError(f"{folder / PARTS} {trouble(error)}") from None
    return [p for p in paths if p.suffix in TABLE_SUFFIXES and not p.name.startswith(".")]


@dataclass(frozen=True, kw_only=True)
class OutcomeStore:
    """The ``known`` outcomes of a folder, and the writing of new ones; without a folder nothing is
    known or written."""

    folder: Path | None
    known: dict[str, Outcomes] = field(default_factory=dict)
    keep_images: bool = False
    gallery: GalleryStore | None = None

    @staticmethod
    def open(
        folder: Path | None,
        identity: Identity,
        *,
        keep_images: bool = False,
        gallery: Gallery | None = None,
    ) -> "OutcomeStore":
        """Begin a folder, or continue one of the same identity; raises as ``claim``."""
        if folder is None:
            if keep_images:
                raise SettingError("keep_images needs a folder to write the images into")
            return OutcomeStore(folder=None)
        claim(folder, identity)
        remove_leftovers(folder, *(folder / name for name in (PARTS, IMAGES, GALLERY)))
        rows = read_parts(folder)
        check_rows(folder, identity, rows)
        names = [str(name) for name in np.unique(rows.attack)]
        known = {name: rows.arranged([name]) for name in names}
        pictures = None if gallery is None else GalleryStore.open(folder, gallery)
        return OutcomeStore(folder=folder, known=known, keep_images=keep_images, gallery=pictures)

    def stored(
        self, attack: str, index: npt.NDArray[np.int64], label: npt.NDArray[np.int64]
    ) -> Outcomes:
        """The rows of earlier runs for these images, in any order; ``RunFolderError`` where one has
        another label."""
        rows = self.known.get(attack)
        if rows is None:
            return Outcomes.concatenate([])
        rows = rows.select(np.isin(rows.index, index))
        order = np.argsort(index)
        now = label[order][np.searchsorted(index[order], rows.index)]
        other = np.flatnonzero(rows.label != now)
        if len(other):
            at = other[0]
            raise RunFolderError(
                f"{self.folder}: image {rows.index[at]} had label {rows.label[at]} and has "
                f"{now[at]} now: these are other data, choose a new folder"
            )
        return rows

    @property
    def notes(self) -> tuple[str, ...]:
        """The stored notes about the folder's outcomes."""
        return () if self.folder is None else read_notes(self.folder)

    def keep_notes(self, notes: Sequence[str]) -> None:
        """Add these notes to the folder's."""
        if self.folder is None or not notes:
            return
        with one_at_a_time(self.folder):  # other processes add notes too
            known = read_notes(self.folder) if is_there(self.folder / NOTES) else ()
            joined = list(dict.fromkeys((*known, *notes)))
            write_if_new(self.folder / NOTES, {"notes": joined})

    def expect(self, index: npt.NDArray[np.int64]) -> None:
        """Store the number and digest of all images that the folder is to hold in the end."""
        if self.folder is not None:
            write_if_new(self.folder / EXTENT, {"images": len(index), "digest": digest_of(index)})

    def add(self, outcomes: Outcomes) -> None:
        if self.folder is not None and len(outcomes):
            write_part(self.folder, outcomes)

    def add_images(
        self, attack: str, index: npt.NDArray[np.int64], images: npt.NDArray[np.float32]
    ) -> None:
        """Store the images [B C H W] that ``attack`` returned for these numbers."""
        if self.folder is not None:
            path = self.folder / IMAGES / f"{_stem(attack, index)}.safetensors"
            write_tensors(path, {"images": np.ascontiguousarray(images), "index": index.copy()})

    def finish(self, summary: Mapping[str, Any], index: npt.NDArray[np.int64]) -> None:
        """Write the summary; ``RunFolderError`` where the folder holds other images than ``index``,
        those of this run."""
        if self.folder is None:
            return
        for rows in self.known.values():
            beyond = rows.index[~np.isin(rows.index, index)]
            if len(beyond):
                raise RunFolderError(
                    f"{self.folder} holds outcomes of images that this run did not see (image "
                    f"{beyond[0]} and {len(beyond) - 1} more): evaluate all of them, or choose a "
                    "new folder"
                )
        gather(self.folder)
        write_summary(self.folder / SUMMARY, summary)


def read_notes(folder: Path) -> tuple[str, ...]:
    """The notes about the outcomes in ``folder``; without ``notes.json`` those of the summary."""
    if is_there(folder / NOTES):
        return notes_of(read_record(folder / NOTES, f"delete it and {_AGAIN}"))
    return notes_of(stored_summary(folder / SUMMARY) or {})


def read_extent(folder: Path) -> dict[str, Any]:
    """The number of all ``images`` of an evaluation, and their ``digest``."""
    cure = f"bring it back, or {_AGAIN}, which writes it anew"
    extent = read_record(folder / EXTENT, cure)
    if type(extent.get("images")) is not int or not isinstance(extent.get("digest"), str):
        raise RunFolderError(f"{folder / EXTENT} does not say of which images it is: {cure}")
    return extent


def read_finished(folder: Path) -> tuple[Identity, Outcomes, dict[str, Any]]:
    """Identity, rows and summary of a finished evaluation; ``RunFolderError`` for an unfinished
    one."""
    identity = read_identity(folder / IDENTITY)
    if not (folder / SUMMARY).exists():
        raise RunFolderError(f"{folder} is not finished: {_AGAIN}, it continues by itself")
    rows = read_parts(folder)
    check_rows(folder, identity, rows)
    return identity, rows, read_summary(folder / SUMMARY, f"{_AGAIN}, which makes it anew")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:
        raise RunFolderError(
            f"cannot look for {path}: {error.strerror}; choose another folder, or make it readable"
        ) from None


def _write_first(path: Path, identity: Identity) -> None:
    """Write the identity of a new folder, unless another process has written it meanwhile.

    It is linked to its name, since a link, unlike a rename, does not replace an existing file.
    """
    while not _exists(path):
        source = temporary(path)
        write_json(source, identity)
        try:
            os.link(source, path)
        except FileExistsError:
            return
        except FileNotFoundError:
            # Another process began the folder meanwhile, and removed this file as a leftover.
            continue
        except OSError:  # a file system without links
            write_json(path, identity)
        finally:
            discard(source)


def _cure(folder: Path) -> str:
    cure = "choose a new folder or repeat the old settings"
    if all(path.name.startswith(f"{NATURAL}-") for path in parts_of(folder)):
        return f"no attack has finished anything there, so delete it, or {cure}"
    return cure


def differences(stored: Identity, current: Identity, prefix: str = "") -> Iterator[str]:
    """``seed: 0 there, 1 here`` for every leaf that differs."""
    for key in sorted(stored.keys() | current.keys()):
        old, new = stored.get(key, _MISSING), current.get(key, _MISSING)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from differences(old, new, f"{prefix}{key}.")
        elif old != new:
            yield f"{prefix}{key}: {old} there, {new} here"

"""Joins the parts of one evaluation: their outcomes, what is missing, the summary once complete.

Nothing is attacked here: rows, identity and notes come from the folders alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shutil import copyfileobj
from typing import Any

import numpy as np
import numpy.typing as npt

from lrat.errors import RunFolderError
from lrat.evaluation.outcomes import NATURAL, Outcomes
from lrat.evaluation.result import EvaluationResult
from lrat.evaluation.storage.fingerprint import read_fingerprint
from lrat.evaluation.storage.gallery import gather
from lrat.evaluation.storage.records import read_identity, write_summary
from lrat.evaluation.storage.store import (
    Identity,
    OutcomeStore,
    check_rows,
    differences,
    digest_of,
    read_extent,
    read_notes,
    read_parts,
)
from lrat.files.names import EXTENT, FINGERPRINT, GALLERY, IDENTITY, IMAGES, PARTS, SUMMARY
from lrat.files.read import is_there, listed, open_stored, read_whole, trouble
from lrat.files.write import TABLE_SUFFIXES, is_temporary, read_tensors, write_atomically

Rows = npt.NDArray[np.int64]
_SUFFIXES = (*TABLE_SUFFIXES, ".safetensors", ".json")
_VERDICT = ("label", "fooled")
"""The columns in which two rows of one image under one attack must agree. The others may differ in
the last bits between machines, and so may the wrong class of an adversarial image."""


@dataclass(frozen=True, kw_only=True)
class Joined:
    """The content of a folder of parts.

    ``done``: the number of the ``images`` with an outcome under every attack. ``missing``: for
    ``natural`` and each attack, the number without one; empty once finished. ``result``: that of
    all images once finished. Before, the finished images are no random sample, since an image that
    an attack fools is finished sooner. So the result is None then, unless the caller names images
    that were chosen independently of outcomes (see ``complete``).
    """

    folder: Path
    images: int
    done: int
    result: EvaluationResult | None
    missing: dict[str, int]

    @property
    def is_finished(self) -> bool:
        return not self.missing

    def __str__(self) -> str:
        """The table of a finished evaluation, else the numbers of missing images."""
        if self.is_finished:
            return str(self.result)
        gaps = ", ".join(f"{name} {count}" for name, count in self.missing.items())
        return (
            f"{self.done} of {self.images} images are done with every attack; missing are images "
            f"of {gaps}: evaluate the other parts and merge them too"
        )


def merge(folders: Sequence[Path], out: Path) -> Joined:
    """Join evaluation folders of one identity in ``out``, which may be one of them or already hold
    some parts; the other folders do not change.

    Rows in several folders must agree in label and verdict; the first is used. Once all images have
    outcomes of all attacks, the summary is written and ``EvaluationResult.from_folder(out)`` works.

    Raises ``RunFolderError`` for a folder without an evaluation, for different identities (with the
    difference) or sets of images, and for rows that contradict each other.
    """
    if out.exists() and not (out / IDENTITY).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise RunFolderError(f"{out} holds something else: choose another --out")
    folders = list(dict.fromkeys([*([out] if (out / IDENTITY).is_file() else []), *folders]))
    identities = [read_identity(folder / IDENTITY) for folder in folders]
    for folder, identity in zip(folders, identities, strict=True):
        different = list(differences(identities[0], identity))
        if different:
            raise RunFolderError(
                f"{folders[0]} and {folder} are different evaluations ({'; '.join(different)}): "
                "only parts of one can be joined"
            )
    known = [(folder, read) for folder in folders if (read := read_fingerprint(folder))]
    for folder, fingerprint in known:
        if reason := known[0][1].differs(fingerprint):
            raise RunFolderError(
                f"{known[0][0]} and {folder} are of different models ({reason}): only parts of one "
                "evaluation can be joined"
            )
    rows = Outcomes.concatenate(read_parts(folder) for folder in folders)
    _check_agreement(rows, folders)
    extent = _extent(folders, rows)
    store = OutcomeStore.open(out, identities[0])
    for folder in folders:
        store.keep_notes(read_notes(folder))
        if folder.resolve() != out.resolve():
            _copy(folder, out)
    return _joined(out, identities[0], rows, extent, np.array([], np.int64))


def complete(folder: Path, finished: Sequence[int] = ()) -> Joined:
    """The content of ``folder``, from one process or several; writes the summary when nothing is
    missing.

    ``finished``: the images for the result of an unfinished folder. They must have all outcomes,
    and be chosen independently of outcomes: those of whole blocks, as evaluations return them.

    Raises as ``merge``, and where an outcome of ``finished`` is missing.
    """
    rows, identity = read_parts(folder), read_identity(folder / IDENTITY)
    check_rows(folder, identity, rows)
    _check_agreement(rows, [folder])
    extent = _extent([folder], rows)
    return _joined(folder, identity, rows, extent, np.unique(np.array(finished, np.int64)))


def _check_agreement(rows: Outcomes, folders: Sequence[Path]) -> None:
    order = np.lexsort((rows.index, rows.attack))
    attack, index = rows.attack[order], rows.index[order]
    same = (attack[1:] == attack[:-1]) & (index[1:] == index[:-1])
    for name in _VERDICT:
        column = rows.columns()[name][order]
        bad = np.flatnonzero(same & (column[1:] != column[:-1]))
        if len(bad):
            at = bad[0]
            raise RunFolderError(
                f"{' and '.join(map(str, folders))} hold rows that contradict each other: image "
                f"{index[at]} under {attack[at]} has {name} {column[at]} and {column[at + 1]} "
                f"({len(bad)} such rows): leave out the rows made under other conditions"
            )


def _extent(folders: Sequence[Path], rows: Outcomes) -> dict[str, Any]:
    """The number of images of the whole evaluation and their digest, as in ``extent.json``."""
    extents = {each: read_extent(each) for each in folders if is_there(each / EXTENT)}
    if extents:
        first, extent = next(iter(extents.items()))
        for folder, other in extents.items():
            if other != extent:
                raise RunFolderError(
                    f"{first} is of {extent.get('images')} images and {folder} of "
                    f"{other.get('images')}, and not of the same ones: only parts of one "
                    "evaluation can be joined"
                )
        return extent
    for folder in folders:
        if not is_there(folder / SUMMARY):
            raise RunFolderError(
                f"{folder} is not finished and does not say of how many images it is: run that "
                "evaluation to its end"
            )
    index = np.unique(rows.under(NATURAL).index)
    return {"images": len(index), "digest": digest_of(index)}


def _copy(folder: Path, out: Path) -> None:
    """Copy the files of ``folder`` that ``out`` lacks."""
    paths = [path for kind in (PARTS, IMAGES, GALLERY) for path in listed(folder / kind)]
    stored = [each for each in paths if each.suffix in _SUFFIXES and not is_temporary(each)]
    for source in [*stored, folder / EXTENT, folder / FINGERPRINT]:
        target, cure = out / source.relative_to(folder), "delete it, or leave out its folder"
        if not is_there(source) or is_there(target):
            continue
        if source.suffix == ".safetensors":
            read_whole(source, read_tensors, cure)
        try:
            stream = open_stored(source)
        except OSError as error:
            raise RunFolderError(f"{source} {trouble(error)}; {cure}") from None
        with stream:
            write_atomically(target, partial(copyfileobj, stream))


def _joined(
    folder: Path, identity: Identity, rows: Outcomes, extent: dict[str, Any], finished: Rows
) -> Joined:
    names = (NATURAL, *identity["attacks"])
    rows = rows.arranged(names)
    seen, images = np.unique(rows.index), int(extent["images"])
    if len(seen) > images or (len(seen) == images and digest_of(seen) != extent["digest"]):
        raise RunFolderError(
            f"{folder} holds outcomes of other images than the {images} that it is meant to: "
            "evaluate into a new folder"
        )
    held = {name: rows.under(name).index for name in names}
    done = seen[np.logical_and.reduce([np.isin(seen, index) for index in held.values()])]
    lost = finished[~np.isin(finished, done)]
    if len(lost):
        raise RunFolderError(
            f"{folder} lacks outcomes of image {lost[0]} (and {len(lost) - 1} more), which was "
            "done: was something deleted? The same command computes them again"
        )
    missing = {name: images - len(index) for name, index in held.items() if len(index) < images}
    result = None
    if len(finished) or not missing:
        counted = rows.select(np.isin(rows.index, finished)) if missing else rows
        notes = read_notes(folder)
        result = EvaluationResult(outcomes=counted, identity=identity, notes=notes)
        if not missing:
            gather(folder)
            write_summary(folder / SUMMARY, result.summary())
    return Joined(folder=folder, images=images, done=len(done), result=result, missing=missing)

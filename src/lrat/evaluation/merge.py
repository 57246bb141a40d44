"""Parts of one evaluation joined: what is there, what is missing, and the summary once nothing is.

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
"""What two rows of one image under one attack must agree in. The rest may differ in the last bits
between machines, and with it which wrong class an attack ended at."""


@dataclass(frozen=True, kw_only=True)
class Joined:
    """What a folder of parts holds.

    ``done``: how many of the ``images`` have an outcome under every attack. ``missing``: for
    ``natural`` and each attack, how many have none; empty once finished. ``result``: of all images
    once finished. Before, those that are done are no sample of all: an image that an attack fools
    is done sooner than one that it has to go on with. So the result is None then, unless a caller
    knows images that were chosen otherwise (see ``complete``).
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
        """The table of a finished evaluation, else what is missing."""
        if self.is_finished:
            return str(self.result)
        gaps = ", ".join(f"{name} {count}" for name, count in self.missing.items())
        return (
            f"{self.done} of {self.images} images are done with every attack; missing are images "
            f"of {gaps}: evaluate the other parts and merge them too"
        )


def merge(folders: Sequence[Path], out: Path) -> Joined:
    """Join evaluation folders of one identity in ``out``, which may be one of them or already hold
    some parts; the others stay as they are.

    Rows that several folders have must agree in label and verdict; the first is kept. Once all
    images have all attacks the summary is written and ``EvaluationResult.from_folder(out)`` works.

    Raises ``RunFolderError`` for a folder that holds no evaluation, for different identities (it
    shows the difference) or sets of images, and for rows that contradict each other.
    """
    if out.exists() and not (out / IDENTITY).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise RunFolderError(f"{out} holds something else: choose another --out")
    places = list(dict.fromkeys([*([out] if (out / IDENTITY).is_file() else []), *folders]))
    identities = [read_identity(place / IDENTITY) for place in places]
    for place, identity in zip(places, identities, strict=True):
        found = list(differences(identities[0], identity))
        if found:
            raise RunFolderError(
                f"{places[0]} and {place} are different evaluations ({'; '.join(found)}): only "
                "parts of one can be joined"
            )
    known = [(place, read) for place in places if (read := read_fingerprint(place))]
    for place, fingerprint in known:
        if reason := known[0][1].differs(fingerprint):
            raise RunFolderError(
                f"{known[0][0]} and {place} are of different models ({reason}): only parts of one "
                "evaluation can be joined"
            )
    rows = Outcomes.concatenate(read_parts(place) for place in places)
    _check_agreement(rows, places)
    extent = _extent(places, rows)
    store = OutcomeStore.open(out, identities[0])
    for place in places:
        store.keep_notes(read_notes(place))
        if place.resolve() != out.resolve():
            _copy(place, out)
    return _joined(out, identities[0], rows, extent, np.array([], np.int64))


def complete(folder: Path, finished: Sequence[int] = ()) -> Joined:
    """What ``folder`` holds by now, from one process or several; writes the summary when nothing
    is missing.

    ``finished``: the images of which an unfinished folder's result is to be. They must be done, and
    be chosen whatever the attacks found: those of whole blocks, as evaluations return them.

    Raises as ``merge``, and where an outcome of ``finished`` is not there.
    """
    rows, identity = read_parts(folder), read_identity(folder / IDENTITY)
    check_rows(folder, identity, rows)
    _check_agreement(rows, [folder])
    extent = _extent([folder], rows)
    return _joined(folder, identity, rows, extent, np.unique(np.array(finished, np.int64)))


def _check_agreement(rows: Outcomes, places: Sequence[Path]) -> None:
    order = np.lexsort((rows.index, rows.attack))
    attack, index = rows.attack[order], rows.index[order]
    same = (attack[1:] == attack[:-1]) & (index[1:] == index[:-1])
    for name in _VERDICT:
        column = rows.columns()[name][order]
        bad = np.flatnonzero(same & (column[1:] != column[:-1]))
        if len(bad):
            at = bad[0]
            raise RunFolderError(
                f"{' and '.join(map(str, places))} hold rows that contradict each other: image "
                f"{index[at]} under {attack[at]} has {name} {column[at]} and {column[at + 1]} "
                f"({len(bad)} such rows): leave out what was made under other conditions"
            )


def _extent(places: Sequence[Path], rows: Outcomes) -> dict[str, Any]:
    """How many images the whole evaluation is of, and their digest, as ``extent.json`` has it."""
    told = {place: read_extent(place) for place in places if is_there(place / EXTENT)}
    if told:
        first, extent = next(iter(told.items()))
        for place, other in told.items():
            if other != extent:
                raise RunFolderError(
                    f"{first} is of {extent.get('images')} images and {place} of "
                    f"{other.get('images')}, and not of the same ones: only parts of one "
                    "evaluation can be joined"
                )
        return extent
    for place in places:
        if not is_there(place / SUMMARY):
            raise RunFolderError(
                f"{place} is not finished and does not say of how many images it is: run that "
                "evaluation to its end"
            )
    index = np.unique(rows.under(NATURAL).index)
    return {"images": len(index), "digest": digest_of(index)}


def _copy(place: Path, out: Path) -> None:
    """Add what ``place`` has and ``out`` has not."""
    found = [path for kind in (PARTS, IMAGES, GALLERY) for path in listed(place / kind)]
    ours = [each for each in found if each.suffix in _SUFFIXES and not is_temporary(each)]
    for source in [*ours, place / EXTENT, place / FINGERPRINT]:
        target, cure = out / source.relative_to(place), "delete it, or leave out its folder"
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
            "done: was something deleted? The same command makes them anew"
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

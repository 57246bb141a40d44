"""A few images of an evaluation, kept with what every attack made of them.

What an attack returned for them, and the logits that its verdict rests on, are written when the
outcome is made and before it, so that whoever finds the outcome finds the image too. The folder
``gallery`` holds them in parts (.npz), of which one is made when the evaluation ends.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lrat.errors import LratError
from lrat.files.names import GALLERY
from lrat.files.read import listed
from lrat.files.write import Columns, discard, read_table, write_archive, write_json

ABOUT = "about.json"
_COLUMNS = ("attack", "index", "image", "logits")

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Gallery:
    """``index`` [G]: the numbers of the images to keep. ``about``: plain values for whoever shows
    them. ``fill``: also attack those again whose outcome is known and whose image is not there."""

    index: Rows
    about: Mapping[str, Any] = field(default_factory=dict)
    fill: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Pictures:
    """Rows of a gallery: ``attack`` [M] (or ``natural``), ``index`` [M], ``image`` [M C H W] and
    ``logits`` [M K] of the original model on it, both float32."""

    attack: npt.NDArray[Any]
    index: Rows
    image: npt.NDArray[np.float32]
    logits: npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class GalleryStore:
    """Where wanted images go, and which are there: ``held`` by attack, their numbers."""

    folder: Path
    wanted: frozenset[int]
    fill: bool = False
    held: dict[str, set[int]] = field(default_factory=dict)

    @staticmethod
    def open(evaluation: Path, gallery: Gallery) -> "GalleryStore":
        """Begin or continue the gallery of an evaluation's folder."""
        folder = evaluation / GALLERY
        held: dict[str, set[int]] = {}
        for pictures in _read_all(folder, [])[1]:
            for attack, index in zip(pictures.attack.tolist(), pictures.index, strict=True):
                held.setdefault(attack, set()).add(int(index))
        if gallery.about and len(gallery.index) and not (folder / ABOUT).is_file():
            write_json(folder / ABOUT, gallery.about)
        return GalleryStore(
            folder=folder,
            wanted=frozenset(gallery.index.tolist()),
            fill=gallery.fill,
            held=held,
        )

    def lacks(self, attack: str, index: Rows) -> npt.NDArray[np.bool_]:
        """[B]: wanted, and not there under this attack."""
        missing = self.wanted - self.held.get(attack, set())
        return np.isin(index, list(missing))

    def add(
        self,
        attack: str,
        index: Rows,
        images: npt.NDArray[np.float32],
        logits: npt.NDArray[np.float32],
    ) -> None:
        """Keep images [M C H W] and the original model's logits [M K] on them."""
        rows = Pictures(
            attack=np.full(len(index), attack), index=index, image=images, logits=logits
        )
        _write(self.folder, attack, rows)
        self.held.setdefault(attack, set()).update(index.tolist())


def read_gallery(evaluation: Path) -> tuple[Pictures | None, list[Path]]:
    """All rows that an evaluation's folder keeps, None without any, and the parts that are damaged.
    An image may be there twice under an attack, where several processes made it."""
    damaged: list[Path] = []
    _, parts = _read_all(evaluation / GALLERY, damaged)
    return (_joined(parts) if parts else None), damaged


def gather(evaluation: Path) -> None:
    """Make one part of all; those that are damaged stay as they are."""
    paths, parts = _read_all(evaluation / GALLERY, [])
    if len(parts) < 2:
        return
    whole = _write(evaluation / GALLERY, "all", _joined(parts))
    for path in paths:
        if path != whole:
            discard(path)


def _write(folder: Path, name: str, rows: Pictures) -> Path:
    """Under a name that stands for the attacks and images in it."""
    what = "".join(f"{a} {i}\n" for a, i in zip(rows.attack, rows.index, strict=True))
    digest = hashlib.blake2b(what.encode(), digest_size=6).hexdigest()
    path = folder / f"{name}-{digest}.npz"
    write_archive(path, {each: getattr(rows, each) for each in _COLUMNS})
    return path


def _read_all(folder: Path, damaged: list[Path]) -> tuple[list[Path], list[Pictures]]:
    paths: list[Path] = []
    parts: list[Pictures] = []
    try:
        found = listed(folder, "[!.]*.npz")
    except OSError:
        found = []
        damaged.append(folder)
    for path in found:
        try:
            parts.append(_checked(read_table(path, _COLUMNS), *parts[:1]))
            paths.append(path)
        except Exception:  # zipfile and numpy raise a dozen kinds for the same cause
            damaged.append(path)
    return paths, parts


def _checked(columns: Columns, *others: Pictures) -> Pictures:
    """Rows as ``_write`` writes them, of images and logits as large as those of the ``others``."""
    rows = Pictures(**columns)
    kinds = "".join(getattr(rows, name).dtype.kind for name in _COLUMNS)
    counts = {len(getattr(rows, name)) for name in _COLUMNS}
    sizes = {(each.image.shape[1:], each.logits.shape[1:]) for each in (rows, *others)}
    ndim = rows.attack.ndim, rows.index.ndim, rows.image.ndim, rows.logits.ndim
    if (kinds, ndim, len(counts), len(sizes)) != ("Uiff", (1, 1, 4, 2), 1, 1):
        raise LratError("no rows of a gallery")
    if not rows.image.size or not np.isfinite(rows.image).all() or np.isnan(rows.logits).any():
        raise LratError("no images of a gallery")
    return rows


def _joined(parts: Sequence[Pictures]) -> Pictures:
    return Pictures(
        attack=np.concatenate([part.attack for part in parts]),
        index=np.concatenate([part.index for part in parts]),
        image=np.concatenate([part.image for part in parts]),
        logits=np.concatenate([part.logits for part in parts]),
    )

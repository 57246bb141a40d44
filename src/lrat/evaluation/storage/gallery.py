"""The gallery: a few images of an evaluation with the results of every attack.

The returned images, and the logits of their verdicts, are written just before the outcomes, so that
an image is stored for every stored outcome. The folder ``gallery`` holds them in parts (.npz),
which are joined when the evaluation ends.
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
    """``index`` [G]: the numbers of the images to keep. ``about``: plain values for a report.
    ``fill``: also attack images again whose outcome is stored and whose image is missing."""

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
    """The gallery on disk: the numbers of its images (``index``), and of those ``stored`` by
    attack."""

    folder: Path
    index: frozenset[int]
    fill: bool = False
    stored: dict[str, set[int]] = field(default_factory=dict)

    @staticmethod
    def open(evaluation: Path, gallery: Gallery) -> "GalleryStore":
        """Begin or continue the gallery of an evaluation's folder."""
        folder = evaluation / GALLERY
        stored: dict[str, set[int]] = {}
        for pictures in _read_all(folder, [])[1]:
            for attack, index in zip(pictures.attack.tolist(), pictures.index, strict=True):
                stored.setdefault(attack, set()).add(int(index))
        if gallery.about and len(gallery.index) and not (folder / ABOUT).is_file():
            write_json(folder / ABOUT, gallery.about)
        return GalleryStore(
            folder=folder,
            index=frozenset(gallery.index.tolist()),
            fill=gallery.fill,
            stored=stored,
        )

    def lacks(self, attack: str, index: Rows) -> npt.NDArray[np.bool_]:
        """[B]: whether an image of the gallery is missing under this attack."""
        missing = self.index - self.stored.get(attack, set())
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
        self.stored.setdefault(attack, set()).update(index.tolist())


def read_gallery(evaluation: Path) -> tuple[Pictures | None, list[Path]]:
    """All rows in an evaluation's gallery, None without any, and the damaged parts. An image may
    have two rows under an attack, from two processes."""
    damaged: list[Path] = []
    _, parts = _read_all(evaluation / GALLERY, damaged)
    return (_joined(parts) if parts else None), damaged


def gather(evaluation: Path) -> None:
    """Join all parts in one; damaged parts stay."""
    paths, parts = _read_all(evaluation / GALLERY, [])
    if len(parts) < 2:
        return
    whole = _write(evaluation / GALLERY, "all", _joined(parts))
    for path in paths:
        if path != whole:
            discard(path)


def _write(folder: Path, name: str, rows: Pictures) -> Path:
    """Write a part, whose name follows from its attacks and images."""
    text = "".join(f"{a} {i}\n" for a, i in zip(rows.attack, rows.index, strict=True))
    digest = hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
    path = folder / f"{name}-{digest}.npz"
    write_archive(path, {each: getattr(rows, each) for each in _COLUMNS})
    return path


def _read_all(folder: Path, damaged: list[Path]) -> tuple[list[Path], list[Pictures]]:
    paths: list[Path] = []
    parts: list[Pictures] = []
    try:
        files = listed(folder, "[!.]*.npz")
    except OSError:
        files = []
        damaged.append(folder)
    for path in files:
        try:
            parts.append(_checked(read_table(path, _COLUMNS), *parts[:1]))
            paths.append(path)
        except Exception:  # zipfile and numpy raise a dozen kinds of errors for damaged files
            damaged.append(path)
    return paths, parts


def _checked(columns: Columns, *others: Pictures) -> Pictures:
    """The rows of a part, whose images and logits must have the sizes of the ``others``."""
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

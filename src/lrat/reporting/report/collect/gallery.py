"""The images that an evaluation kept, with the results of every attack on them.

Everything is of the kept images and logits themselves; an image whose verdict is not that of the
outcomes, or that lacks an attack, is left out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from lrat.evaluation.outcomes import NATURAL
from lrat.evaluation.storage.gallery import ABOUT, Pictures, read_gallery
from lrat.evaluation.storage.records import ball_of
from lrat.files.names import GALLERY
from lrat.reporting.report.collect.evaluations import Evaluated, Verdicts
from lrat.reporting.report.collect.reading import Folder, at
from lrat.reporting.report.records import Attacked, GalleryImage, GalleryRecord
from lrat.threat.norms import NORMS

_SHOWN = 32

_Rows = Mapping[str, list[int]]
"""By attack, the rows of one image."""


def gallery(
    evaluations: Sequence[Evaluated], home: Folder, class_names: Any
) -> GalleryRecord | None:
    """Of the evaluation that is compared first, else of the next that kept images; None, and the
    command that makes one, where none did."""
    for each in evaluations:
        pictures, damaged = read_gallery(each.folder)
        for path in damaged:
            home.tell(f"{path} is damaged, so its images are left out.")
        if pictures is None or each.verdicts is None:
            continue
        if pictures.logits.shape[1] <= each.verdicts.label.max(initial=0):
            home.tell(f"{each.folder / GALLERY} lacks classes, so its images are left out.")
            continue
        record = _record(each, each.verdicts, pictures, home, class_names)
        if record.images:
            return record
    if evaluations:
        home.tell(f"No images were kept; `{evaluations[0].command} --gallery {_SHOWN}` keeps some.")
    return None


def _record(
    each: Evaluated, verdicts: Verdicts, pictures: Pictures, home: Folder, class_names: Any
) -> GalleryRecord:
    about = (Folder(each.folder, home.problems) / GALLERY).json(ABOUT)
    norm, epsilon = ball_of(each.record.threat) or (None, None)
    rows: dict[int, dict[str, list[int]]] = {}
    for row, (index, attack) in enumerate(
        zip(pictures.index.tolist(), pictures.attack.tolist(), strict=True)
    ):
        rows.setdefault(index, {}).setdefault(attack, []).append(row)
    images = []
    for index in sorted(rows):
        position = int(np.searchsorted(verdicts.index, index))
        if position < len(verdicts.index) and verdicts.index[position] == index:
            image = _Exhibit(verdicts, position, pictures, rows[index], norm).image()
            images += [] if image is None else [image]
    names = at(about, "class_names") or class_names
    whole = at(about, "of") or each.record.images
    left_out = len(rows) - len(images)
    return GalleryRecord(
        class_names=_names(names, pictures.logits.shape[1]),
        norm=norm,
        epsilon=epsilon,
        about=(
            f"{len(images)} of {whole} test images of {each.record.suite}, chosen by a fixed seed "
            "with the classes in proportion, kept as the attacks returned them"
            + (f"; {left_out} more are not complete" if left_out else "")
            + "."
        ),
        images=images,
    )


class _Exhibit:
    """One image: ``rows`` of the pictures by attack, its ``position`` in the verdicts."""

    def __init__(
        self, verdicts: Verdicts, position: int, pictures: Pictures, rows: _Rows, norm: str | None
    ) -> None:
        self._verdicts = verdicts
        self._position = position
        self._pictures = pictures
        self._rows = rows
        self._norm = norm
        self._label = int(verdicts.label[position])

    def image(self) -> GalleryImage | None:
        """None where an attack's picture is missing, or none has the outcomes' verdict."""
        clean = self._row(NATURAL)
        if clean is None:
            return None
        natural = self._attacked(clean, clean)
        stages: Mapping[str, Sequence[str]] = self._verdicts.identity.get("cascades", {})
        attacks = {}
        for name in self._verdicts.names[1:]:
            if natural.fooled:
                attacks[name] = replace(natural, attacked=False)
                continue
            row = self._deciding(stages[name]) if name in stages else self._row(name)
            if row is None:
                return None
            attacks[name] = self._attacked(row, clean)
        return GalleryImage(
            index=int(self._verdicts.index[self._position]),
            label=self._label,
            image=natural.image,
            natural=natural,
            attacks=attacks,
        )

    def _row(self, attack: str) -> int | None:
        """The row whose verdict is that of the outcomes."""
        right = bool(self._verdicts.right[attack][self._position])
        for row in self._rows.get(attack, ()):
            if (int(self._pictures.logits[row].argmax()) == self._label) == right:
                return row
        return None

    def _deciding(self, stages: Sequence[str]) -> int | None:
        """Of a cascade, the stage that fooled the image, else the one that came closest."""
        met: list[int] = []
        for stage in stages:
            row = self._row(stage)
            if row is None:
                return None
            met.append(row)
            if not self._verdicts.right[stage][self._position]:
                return row
        return min(met, key=self._margin)

    def _margin(self, row: int) -> float:
        """Eq. 6: the logit of the label less the largest other."""
        logits = self._pictures.logits[row].astype(np.float64)
        return float(logits[self._label] - np.delete(logits, self._label).max())

    def _attacked(self, row: int, clean: int) -> Attacked:
        logits = self._pictures.logits[row]
        prediction = int(logits.argmax())
        pixels = self._pictures.image[row]
        return Attacked(
            image=np.ascontiguousarray(pixels.transpose(1, 2, 0)),
            prediction=prediction,
            probabilities=_softmax(logits),
            fooled=prediction != self._label,
            attacked=True,
            margin=self._margin(row),
            distance=_distance(pixels - self._pictures.image[clean], self._norm),
        )


def _softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    powers = np.exp(logits.astype(np.float64) - logits.max())
    shares: npt.NDArray[np.float32] = (powers / powers.sum()).astype(np.float32)
    return shares


def _distance(change: npt.NDArray[np.float32], norm: str | None) -> float:
    """In the threat's norm; NaN for a region without one."""
    orders = {known.name: known.order for known in NORMS.values()}
    if norm not in orders:
        return float("nan")
    return float(np.linalg.norm(change.astype(np.float64).ravel(), orders[norm]))


def _names(names: Any, classes: int) -> list[str]:
    """As many names as there are logits; where the model knows more classes, their numbers."""
    known = [str(name) for name in names] if isinstance(names, list | tuple) else []
    return [known[each] if each < len(known) else str(each) for each in range(classes)]

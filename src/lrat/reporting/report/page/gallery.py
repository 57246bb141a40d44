"""The gallery as the page's script reads it: few, small pictures.

Arrays become PNG files in data addresses.
"""

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from lrat.reporting.report.records import Attacked, GalleryImage, GalleryRecord, RunRecord
from lrat.text import counted

MOST = 64
"""Images of the page, divided evenly among its runs."""
_LIKELIEST = 3

LARGEST_SIDE = 128
"""Longer images are drawn by every second, third, ... pixel: their number, not their depth."""
_GREY_LEVEL = 0.5


@dataclass(kw_only=True)
class Pictures:
    """The pictures of the page, each once however often it is shown."""

    addresses: list[str] = field(default_factory=list)
    numbers: dict[str, int] = field(default_factory=dict)

    def add(self, image: npt.NDArray[Any]) -> int:
        """The picture's number in ``addresses``."""
        address = png(image)
        if address not in self.numbers:
            self.numbers[address] = len(self.addresses)
            self.addresses.append(address)
        return self.numbers[address]


def gallery_data(runs: Sequence[RunRecord]) -> dict[str, Any]:
    """``pictures``: data addresses; ``runs``: of every run with a gallery its images, which name
    pictures by number."""
    pictures = Pictures()
    galleries = [
        (number, run.gallery)
        for number, run in enumerate(runs)
        if run.gallery is not None and run.gallery.images
    ]
    most = max(1, MOST // max(1, len(galleries)))
    shown = [{"run": number, **_of_run(gallery, pictures, most)} for number, gallery in galleries]
    return {"pictures": pictures.addresses, "runs": shown}


def _of_run(gallery: GalleryRecord, pictures: Pictures, most: int) -> dict[str, Any]:
    """Every image, or every second, third, ... one where there are more than ``most``."""
    attacks = list(dict.fromkeys(name for image in gallery.images for name in image.attacks))
    scale = scaling(gallery.norm, gallery.epsilon, _largest_change(gallery))
    kept = gallery.images[:: math.ceil(len(gallery.images) / most)]
    entries = [_entry(image, attacks, scale, pictures) for image in kept]
    return {
        "about": gallery.about,
        "scale": scale.words,
        "notes": _notes(gallery, len(kept)),
        "attacks": attacks,
        "classes": _class_names(gallery, entries),
        "images": entries,
    }


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """How perturbations are drawn: ``factor`` times around grey, in ``words``."""

    factor: float
    words: str

    def of(self, changed: npt.NDArray[Any], image: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The picture [H, W, C] of the perturbation ``changed - image``."""
        shown: npt.NDArray[Any] = _GREY_LEVEL + self.factor * (changed - image)
        return shown


def _entry(
    image: GalleryImage, attacks: Sequence[str], scale: Scaling, pictures: Pictures
) -> dict[str, Any]:
    return {
        "index": image.index,
        "label": image.label,
        "picture": pictures.add(image.image),
        "natural": _answer(image.natural, image.label),
        "attacks": {
            attacks.index(name): _attacked(attacked, image, scale, pictures)
            for name, attacked in image.attacks.items()
        },
    }


def _attacked(
    attacked: Attacked, image: GalleryImage, scale: Scaling, pictures: Pictures
) -> dict[str, Any]:
    about = {"fooled": attacked.fooled, **_answer(attacked, image.label)}
    if not attacked.attacked:
        return about
    return {
        **about,
        "picture": pictures.add(attacked.image),
        "perturbation": pictures.add(scale.of(attacked.image, image.image)),
        "distance": _rounded(attacked.distance),
        "margin": _rounded(attacked.margin),
    }


def _answer(attacked: Attacked, label: int) -> dict[str, Any]:
    """The likeliest classes with their probabilities, and the label's if it is not among them."""
    values = np.nan_to_num(np.asarray(attacked.probabilities, dtype=np.float64))
    likeliest = [int(k) for k in np.argsort(-values, kind="stable")[:_LIKELIEST]]
    shown = likeliest if label in likeliest or label >= len(values) else [*likeliest, label]
    return {
        "prediction": attacked.prediction,
        "likeliest": [[k, _rounded(float(values[k]))] for k in shown],
    }


def _rounded(value: float) -> float | None:
    return float(f"{value:.3g}") if np.isfinite(value) else None


def _largest_change(gallery: GalleryRecord) -> float:
    changes = [
        float(np.abs(attacked.image - image.image).max(initial=0.0))
        for image in gallery.images
        for attacked in image.attacks.values()
        if attacked.attacked
    ]
    return max((change for change in changes if np.isfinite(change)), default=0.0)


def _class_names(gallery: GalleryRecord, entries: Sequence[dict[str, Any]]) -> dict[int, str]:
    """The names of the classes that some shown image speaks of: not a thousand for ten images."""
    spoken: set[int] = set()
    for entry in entries:
        spoken.add(entry["label"])
        for answer in (entry["natural"], *entry["attacks"].values()):
            spoken.add(answer["prediction"])
            spoken.update(k for k, _ in answer["likeliest"])
    names = gallery.class_names
    return {k: names[k] if 0 <= k < len(names) else str(k) for k in sorted(spoken)}


def _notes(gallery: GalleryRecord, kept: int) -> list[str]:
    notes = []
    if kept < len(gallery.images):
        notes.append(
            f"{counted(kept, 'image')} of the {len(gallery.images)} at hand: "
            f"the page shows at most {MOST}."
        )
    first = gallery.images[0].image
    step = stride(first)
    if step > 1:
        height, width = first.shape[:2]
        nth = {2: "second", 3: "third"}.get(step, f"{step}th")
        notes.append(f"Every {nth} pixel of {height} × {width} is drawn.")
    if first.shape[2] not in {1, 3}:
        notes.append(f"The mean of {first.shape[2]} channels is drawn.")
    return notes


def scaling(norm: str | None, epsilon: float | None, largest: float) -> Scaling:
    """In an L∞ ball of radius ``epsilon``, its surface is black and white; elsewhere the
    ``largest`` change of any pixel is."""
    in_box = norm is not None and norm.lower() == "linf" and epsilon is not None and epsilon > 0
    reach = epsilon if in_box and epsilon is not None else largest
    if not math.isfinite(reach) or reach <= 0:
        return Scaling(factor=1.0, words="perturbation as it is, grey is none")
    factor = float(f"{_GREY_LEVEL / reach:.3g}")
    ends = "black and white are −ε and +ε" if in_box else f"black and white are ∓{reach:.3g}"
    return Scaling(factor=factor, words=f"perturbation × {factor:g}, grey is none, {ends}")


def stride(image: npt.NDArray[Any]) -> int:
    """Every how many pixels an image is drawn so that no side exceeds ``LARGEST_SIDE``."""
    longest: int = max(image.shape[:2])
    return max(1, math.ceil(longest / LARGEST_SIDE))


def png(image: npt.NDArray[Any]) -> str:
    """The data address of an image [H, W, C] in [0, 1]: grey for one channel, colours for three,
    else the mean of the channels."""
    from PIL import Image

    step = stride(image)
    thinned = np.asarray(image, dtype=np.float32)[::step, ::step]
    if thinned.shape[2] not in {1, 3}:
        thinned = thinned.mean(axis=2, keepdims=True)
    finite = np.nan_to_num(thinned, nan=_GREY_LEVEL, posinf=1.0, neginf=0.0)
    levels = np.rint(255 * np.clip(finite, 0, 1)).astype(np.uint8)
    picture = Image.fromarray(levels[..., 0] if levels.shape[2] == 1 else levels)
    file = io.BytesIO()
    picture.save(file, format="PNG", optimize=False, compress_level=9)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()

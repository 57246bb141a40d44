"""Arrays as PNG files in data addresses, small enough for a page that carries them all."""

import base64
import io
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

LARGEST_SIDE = 128
"""Longer images are drawn by every second, third, ... pixel: their number, not their depth."""
_GREY_LEVEL = 0.5


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """How perturbations are drawn: ``factor`` times around grey, in ``words``."""

    factor: float
    words: str

    def of(self, changed: npt.NDArray[Any], image: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The picture [H, W, C] of the perturbation ``changed - image``."""
        shown: npt.NDArray[Any] = _GREY_LEVEL + self.factor * (changed - image)
        return shown


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

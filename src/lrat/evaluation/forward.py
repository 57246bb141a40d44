"""The forward that verdicts rest on."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from lrat.attacks.confirm import float32_logits
from lrat.data.inputs import check_classes, unit_pixels
from lrat.errors import DataError, NonFiniteError
from lrat.outputs import NEVER
from lrat.types import Batch


def classify(model: nn.Module, images: Tensor, index: npt.NDArray[np.int64], attack: str) -> Tensor:
    """Logits [B K] as ``float32_logits`` gives them.

    Raises ``ModelError`` for an output that is not [B K] with K >= 2 and ``NonFiniteError`` that
    names ``attack`` and the image (by ``index`` [B]) for NaN or infinite logits.
    """
    logits = float32_logits(model, images)
    finite = (logits.isfinite().all(1) & (logits > NEVER).any(1)).cpu().numpy()
    if not finite.all():
        raise NonFiniteError(
            f"NaN or infinite logits on image {index[~finite][0]} under {attack} "
            f"({int((~finite).sum())} such images in this batch): the model cannot be evaluated"
        )
    return logits


def sound(batch: Batch) -> Batch:
    """The batch, rounding beyond [0, 1] clipped. ``DataError`` for images outside [0, 1] (NaN too)
    and for negative labels."""
    if int(batch.labels.min()) < 0:
        raise DataError(f"labels start at 0, found {int(batch.labels.min())}")
    return replace(batch, images=unit_pixels("images", batch.images))


def check_labels(labels: Tensor, classes: int) -> None:
    """``ModelError`` for labels [B] beyond the model's classes."""
    check_classes(int(labels.max()), classes, smallest=int(labels.min()))

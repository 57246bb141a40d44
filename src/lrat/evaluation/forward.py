"""The forward for verdicts, and whether a folder's outcomes are those of a model.

An identity holds the digest of a model's weights (and the name of its file, where that is known).
The same weights with another ``forward`` are another model, which only its logits show.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lrat.attacks.base import float32_logits
from lrat.data.inputs import check_classes, unit_pixels
from lrat.errors import DataError, NonFiniteError, RunFolderError
from lrat.evaluation.outcomes import NATURAL, Outcomes
from lrat.evaluation.storage.store import read_one_part
from lrat.losses import logit_margin
from lrat.outputs import NEVER
from lrat.types import Batch

_TOLERANCE = 1e-3
"""Relative to the largest margin or to 1: float32 logits of other devices and batches differ by far
less."""


def classify(model: nn.Module, images: Tensor, index: npt.NDArray[np.int64], attack: str) -> Tensor:
    """The logits [B K] of ``float32_logits``.

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
    """The batch, with rounding errors beyond [0, 1] clipped. ``DataError`` for images outside
    [0, 1] (NaN too) and for negative labels."""
    if int(batch.labels.min()) < 0:
        raise DataError(f"labels start at 0, found {int(batch.labels.min())}")
    return replace(batch, images=unit_pixels("images", batch.images))


def check_labels(labels: Tensor, classes: int) -> None:
    """``ModelError`` for labels [B] beyond the model's classes."""
    check_classes(int(labels.max()), classes, smallest=int(labels.min()))


def stored_clean(folder: Path | None, most: int) -> Outcomes | None:
    """Up to ``most`` rows of clean images from one part in ``folder``; None without a part.

    Raises ``RunFolderError`` for a damaged part.
    """
    rows = None if folder is None else read_one_part(folder, NATURAL)
    return None if rows is None else rows.select(np.arange(min(most, len(rows))))


def check_answers(model: nn.Module, batch: Batch, stored: Outcomes, folder: Path) -> None:
    """``RunFolderError``, with an image and both margins, where ``model`` classifies the ``stored``
    clean images differently now.

    ``batch``: those images, in any order. A model with random logits is not refused.
    """
    index = batch.index.cpu().numpy()
    rows = stored.at(index)
    logits = classify(model, batch.images, index, NATURAL)
    other = _differing(logits, batch.labels, rows)
    if not len(other):
        return
    again = classify(model, batch.images, index, NATURAL)
    if not torch.allclose(again, logits, rtol=_TOLERANCE, atol=_TOLERANCE):
        return
    at = other[0]
    now = float(logit_margin(logits, batch.labels)[at])
    raise RunFolderError(
        f"{folder} is of a model that answers otherwise: image {index[at]} had the margin "
        f"{rows.margin_clean[at]:.4g} and class {rows.prediction[at]}, and has {now:.4g} and "
        f"{int(logits[at].argmax())} now ({len(other)} of {len(index)} images differ): its code "
        "changed, so delete the folder or choose a new one"
    )


def _differing(logits: Tensor, labels: Tensor, rows: Outcomes) -> npt.NDArray[np.int64]:
    """Positions whose margin or class differs by more than rounding explains."""
    answers = logits.float().cpu()
    margin = logit_margin(answers, labels.cpu()).numpy()
    slack = _TOLERANCE * max(1.0, float(np.abs(rows.margin_clean).max()))
    is_other = ~(np.abs(margin - rows.margin_clean) <= slack)
    known = (rows.prediction >= 0) & (rows.prediction < answers.shape[1])
    at_stored = torch.from_numpy(np.where(known, rows.prediction, 0))[:, None]
    below = (answers.amax(1) - answers.gather(1, at_stored).squeeze(1)).numpy()
    return np.flatnonzero(is_other | ~known | (below > slack))

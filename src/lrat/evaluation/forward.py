"""The forward that verdicts rest on."""

import logging

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lrat.errors import DataError, ModelError, NonFiniteError
from lrat.hardware import full_float32
from lrat.modes import evaluating
from lrat.outputs import NEVER, forward_logits
from lrat.types import Batch

_logger = logging.getLogger(__name__)
_SUM_OF_PROBABILITIES = 1e-4
"""How far from 1 the float32 sum of a softmax's outputs may lie."""
_RANDOM = 1e-3
"""By how much of an image's largest logit (or of 1) two forwards may differ: float32 on a GPU adds
in no fixed order."""


def classify(model: nn.Module, images: Tensor, index: npt.NDArray[np.int64], attack: str) -> Tensor:
    """Logits [B K]: float32, eval mode, no autocast, of ``model`` as it is.

    Raises ``ModelError`` for an output that is not [B K] with K >= 2 and ``NonFiniteError`` that
    names ``attack`` and the image (by ``index`` [B]) for NaN or infinite logits.
    """
    kind = images.device.type
    with (
        evaluating(model),
        torch.no_grad(),
        torch.autocast(kind, enabled=False),
        full_float32(kind),
    ):
        logits = forward_logits(model, images.float())
    finite = (logits.isfinite().all(1) & (logits > NEVER).any(1)).cpu().numpy()
    if not finite.all():
        raise NonFiniteError(
            f"NaN or infinite logits on image {index[~finite][0]} under {attack} "
            f"({int((~finite).sum())} such images in this batch): the model cannot be evaluated"
        )
    return logits


def look_like_probabilities(logits: Tensor) -> Tensor:
    """[B]: whether a row [K] of what should be logits sums to 1 and lies in [0, 1]."""
    sums_to_one = (logits.sum(1) - 1).abs() <= _SUM_OF_PROBABILITIES
    return sums_to_one & ((logits >= 0) & (logits <= 1)).all(1)


def warn_of_probabilities(logits: Tensor) -> tuple[str, ...]:
    """A sentence, also logged, when every row looks like probabilities: a softmax at the end hides
    the logits' scale, so gradients vanish and attacks look weak."""
    if not bool(look_like_probabilities(logits).all()):
        return ()
    warning = (
        "the model seems to return probabilities instead of logits: gradients vanish and attacks "
        "look weak; remove its softmax"
    )
    _logger.warning(warning)
    return (warning,)


def warn_of_randomness(logits: Tensor, again: Tensor) -> tuple[str, ...]:
    """A sentence, also logged, when a model in eval mode gives other logits [B K] when asked
    ``again``: its verdicts are draws, and gradients of single draws mislead attacks."""
    change = (again - logits).abs().amax(1)
    scale = logits.abs().amax(1).clamp(min=1)
    changed = int((change > _RANDOM * scale).sum())
    if not changed:
        return ()
    warning = (
        f"the model is random: asked twice, it gives other logits for {changed} of {len(logits)} "
        "images, so verdicts are single draws and attacks look weak; switch its randomness off, or "
        "attack the mean of many draws"
    )
    _logger.warning(warning)
    return (warning,)


def check_data(batch: Batch) -> None:
    """``DataError`` for images outside [0, 1] (NaN too) and for negative labels."""
    low, high = float(batch.images.min()), float(batch.images.max())
    # Written so that NaN fails too.
    if not (low >= 0 and high <= 1):
        raise DataError(
            f"images must lie in [0, 1], found {low:g} to {high:g}: scale them and put the "
            "normalisation into the model"
        )
    if int(batch.labels.min()) < 0:
        raise DataError(f"labels start at 0, found {int(batch.labels.min())}")


def check_classes(labels: Tensor, classes: int) -> None:
    """``ModelError`` for labels [B] beyond the model's classes."""
    largest = int(labels.max())
    if largest >= classes:
        raise ModelError(
            f"labels go up to {largest}, which takes {largest + 1} classes, but the model has "
            f"{classes}: it was made for other data"
        )

"""Successes seen through an accelerated view, checked on the model itself."""

import torch
from torch import Tensor, nn

from lrat.acceleration import View
from lrat.hardware import full_float32
from lrat.modes import evaluating, outside_autocast
from lrat.outputs import forward_logits


def confirmed(model: nn.Module, images: Tensor, labels: Tensor, claimed: Tensor) -> Tensor:
    """[B]: where ``claimed`` [B] and the view's original misclassifies the image too.

    What is no view, or a plain one, needs no confirmation. One float32 forward of the claimed
    images; waits for the device, so it is called where images leave a batch, not in every step.
    """
    if not isinstance(model, View) or model.is_plain:
        return claimed
    rows = claimed.nonzero().flatten()
    if len(rows) == 0:
        return claimed
    original = model.original
    wrong = float32_logits(original, images[rows]).argmax(1) != labels[rows]
    return claimed.index_put((rows,), wrong)


@torch.no_grad()
def float32_logits(model: nn.Module, images: Tensor) -> Tensor:
    """The logits [B K] that verdicts rest on: float32, eval mode, no autocast, of ``model`` as it
    is."""
    with evaluating(model), outside_autocast(images.device.type), full_float32():
        return forward_logits(model, images.float())

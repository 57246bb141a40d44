"""The fastest choices for a model on this device, and the comparison of a view and its original."""

import time
from collections.abc import Callable
from functools import cache

import torch
from torch import nn

from lrat.acceleration.observe import observed
from lrat.acceleration.view import Choices, View
from lrat.hardware import bfloat16_is_fast, full_float32
from lrat.modes import evaluating, outside_autocast, tensors_kept
from lrat.outputs import forward_logits
from lrat.randomness import random_state_kept
from lrat.text import percent
from lrat.types import Images

FLOAT32_TOLERANCE = 1e-4
"""Largest difference of logits, relative to the largest logit where that is above 1."""
AGREEMENT = 0.995
"""Least share of the probe images on which a low-precision view must choose the same class."""
_LOW_PRECISION_FLOP = 2e5
_CHANNELS_LAST_FLOP = 2e6
"""The forward FLOP per image from which they save time. Speed of one image-gradient pass relative
to the plain model, measured on a processor with AVX-512 bfloat16, best of 60: small-cnn on 8x8 (.47
MFLOP) folded 1.18x, with channels_last 1.06x, in bfloat16 with channels_last 1.69x; on 28x28 (.91
MFLOP) 1.47x, 1.58x, 3.22x."""
_TIE = 2.0**-6
"""The two best logits are a tie if they differ by less than this, relative to the larger: bfloat16
has 8 bits, and rounding errors add up in a deep network (one of 128 images of a new ResNet-18 was a
tie)."""
_BF16_GAIN = 1.2


def describe(view: View) -> str:
    """``bfloat16, channels_last, BatchNorm folded (20 of 20)``."""
    text = str(view.choices)
    total = view.folded + view.unfolded
    return text.replace("BatchNorm folded", f"BatchNorm folded ({view.folded} of {total})")


def choose(model: nn.Module, images: Images) -> Choices:
    """The fastest choices for this model on the images' device, by a rule that gives the same on
    every call on one machine."""
    try:
        flop = observed(model, images).flop
    except Exception:  # a model that cannot be observed gets the choices of the smallest ones
        flop = 0.0
    if flop >= _LOW_PRECISION_FLOP and _bfloat16_pays(images.device.type):
        return Choices(channels_last=True, precision="bfloat16")
    return Choices(channels_last=flop >= _CHANNELS_LAST_FLOP)


@torch.no_grad()
def disagreement(view: View, images: Images) -> str | None:
    """How the view differs from its original on these images; None if it may replace it."""
    original = view.original
    with (
        full_float32(),
        outside_autocast(images.device.type),
        tensors_kept(original, buffers_only=True),
        tensors_kept(view, buffers_only=True),
    ):
        with evaluating(original), random_state_kept():
            expected = forward_logits(original, images)
        with random_state_kept():
            actual = forward_logits(view, images)
    if view.choices.precision == "float32":
        scale = max(1.0, float(expected.abs().max()))
        same = (actual == expected) | (actual.isnan() & expected.isnan())
        difference = float((actual - expected).abs().masked_fill(same, 0).max()) / scale
        if difference <= FLOAT32_TOLERANCE:
            return None
        return f"logits differ by {difference:.1e}, allowed is {FLOAT32_TOLERANCE:.0e}"
    same = actual.argmax(1) == expected.argmax(1)
    top = expected.topk(2, dim=1).values
    tied = (top[:, 0] - top[:, 1]) <= _TIE * top.abs().amax(1)
    share = float((same | tied).float().mean())
    if share >= AGREEMENT:
        return None
    return f"the same class on {percent(share)} of images, needed are {percent(AGREEMENT)}"


@cache
def _bfloat16_pays(kind: str) -> bool:
    """Whether this device computes faster in bfloat16 than in float32.

    A processor that does not say so is measured: both are timed in turn, since other processes
    disturb them.
    """
    known = bfloat16_is_fast(kind)
    if known is not None or kind != "cpu":
        return bool(known)
    with torch.no_grad(), random_state_kept():
        layer = nn.Conv2d(32, 32, 3, padding=1, device=kind).requires_grad_(False)
        images = torch.zeros(32, 32, 16, 16, device=kind)
        images = images.contiguous(memory_format=torch.channels_last)
        low_layer = nn.Conv2d(32, 32, 3, padding=1, device=kind).to(torch.bfloat16)
        low_images = images.to(torch.bfloat16)
        full, low = _best_times(lambda: layer(images), lambda: low_layer(low_images))
    return full > _BF16_GAIN * low


def _best_times(*functions: Callable[[], object], rounds: int = 9) -> list[float]:
    """The best time of each of the ``functions``, which are called in turn."""
    best = [float("inf")] * len(functions)
    for _ in range(rounds):
        for number, function in enumerate(functions):
            start = time.perf_counter()
            function()
            best[number] = min(best[number], time.perf_counter() - start)
    return best

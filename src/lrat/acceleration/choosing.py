"""How to compute: what pays on this device for this model, and whether the view can be trusted."""

import logging
import platform
import time
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn

from lrat.acceleration.view import Choices, FastView, PlainView, View
from lrat.checks import MODULE, checked
from lrat.modes import evaluating
from lrat.outputs import forward_logits
from lrat.randomness import random_state_kept
from lrat.types import Images

_logger = logging.getLogger(__name__)
FLOAT32_TOLERANCE = 1e-4
"""Largest difference of logits, relative to the largest logit where that is above 1."""
AGREEMENT = 0.995
"""Least share of the probe images on which a low-precision view must choose the same class."""
_LOW_PRECISION_FLOP = 2e5
_CHANNELS_LAST_FLOP = 2e6
"""Forward FLOP per image from which they pay. Measured on a processor with AVX-512 bfloat16, best
of 60, one image-gradient pass against the plain model: small-cnn on 8x8 (.47 MFLOP) folded 1.18x,
with channels_last 1.06x, in bfloat16 with channels_last 1.69x; on 28x28 (.91 MFLOP) 1.47x, 1.58x,
3.22x."""
_TIE = 2.0**-6
"""Two best logits closer than this, relative to them, are a tie: bfloat16 keeps 8 bits, and a deep
network's rounding adds up (one of 128 images of a fresh ResNet-18 fell within it)."""
_BF16_GAIN = 1.2


@random_state_kept()
@checked(model=MODULE)
def accelerate(
    model: nn.Module, images: Images | None = None, *, choices: Choices | None = None
) -> View:
    """The attack's view of ``model``: eval mode, frozen, BatchNorm folded, and what else pays here.

    ``images`` [B C H W] are probed: what to choose follows from the device and the model's size on
    them, and the view must reproduce the original's logits on them: to 1e-4 in float32; the same
    class on 99.5 % in low precision. A view that does not is refused with the numbers in a warning
    and the next simpler one is used, at last the plain model. Without images BatchNorm is folded,
    in float32, unchecked. ``choices``: what an earlier view chose (``view.choices``), checked too.

    What cannot be folded stays as it is. ``view.refresh()`` after each change of the weights.
    """
    if choices is None:
        choices = Choices() if images is None else choose(model, images)
    for candidate in _simpler(choices):
        view = _build(model, candidate)
        if view is None:
            continue
        problem = None if images is None else disagreement(view, images)
        if problem is None:
            _logger.info("attacks see the model in %s", describe(view))
            return view
        _logger.warning("the view in %s is refused: %s", candidate, problem)
    return PlainView(model)


def describe(view: View) -> str:
    """``bfloat16, channels_last, BatchNorm folded (20 of 20)``."""
    text = str(view.choices)
    total = view.folded + view.unfolded
    return text.replace("BatchNorm folded", f"BatchNorm folded ({view.folded} of {total})")


def choose(model: nn.Module, images: Images) -> Choices:
    """What pays for this model on the images' device; the same on every call on one machine."""
    flop = _forward_flop(model, images)
    if flop >= _LOW_PRECISION_FLOP and _bfloat16_pays(images.device.type):
        return Choices(channels_last=True, precision="bfloat16")
    return Choices(channels_last=flop >= _CHANNELS_LAST_FLOP)


@torch.no_grad()
def disagreement(view: View, images: Images) -> str | None:
    """Why the view is no stand-in for its original on these images; None if it is one."""
    original = view.original
    with evaluating(original), torch.random.fork_rng(devices=[]):
        expected = forward_logits(original, images)
    with torch.random.fork_rng(devices=[]):
        found = forward_logits(view, images)
    if view.choices.precision == "float32":
        scale = max(1.0, float(expected.abs().max()))
        difference = float((found - expected).abs().max()) / scale
        if difference <= FLOAT32_TOLERANCE:
            return None
        return f"logits differ by {difference:.1e}, allowed is {FLOAT32_TOLERANCE:.0e}"
    same = found.argmax(1) == expected.argmax(1)
    top = expected.topk(2, dim=1).values
    tied = (top[:, 0] - top[:, 1]) <= _TIE * top.abs().amax(1)
    share = float((same | tied).float().mean())
    if share >= AGREEMENT:
        return None
    return f"the same class on {100 * share:.1f} % of images, needed are {100 * AGREEMENT:.1f} %"


def _simpler(choices: Choices) -> list[Choices]:
    """These choices, then without low precision; the plain model is what is left after them."""
    order = [choices, Choices(fold=choices.fold, channels_last=choices.channels_last)]
    return [each for each in dict.fromkeys(order) if each != Choices.plain()]


def _build(model: nn.Module, choices: Choices) -> View | None:
    try:
        return FastView(model, choices)
    except Exception as error:
        _logger.warning("no view in %s: %s", choices, " ".join(str(error).split()))
        return None


def _forward_flop(model: nn.Module, images: Tensor) -> float:
    """FLOP of one image's forward; 0 where the counter cannot follow the model."""
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with evaluating(model), torch.no_grad(), torch.random.fork_rng(devices=[]):
        try:
            with counter:
                forward_logits(model, images[:1])
        except Exception:
            return 0.0
    return float(counter.get_total_flops())


@cache
def _bfloat16_pays(kind: str) -> bool:
    """Whether this device computes faster in bfloat16, and does not only emulate it.

    On x86 the processor says so; elsewhere it is measured, which a busy machine can disturb.
    """
    if kind == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if kind != "cpu":
        return False
    if platform.machine().lower() in {"x86_64", "amd64"}:
        names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        return any(bool(getattr(torch.cpu, name, bool)()) for name in names)
    with torch.no_grad():
        layer = nn.Conv2d(32, 32, 3, padding=1, device=kind).requires_grad_(False)
        images = torch.zeros(32, 32, 16, 16).contiguous(memory_format=torch.channels_last)
        low_layer = nn.Conv2d(32, 32, 3, padding=1).to(torch.bfloat16)
        low_images = images.to(torch.bfloat16)
        full = _best_time(lambda: layer(images))
        low = _best_time(lambda: low_layer(low_images))
    return full > _BF16_GAIN * low


def _best_time(work: Callable[[], object], rounds: int = 7) -> float:
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)

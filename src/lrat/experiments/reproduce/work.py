"""How much work a run and its evaluations are, counted and in seconds of one worker."""

import time
from collections.abc import Mapping

import torch
from torch import nn

from lrat import hardware
from lrat.config import build
from lrat.config.settings import RunConfig
from lrat.data import ImageData
from lrat.reproduce.grid import EVALUATION_FORWARDS, STRONG
from lrat.types import Images

_PGD, _CW, _SAA, _FGSM = "pgd", "cw", "saa", "fgsm"
_ATTACKS: Mapping[str, tuple[str, ...]] = {
    "natural": (),
    "gairat": (_PGD,),
    "gairat-cw": (_CW,),
    "lsat-cw": (_CW,),
    "lsat-saa": (_SAA,),
    "lrat-cw": (_CW,),
    "lrat-saa": (_SAA,),
    "lrat-saa+cw": (_SAA, _CW),
    "gd+cw": (_CW, _PGD),
    "gd+saa": (_SAA, _PGD),
    "saa+cw+gd": (_SAA, _CW, _PGD),
    "pgd+fgsm": (_PGD, _FGSM),
}
"""What each method simulates; those that are not named, PGD."""
MASKING_FORWARDS = 3_000.0
"""Of the masking panel, per image that it looks at."""
_PROBE_IMAGES, _PROBE_MOST, _PROBE_REPEATS, _BRIEF_SECONDS = 16, 64, 4, 0.05


def training_forwards(config: RunConfig) -> float:
    """Network forwards of training per image and epoch: those of the attacks, and the updates'."""
    attack, name = config.attack, config.method.name
    cost = {
        _PGD: attack.steps + 1,
        _CW: attack.steps + 1,
        _SAA: attack.saa_targets * (attack.saa_steps + 1) + 1,
        _FGSM: 2,
    }
    attacks = _ATTACKS.get(name, (_PGD,))
    total = sum(cost[each] for each in attacks) + (_SAA in attacks)
    if name == "trades" or not attacks or config.method.anchor == "clean":
        total += 2 if name == "trades" else 1
    return float(total)


def evaluation_forwards(suite: str, images: int, training_images: int) -> float:
    """Forwards of an evaluation on ``images`` test images, per training image."""
    return EVALUATION_FORWARDS.get(suite, STRONG) * images / training_images


def monitor_forwards(config: RunConfig, images: int, training_images: int) -> float:
    """Forwards of what is measured after an epoch, per training image."""
    monitor = config.training.monitor
    if not monitor.attacks:
        return 0.0
    watched = min(images, monitor.limit or images)
    steps = sum(int(name.rpartition("-")[2]) for name in monitor.attacks if name[-1].isdigit())
    return steps * watched / training_images / monitor.every


def seconds_per_forward(config: RunConfig, images: ImageData) -> float:
    """Seconds that one image's forward and gradient take in an attack here, with one thread.

    Measured on a few images, for an estimate; a machine that is busy later takes longer.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(config.threads or 1)
    try:
        return _measured(config, images)
    finally:
        torch.set_num_threads(before)


def _measured(config: RunConfig, images: ImageData) -> float:
    place = hardware.device(config.device)
    network = build.model(config, images.shape, images.classes).to(place)
    view = build.view(config.acceleration, network, images)
    few = images.batch(torch.arange(min(_PROBE_IMAGES, len(images)))).images.to(place)
    # Large networks show their pace on few images, small ones only on a whole batch.
    if place.type == "cuda" or _pass_seconds(view, few) < _BRIEF_SECONDS:
        size = config.training.batch_size if place.type == "cuda" else _PROBE_MOST
        few = images.batch(torch.arange(min(size, len(images)))).images.to(place)
    return min(_pass_seconds(view, few) for _ in range(_PROBE_REPEATS)) / len(few)


def _pass_seconds(view: nn.Module, images: Images) -> float:
    """One forward and the gradient at the images."""
    began = time.perf_counter()
    given = images.clone().requires_grad_()
    torch.autograd.grad(view(given).logsumexp(1).sum(), given)[0].sum().item()
    return time.perf_counter() - began

"""One cell of a reproduction: a run, its evaluations, its masking panel; and their cost."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

import torch
from torch import nn

from lrat import hardware
from lrat.config import build
from lrat.config.catalogue import slug
from lrat.config.settings import RunConfig
from lrat.data import ImageData
from lrat.errors import NonFiniteError
from lrat.experiments.evaluate import evaluate_subject
from lrat.experiments.evaluation_request import EvaluationRequest
from lrat.experiments.masking import IMAGES, examine
from lrat.experiments.train import train_run
from lrat.reproduce.grid import EVALUATION_FORWARDS, STRONG, Cell, Evaluation, Quiet
from lrat.runs.folder import EVALUATIONS, PANEL, threat_slug
from lrat.runs.lock import alone
from lrat.runs.sources import ModelSource
from lrat.types import Images

QUICK = "quick"
_WITH_AUTOATTACK = {"paper", "strong"}

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


@dataclass(frozen=True, kw_only=True)
class Attacks:
    """What finished runs are attacked with: ``suite`` on ``limit`` test images (None: all), the
    short attacks on all. ``suite`` None: nothing is."""

    suite: str | None = "paper"
    limit: int | None = None

    @property
    def masking(self) -> bool:
        """Whether the masking panel is made too: it belongs to AutoAttack."""
        return self.suite in _WITH_AUTOATTACK

    def levels(self, images: int) -> list[tuple[str, int | None]]:
        """(suite, limit) of each evaluation of a run with so many test images, the last one's
        suite holding every attack."""
        if self.suite is None:
            return []
        if self.suite == QUICK or self.limit is None or self.limit >= images:
            limit = None if self.limit is None or self.limit >= images else self.limit
            return [(self.suite, limit)]
        return [(QUICK, None), (self.suite, self.limit)]


def evaluation_name(
    checkpoint: str, level: tuple[str, int | None], config: RunConfig, images: int
) -> str:
    """The folder of an evaluation below a run's, as ``lrat evaluate`` names it."""
    suite, limit = level
    count = images if limit is None else min(limit, images)
    return f"{checkpoint}-{slug(suite)}-{threat_slug(config.threat)}-{count}"


@dataclass(frozen=True, kw_only=True)
class RunTask:
    """A run to make. ``checkpoints``: the weights that are attacked; those of the first are
    examined for masking too. ``images``: how many (training, test) there are."""

    name: str
    config: RunConfig
    folder: Path
    checkpoints: tuple[str, ...]
    attacks: Attacks
    images: tuple[int, int]

    @property
    def cell(self) -> Cell:
        """The run as a cell of a grid, with its work."""
        training, test = self.images
        evaluations = []
        for checkpoint, level in product(self.checkpoints, self.attacks.levels(test)):
            name = evaluation_name(checkpoint, level, self.config, test)
            count = min(level[1] or test, test)
            evaluations.append(
                Evaluation(
                    pattern=f"{EVALUATIONS}/{name}*/summary.json",
                    forwards=evaluation_forwards(level[0], count, training),
                )
            )
        if self.attacks.masking:
            looked_at = min(IMAGES, self.attacks.limit or test, test)
            evaluations.append(
                Evaluation(
                    pattern=f"{EVALUATIONS}/*/{PANEL}",
                    forwards=MASKING_FORWARDS * looked_at / training,
                )
            )
        return Cell(
            name=self.name,
            folder=self.folder,
            epochs=self.config.training.epochs,
            forwards=training_forwards(self.config) + monitor_forwards(self.config, test, training),
            evaluations=tuple(evaluations),
        )


@dataclass(frozen=True, kw_only=True)
class MadeRun:
    """A cell that ended; ``failure``: why its training could not go on, None where it did."""

    name: str
    seconds: float
    failure: str | None = None

    def __str__(self) -> str:
        spent = f"{self.seconds:.0f} s of one worker"
        return spent if self.failure is None else f"FAILED after {spent} ({self.failure})"


class Maker:
    """``make_run`` for tasks by name, as worker processes take it."""

    def __init__(self, tasks: Sequence[RunTask]) -> None:
        self._make = partial(_make, tasks={task.name: task for task in tasks})

    def __call__(self, name: str) -> MadeRun:
        return self._make(name)


def _make(name: str, *, tasks: Mapping[str, RunTask]) -> MadeRun:
    return make_run(tasks[name])


def make_run(task: RunTask) -> MadeRun:
    """Train and attack what ``task`` says, or go on with it, or read it back.

    A run whose loss or gradient becomes NaN ends with a ``failure``: it is a result, and other
    rows go on. Other errors are raised. Where another command, or what is left of a killed one,
    makes the same run, its end is waited for.
    """
    started = time.perf_counter()
    failure = None
    with alone(task.folder.with_name(f".{task.folder.name}")):
        try:
            train_run(task.config, task.folder, progress=Quiet())
            for checkpoint in task.checkpoints:
                _attack(task, checkpoint)
        except NonFiniteError as error:
            failure = str(error)
    return MadeRun(name=task.name, seconds=time.perf_counter() - started, failure=failure)


def _attack(task: RunTask, checkpoint: str) -> None:
    levels = task.attacks.levels(task.images[1])
    if not levels:
        return
    source = ModelSource(run=task.folder, checkpoint=checkpoint, data_root=task.config.data.root)
    subject = source.load()
    for suite, limit in levels:
        request = EvaluationRequest(
            suite=suite,
            limit=limit,
            acceleration=task.config.acceleration,
            device=task.config.device,
        )
        folder, result = evaluate_subject(subject, request)
    if task.attacks.masking and checkpoint == task.checkpoints[0]:
        examine(subject, request, folder=folder, result=result)


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

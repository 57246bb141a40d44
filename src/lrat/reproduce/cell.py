"""One cell of a reproduction: a run, its evaluations, its masking panel."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lrat.config.catalogue import slug
from lrat.config.settings import RunConfig
from lrat.errors import NonFiniteError
from lrat.experiments.evaluate import evaluate_subject
from lrat.experiments.evaluation_request import EvaluationRequest
from lrat.experiments.masking import examine
from lrat.experiments.train import train_run
from lrat.reproduce.grid import Quiet, finished_files
from lrat.runs.folder import threat_slug
from lrat.runs.lock import alone
from lrat.runs.sources import ModelSource

QUICK = "quick"
_WITH_AUTOATTACK = {"paper", "strong"}


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
    examined for masking too. ``images``: how many there are to test on."""

    name: str
    config: RunConfig
    folder: Path
    checkpoints: tuple[str, ...]
    attacks: Attacks
    images: int


@dataclass(frozen=True, kw_only=True)
class MadeRun:
    """A cell that ended; ``failure``: why its training could not go on, None where it did.
    ``was_finished``: nothing was trained or attacked in this call."""

    name: str
    seconds: float
    was_finished: bool
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
        finished = finished_files(task.folder)
        try:
            train_run(task.config, task.folder, progress=Quiet())
            for checkpoint in task.checkpoints:
                _attack(task, checkpoint)
        except NonFiniteError as error:
            failure = str(error)
    return MadeRun(
        name=task.name,
        seconds=time.perf_counter() - started,
        was_finished=failure is None and finished_files(task.folder) == finished,
        failure=failure,
    )


def _attack(task: RunTask, checkpoint: str) -> None:
    levels = task.attacks.levels(task.images)
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

"""One cell of a reproduction: a run, its evaluations, its masking panel."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from lrat.config import build
from lrat.config.catalogue import folds_by_seed, slug
from lrat.config.settings import DataSettings, RunConfig
from lrat.errors import NonFiniteError
from lrat.experiments.evaluate import evaluate_subject
from lrat.experiments.evaluation_request import EvaluationRequest
from lrat.experiments.masking import examine
from lrat.experiments.train import train_run
from lrat.files.names import EVALUATIONS, MODEL, SUMMARY
from lrat.reproduce.presets import Choice
from lrat.runs.folder import threat_slug
from lrat.runs.lock import alone
from lrat.runs.sources import ModelSource
from lrat.training.watch import Silent

QUICK = "quick"
_WITH_AUTOATTACK = {"paper", "strong"}


@dataclass(frozen=True, kw_only=True)
class Attacks:
    """What finished runs are attacked with: ``suite`` on ``limit`` test images (None: all), the
    short attacks on all. ``suite`` None: nothing is. ``panels``: whether a masking panel follows
    AutoAttack."""

    suite: str | None = "paper"
    limit: int | None = None
    panels: bool = True

    @property
    def masking(self) -> bool:
        return self.panels and self.suite in _WITH_AUTOATTACK

    def levels(self, images: int) -> list[tuple[str, int | None]]:
        """(suite, limit) of each evaluation of a run with so many test images, the last one's
        suite holding every attack."""
        if self.suite is None:
            return []
        if self.suite == QUICK or self.limit is None or self.limit >= images:
            limit = None if self.limit is None or self.limit >= images else self.limit
            return [(self.suite, limit)]
        return [(QUICK, None), (self.suite, self.limit)]


@dataclass(frozen=True, kw_only=True)
class RunTask:
    """A run to make, or to read back: a ``row`` with a ``seed``. ``checkpoints``: the weights that
    are attacked; those of the first are examined for masking too."""

    row: str
    seed: int
    folder: Path
    config: RunConfig
    checkpoints: tuple[str, ...]
    attacks: Attacks

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def images(self) -> int:
        """How many there are to test on. Raises ``DataError`` for data that are not there."""
        return test_count(self.config.data, self.seed)

    @property
    def levels(self) -> list[tuple[str, int | None]]:
        """Suite and limit of each evaluation, see ``Attacks.levels``."""
        return self.attacks.levels(self.images)

    def evaluation_names(self, checkpoint: str) -> list[str]:
        """The folders of the evaluations below the run's, as ``lrat evaluate`` names them."""
        threat, images = threat_slug(self.config.threat), self.images
        return [
            f"{checkpoint}-{slug(suite)}-{threat}-{min(limit or images, images)}"
            for suite, limit in self.levels
        ]


def run_task(
    choice: Choice,
    folder: Path,
    row: str,
    seed: int,
    attacks: Attacks,
    changed: Mapping[str, Any] | None = None,
) -> RunTask:
    """The run of a row of a reproduction; ``changed``: further settings of the row."""
    config = choice.config(row, seed, changed)
    return RunTask(
        row=row,
        seed=seed,
        folder=folder,
        config=config,
        checkpoints=choice.checkpoints(config),
        attacks=attacks,
    )


def test_count(data: DataSettings, seed: int) -> int:
    """How many images there are to test on. Raises ``DataError`` for data that are not there."""
    return _test_count(data, seed if folds_by_seed(data.name) else 0)


@cache
def _test_count(data: DataSettings, seed: int) -> int:
    return len(build.data(data, seed).test)


@dataclass(frozen=True, kw_only=True)
class MadeRun:
    """A run that ended; ``failure``: why its training could not go on, None where it did.
    ``was_finished``: nothing was trained or attacked in this call."""

    name: str
    seconds: float
    was_finished: bool
    failure: str | None = None

    def __str__(self) -> str:
        time = f"{self.seconds:.0f} s of one worker"
        return time if self.failure is None else f"FAILED after {time} ({self.failure})"


class Quiet(Silent):
    """Of a single run, which says nothing either: a reproduction shows its own progress."""

    def say(self, line: str) -> None:
        return


def make_named(name: str, *, tasks: Mapping[str, RunTask]) -> MadeRun:
    """``make_run`` of the task of that name, as worker processes take it."""
    return make_run(tasks[name])


def finished_files(run: Path) -> frozenset[Path]:
    """What ends a training and each evaluation of ``run``: none is added where all was finished."""
    return frozenset([*run.glob(MODEL), *run.glob(f"{EVALUATIONS}/*/{SUMMARY}")])


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
    if not task.levels:
        return
    source = ModelSource(run=task.folder, checkpoint=checkpoint, data_root=task.config.data.root)
    subject = source.load()
    for suite, limit in task.levels:
        request = EvaluationRequest(
            suite=suite,
            limit=limit,
            acceleration=task.config.acceleration,
            device=task.config.device,
        )
        folder, result = evaluate_subject(subject, request)
    if task.attacks.masking and checkpoint == task.checkpoints[0]:
        examine(subject, request, folder=folder, result=result)

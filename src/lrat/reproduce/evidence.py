"""What finished runs left behind: results, costs, masking panels, and accuracies over seeds.

An accuracy over several training seeds has an interval that takes account of seeds and of images.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lrat.config.catalogue import FOLD_OVERLAP
from lrat.config.settings import RunConfig, differences
from lrat.errors import LratError, RunFolderError
from lrat.evaluation import EvaluationResult, Panel, mean_interval, wilson
from lrat.files.names import ENVIRONMENT, METRICS, MODEL, PANEL
from lrat.files.read import NOT_AS_WRITTEN, read_record, read_text, trouble
from lrat.reproduce.cell import RunTask
from lrat.runs.folder import evaluated, finished_at, read_config
from lrat.runs.weights import load_weights, weights_digest
from lrat.training import EpochRecord

_AGAIN = "bring it back, or move the run's folder away and train it again"

Basis = Literal["images", "seeds", "seeds and images"]


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of training, or its mean over seeds: passes per image and epoch (None where an attack did not
    count them), and the seconds of its steps, without those of measuring."""

    forwards: float | None
    backwards: float | None
    seconds: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """A finished run: ``results`` by level (see ``Attacks.levels``), the last one with every
    attack; ``epoch``: of the weights that were attacked; ``last``: the record of the last epoch."""

    row: str
    seed: int
    folder: Path
    checkpoint: str
    config: RunConfig
    results: tuple[EvaluationResult, ...]
    masking: Panel | None
    cost: Cost
    epoch: int
    last: EpochRecord
    environment: dict[str, Any]

    def result_with(self, attack: str) -> EvaluationResult | None:
        """The first result that has this attack: the one on the most images."""
        return next((each for each in self.results if attack in each.names), None)


def read_run(task: RunTask, checkpoint: str) -> Evidence:
    """The evidence of a finished run, trained and attacked as ``task`` says.

    Raises ``RunFolderError`` where it was trained with other settings, or an evaluation is missing.
    """
    config = read_config(task.folder)
    differing = differences(task.config.result_settings(), config.result_settings())
    if differing:
        raise RunFolderError(f"it was trained with other settings ({'; '.join(differing)})")
    digest = weights_digest(load_weights(task.folder, config, checkpoint))
    folders = [_evaluation(task.folder, n, digest) for n in task.evaluation_names(checkpoint)]
    records = metrics_of(task.folder, config.training.epochs)
    return Evidence(
        row=task.row,
        seed=task.seed,
        folder=task.folder,
        checkpoint=checkpoint,
        config=config,
        results=tuple(EvaluationResult.from_folder(folder) for folder in folders),
        masking=_panel(folders[-1]) if folders else None,
        cost=_cost(records),
        epoch=reported_epoch(task.folder, checkpoint),
        last=records[-1],
        environment=read_record(task.folder / ENVIRONMENT, _AGAIN),
    )


def read_runs(
    tasks: Iterable[RunTask], *, number: int = 0
) -> tuple[dict[str, list[Evidence]], list[str]]:
    """By row, the evidence of those runs that were trained and attacked as their tasks say, and
    what the others lack: a table must not mix settings, nor be lost for one damaged file.

    ``number``: of the checkpoints in ``RunTask.checkpoints``; runs that have fewer are left out.
    """
    runs: dict[str, list[Evidence]] = {}
    lacking = []
    for task in tasks:
        if number >= len(task.checkpoints):
            continue
        try:
            runs.setdefault(task.row, []).append(read_run(task, task.checkpoints[number]))
        except LratError as error:
            lacking.append(f"{task.name}: {error}")
    return {row: of_row for row, of_row in runs.items() if of_row}, lacking


def _evaluation(run: Path, name: str, weights: str) -> Path:
    """The finished evaluation of that name, or named after it, of these very weights."""
    # Not with another attack seed, or with attacks beside the suite's.
    named = re.compile(rf"{re.escape(name)}(-[0-9a-f]{{8}})*(-acceleration-\w+)?")
    for folder in finished_at(run):
        if named.fullmatch(folder.name) and evaluated(folder, "model") == weights:
            return folder
    raise RunFolderError(f"it has no finished evaluation {name}")


def _panel(evaluation: Path) -> Panel | None:
    stored = read_record(evaluation / PANEL, "delete it, and it is measured again", may_lack=True)
    return Panel.from_dict(stored) if stored else None


def metrics_of(run: Path, epochs: int) -> list[EpochRecord]:
    """A record for each of the ``epochs``. Raises ``RunFolderError`` where one cannot be read."""
    path = run / METRICS
    try:
        records = [EpochRecord.from_json(line) for line in read_text(path).splitlines()]
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path} {trouble(error)}; {_AGAIN}") from None
    if [record.epoch for record in records] != list(range(1, epochs + 1)):
        raise RunFolderError(f"{path} does not hold the epochs 1 to {epochs}; {_AGAIN}")
    return records


def _cost(records: Sequence[EpochRecord]) -> Cost:
    def passes(kind: str) -> float | None:
        parts = (f"attack_{kind}", f"update_{kind}")
        counts = [record.passes.get(part, 0.0) for record in records for part in parts]
        return mean_of_all(counts, len(records))

    return Cost(
        forwards=passes("forwards"),
        backwards=passes("backwards"),
        seconds=float(np.sum([record.seconds for record in records])),
    )


def mean_of_all(values: Sequence[float | None], count: int) -> float | None:
    """Their sum divided by ``count``; None where one of them is unknown."""
    known = [value for value in values if value is not None]
    return sum(known) / count if len(known) == len(values) else None


def reported_epoch(run: Path, checkpoint: str) -> int:
    """Of the weights called ``checkpoint`` (``selected`` or ``epoch-N``), counted from 1."""
    if checkpoint.startswith("epoch-"):
        return int(checkpoint.removeprefix("epoch-"))
    try:
        return int(read_record(run / MODEL, _AGAIN)["selected_epoch"])
    except NOT_AS_WRITTEN:
        raise RunFolderError(f"{run / MODEL} names no epoch; {_AGAIN}") from None


@dataclass(frozen=True, kw_only=True)
class SeededShare:
    """The share of all images tested with all seeds, a fraction, with a 95 % interval.

    ``n``: images of one seed, or of all seeds together where each tests others; ``values``: the
    share of each seed; ``deviation``: their standard deviation, None for one seed. ``basis`` of the
    interval:

    * ``images``: Wilson's, for the one model that was measured;
    * ``seeds``: Student's t over seeds that test different images, whose values differ by both,
      corrected for the training images that folds share (Nadeau & Bengio 2003);
    * ``seeds and images``: Student's t over seeds that test the same images, joined with Wilson's
      over these (see ``lrat.evaluation.comparison.seeds``).
    """

    value: float
    low: float
    high: float
    n: int
    values: tuple[float, ...]
    deviation: float | None
    basis: Basis


def over_seeds(counts: Sequence[tuple[int, int]], *, same_images: bool) -> SeededShare:
    """From (right, tested) of each seed; ``same_images``: whether all seeds test the same, and are
    no folds."""
    right, tested = sum(count for count, _ in counts), sum(n for _, n in counts)
    values = tuple(count / n for count, n in counts)
    value = right / tested
    n = counts[0][1] if same_images else tested
    images = wilson(round(value * n), n)
    if same_images:
        mean = mean_interval(values, images=images)
    else:
        mean = mean_interval(values, overlap=FOLD_OVERLAP)
    low, high = images.low, images.high
    basis: Basis = "images"
    # Of one seed, or of seeds without any spread, what remains is the images'.
    if mean.deviation and mean.low is not None and mean.high is not None:
        basis = "seeds and images" if same_images else "seeds"
        low = max(0.0, value - (mean.value - mean.low))
        high = min(1.0, value + (mean.high - mean.value))
    return SeededShare(
        value=value, low=low, high=high, n=n, values=values, deviation=mean.deviation, basis=basis
    )

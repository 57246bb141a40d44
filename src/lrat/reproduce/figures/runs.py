"""What figures read of a reproduction's folder: finished runs, their epochs, weights, analyses."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lrat.analysis import read_recorded
from lrat.config.catalogue import folds_by_seed
from lrat.config.method import MethodSettings
from lrat.config.settings import RunConfig
from lrat.data.digits import FOLDS
from lrat.errors import RunFolderError
from lrat.evaluation import wilson
from lrat.files.names import RECORDED
from lrat.reporting.figures import AccuracyCurve, Mark
from lrat.reproduce.cell import test_count
from lrat.reproduce.evidence import metrics_of, reported_epoch
from lrat.reproduce.folder import finished_runs, read_preset
from lrat.reproduce.presets import Choice, drop_epoch
from lrat.runs.folder import read_config
from lrat.training import EpochRecord

_BY_STEPS = {"gairat", "gairat-cw"}
_MOST_DROPS = 3
_DROP = 0.75


@dataclass(frozen=True, kw_only=True)
class FigureRun:
    """A finished run of a reproduction; ``root``: where its data lie now, None where they lay."""

    row: str
    seed: int
    folder: Path
    checkpoint: str
    root: str | None = None

    @cached_property
    def config(self) -> RunConfig:
        return read_config(self.folder)

    @cached_property
    def records(self) -> list[EpochRecord]:
        """The lines of ``metrics.jsonl``."""
        return metrics_of(self.folder, self.config.training.epochs)

    @property
    def data(self) -> str:
        """In a caption's words: the data set, and how much of it was trained on if not all."""
        data = self.config.data
        part = "" if data.train_limit is None else f"{data.train_limit:,} images of "
        return f"{part}{data.name}"

    @property
    def network(self) -> str:
        """In a caption's words: the network, and its width if that is not its own."""
        model = self.config.model
        return model.name if model.width is None else f"{model.name} of width {model.width}"

    @property
    def fold(self) -> int:
        """Which test images: equal for runs that are tested on the same ones."""
        return self.config.seed % FOLDS if folds_by_seed(self.config.data.name) else 0

    @cached_property
    def epoch(self) -> int:
        """Of the reported weights, counted from 1."""
        return reported_epoch(self.folder, self.checkpoint)

    @cached_property
    def drop(self) -> str:
        """The checkpoint of the paper's early stopping: the first epoch at the lower rate."""
        return f"epoch-{drop_epoch(self.config)}"

    @property
    def numbers(self) -> MethodSettings:
        """The numbers of the row's method, which a reproduction names; the paper's of another."""
        method = self.config.method
        return method if isinstance(method, MethodSettings) else MethodSettings()

    @property
    def reweighted_from(self) -> int:
        """The first epoch in which weights by steps survived act, counted from 1."""
        training = self.config.training
        length = training.schedule_epochs or training.epochs
        return math.ceil(self.numbers.gairat_begin * length - 1e-9) + 1

    @property
    def weighted_checkpoint(self) -> str:
        """The reported weights; the last ones where the reported epoch lies before weights by steps
        survived act, so that the model is another method's."""
        if self.row in _BY_STEPS and self.epoch < self.reweighted_from:
            return "last"
        return self.checkpoint

    @property
    def monitored(self) -> int:
        """How many test images are attacked after an epoch."""
        data = self.config.data
        if self.root is not None:
            data = data.model_copy(update={"root": self.root})
        images = test_count(data, self.config.seed)
        limit = self.config.training.monitor.limit
        return images if limit is None else min(limit, images)

    def last_weights(self) -> tuple[int, npt.NDArray[np.float64]]:
        """Epoch and raw weights [n] of the last recorded epoch up to the reported one in which the
        weighting acted; of the last recorded one where the reported one lies before that.

        Raises ``RunFolderError`` where no such epoch was recorded.
        """
        acting = [
            each
            for each in read_recorded(self.folder / RECORDED)
            if each.epoch >= self.reweighted_from
        ]
        epochs = self.config.training.epochs
        if self.reweighted_from > epochs:
            raise RunFolderError(
                f"{self.folder} was trained for {epochs} epochs and weighs its images from epoch "
                f"{self.reweighted_from} on: train longer"
            )
        if not acting:
            raise RunFolderError(
                f"{self.folder} recorded no weights of epoch {self.reweighted_from} or later, in "
                f"which {self.config.method.name} weighs its images: train it again with "
                f"training.record_weights=[{epochs}]"
            )
        until = [each for each in acting if each.epoch <= self.epoch] or acting
        chosen = until[-1]
        return chosen.epoch, chosen.raw[np.isfinite(chosen.raw)]


def runs_of(
    folder: Path, row: str, root: str | None = None, seeds: Sequence[int] | None = None
) -> list[FigureRun]:
    """The finished runs of a row in a reproduction's folder, by seed (``seeds``: these alone); none
    gives an empty list.

    Raises ``RunFolderError`` for a folder that is no reproduction's.
    """
    preset = read_preset(folder)
    choice = Choice.of(preset["preset"], preset["set"])
    return [
        FigureRun(
            row=row,
            seed=run.seed,
            folder=run.folder,
            checkpoint=choice.checkpoint(read_config(run.folder)),
            root=root,
        )
        for run in finished_runs(folder)
        if run.row == row and (seeds is None or run.seed in seeds)
    ]


def different_images(runs: Sequence[FigureRun]) -> list[FigureRun]:
    """The first run of each set of test images: all folds of digits, else the lowest seed alone."""
    first: dict[int, FigureRun] = {}
    for run in runs:
        first.setdefault(run.fold, run)
    return list(first.values())


def accuracy_curves(runs: Sequence[FigureRun]) -> list[AccuracyCurve]:
    """Test accuracy per epoch under each attack that all ``runs`` (at least one) monitored.

    The mean over seeds with Wilson's interval for that share of all different images; an interval
    over images, which says nothing of the spread over seeds. Raises ``RunFolderError`` for a run
    that monitored no test accuracy.
    """
    attacks = _monitored(runs)
    epochs = sorted(
        set.intersection(*({each.epoch for each in run.records if each.monitor} for run in runs))
    )
    images = sum(run.monitored for run in different_images(runs))
    curves = []
    for attack in attacks:
        shares = np.asarray([[_share(run, epoch, attack) for epoch in epochs] for run in runs])
        mean = shares.mean(0)
        ends = [wilson(round(share * images), images) for share in mean]
        curves.append(
            AccuracyCurve(
                name=attack,
                epoch=np.asarray(epochs),
                runs=shares,
                value=mean,
                low=np.asarray([end.low for end in ends]),
                high=np.asarray([end.high for end in ends]),
            )
        )
    return curves


def _monitored(runs: Sequence[FigureRun]) -> list[str]:
    for run in runs:
        monitor = run.config.training.monitor
        if not monitor.attacks or monitor.split != "test":
            raise RunFolderError(
                f"{run.folder} measured no test accuracy under attack per epoch: train it again "
                "with training.monitor.attacks=[pgd-20,cw-20]"
            )
    others = [set(run.config.training.monitor.attacks) for run in runs[1:]]
    first = runs[0].config.training.monitor.attacks
    return [attack for attack in first if all(attack in other for other in others)]


def _share(run: FigureRun, epoch: int, attack: str) -> float:
    share, images = run.records[epoch - 1].monitor.get(attack), run.monitored
    # The number of images is the configuration's; a share that no such number gives says
    # that the data are others now, and every interval would be wrong.
    if share is None or abs(share * images - round(share * images)) > 1e-3:
        raise RunFolderError(
            f"{run.folder}: accuracy {share} in epoch {epoch} is of another number of images than "
            f"{images}: name the run's own data by --data-root"
        )
    return share


def marks_of(run: FigureRun, *, weighted: bool) -> list[Mark]:
    """Where weights begin to act, for methods that have a beginning, and where the learning rate
    falls at once."""
    marks = []
    if weighted:
        marks.append(Mark(epoch=run.reweighted_from, words="weights act"))
    drops = [
        (each.epoch, each.lr / before.lr)
        for before, each in zip(run.records, run.records[1:], strict=False)
        if before.lr > 0 and each.lr < _DROP * before.lr
    ]
    if len(drops) <= _MOST_DROPS:
        marks += [Mark(epoch=epoch, words=f"rate × {ratio:.2g}") for epoch, ratio in drops]
    return marks

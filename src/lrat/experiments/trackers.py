"""Trackers by name: TensorBoard, or one of the user's own. ``metrics.jsonl`` is written always."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lrat.errors import ConfigurationError, UnknownNameError
from lrat.experiments.users_code import names_a_file, object_from_file, told
from lrat.training.metrics import EpochRecord
from lrat.training.watch import Tracker

TENSORBOARD = "tensorboard"
"""The tracker's name, and its folder in the run's."""
_METHODS = ("begin", "on_epoch", "end")


def build_trackers(names: Sequence[str], folder: Path) -> tuple[Tracker, ...]:
    """The trackers of the run in ``folder``, where nothing is written before training begins.

    ``tensorboard``, or ``FILE.py:FUNCTION``: a function or class that is called with the run's
    folder and returns a ``Tracker``. Raises ``UnknownNameError`` and ``ConfigurationError``.
    """
    return tuple(_build(name, folder) for name in names)


def _build(name: str, folder: Path) -> Tracker:
    if name == TENSORBOARD:
        return TensorBoard(folder / TENSORBOARD)
    if not names_a_file(name):
        raise UnknownNameError("tracker", name, [TENSORBOARD, "FILE.py:FUNCTION"])
    make = object_from_file(name, "tracker")
    if not callable(make):
        raise ConfigurationError(
            f"tracker {name!r}: it is {type(make).__name__}, not a function or class that is "
            "called with the run's folder"
        )
    with told(f"tracker {name!r}"):
        made = make(folder)
    missing = [method for method in _METHODS if not callable(getattr(made, method, None))]
    if missing or inspect.isclass(made):
        raise ConfigurationError(
            f"tracker {name!r}: it gives {type(made).__name__}, which lacks "
            f"{', '.join(missing) or 'an instance'}; a tracker has {', '.join(_METHODS)}"
        )
    tracker: Tracker = made
    return tracker


def scalars(record: EpochRecord) -> dict[str, float]:
    """The numbers of an epoch by group and name, for a tracker to draw; what is None is left out.

    ``accuracy/`` are fractions of 1: ``robust`` and ``clean`` of training images;
    ``held-out/NAME``, ``monitor/NAME``, ``average/NAME`` and ``probe/NAME`` as in ``EpochRecord``.
    ``loss/total`` and ``loss/TERM``; ``weights/TERM/`` what else is known of a term; ``lr``;
    ``speed`` in images/s.
    """
    return {name: float(value) for name, value in _named(record) if value is not None}


def _named(record: EpochRecord) -> Iterator[tuple[str, float | None]]:
    yield "accuracy/robust", record.robust_accuracy
    yield "accuracy/clean", record.clean_accuracy
    groups: Mapping[str, Mapping[str, float | None]] = {
        "held-out": record.validation,
        "monitor": record.monitor,
        "average": record.average,
        "probe": record.probe,
    }
    for group, values in groups.items():
        for name, value in values.items():
            yield f"accuracy/{group}/{name}", value
    yield "loss/total", record.loss
    for term, values in record.terms.items():
        for name, value in values.items():
            yield f"loss/{term}" if name == "loss" else f"weights/{term}/{name}", value
    yield "lr", record.lr
    yield "speed", record.images_per_second


class TensorBoard:
    """Writes ``scalars`` per epoch for ``tensorboard --logdir``, through torch's SummaryWriter.

    What an earlier process wrote of epochs that are trained again is purged. Raises
    ``ConfigurationError`` where the package is missing.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ConfigurationError(
                "tracker 'tensorboard' needs a package that is not installed: pip install "
                "'lrat[tensorboard]', or leave the tracker out (metrics.jsonl is written always)"
            ) from None
        self._folder = folder
        self._open: Any = SummaryWriter
        self._writer: Any = None
        self._first = 1

    def begin(self, records: Sequence[EpochRecord]) -> None:
        self._first = len(records) + 1

    def on_epoch(self, record: EpochRecord) -> None:
        if self._writer is None:  # a finished run that is asked for again adds no file
            self._writer = self._open(str(self._folder), purge_step=self._first)
        for name, value in scalars(record).items():
            self._writer.add_scalar(name, value, record.epoch)
        self._writer.flush()

    def end(self) -> None:
        if self._writer is not None:
            self._writer.close()

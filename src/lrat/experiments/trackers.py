"""Trackers by name: TensorBoard, or one of the user's own. ``metrics.jsonl`` is written always."""

import inspect
import io
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lrat.config.catalogue import names_users_code
from lrat.config.user_code import in_users_code, object_from_file
from lrat.errors import ConfigurationError, UnknownNameError
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
    if not names_users_code(name):
        raise UnknownNameError("tracker", name, [TENSORBOARD, "FILE.py:FUNCTION"])
    make = object_from_file(name, "tracker")
    if not callable(make):
        raise ConfigurationError(
            f"tracker {name!r}: it is {type(make).__name__}, not a function or class that is "
            "called with the run's folder"
        )
    with in_users_code(f"tracker {name!r}"):
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
    """Writes ``scalars`` per epoch for ``tensorboard --logdir``, one event file per process.

    What an earlier process wrote of epochs that are trained again is purged. The files are written
    here, by TensorBoard's own record writer, and not by torch's ``SummaryWriter``: that one leaves
    them to a thread, whose failures nobody catches, and names them after the machine. Raises
    ``ConfigurationError`` where the package is missing.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from tensorboard.compat.proto import event_pb2
            from tensorboard.summary.writer.record_writer import RecordWriter
        except ImportError:
            raise ConfigurationError(
                "tracker 'tensorboard' needs a package that is not installed: pip install "
                "'lrat[tensorboard]', or leave the tracker out (metrics.jsonl is written always)"
            ) from None
        self._folder = folder
        self._events: Any = event_pb2
        self._records: Any = RecordWriter
        self._path: Path | None = None
        self._first = 1

    def begin(self, records: Sequence[EpochRecord]) -> None:
        self._first = len(records) + 1

    def on_epoch(self, record: EpochRecord) -> None:
        path = self._path
        events = [] if path is not None else self._beginning()
        values = [{"tag": name, "simple_value": value} for name, value in scalars(record).items()]
        events.append({"step": record.epoch, "summary": {"value": values}})
        if path is None:  # a finished run that is asked for again adds no file
            # The seconds come first, as readers take the files in the order of their names.
            seconds, rest = divmod(time.time_ns(), 10**9)
            path = self._path = self._folder / f"events.out.tfevents.{seconds:010d}.{rest:09d}.lrat"
            self._folder.mkdir(parents=True, exist_ok=True)
        with open(path, "ab") as file:
            file.write(self._bytes(events))

    def end(self) -> None:
        return

    def _beginning(self) -> list[dict[str, Any]]:
        """What says from which epoch on earlier files no longer count."""
        start = {"status": self._events.SessionLog.START}
        return [{"file_version": "brain.Event:2"}, {"step": self._first, "session_log": start}]

    def _bytes(self, events: Sequence[Mapping[str, Any]]) -> bytes:
        gathered = io.BytesIO()
        writer = self._records(gathered)
        for event in events:
            made = self._events.Event(wall_time=time.time(), **event)
            writer.write(made.SerializeToString())
        return gathered.getvalue()

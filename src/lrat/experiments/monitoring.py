"""What a run measures while it trains, each process its share; and the trackers of its epochs.

A tracker is TensorBoard or the user's own. ``metrics.jsonl`` is written always.
"""

import inspect
import io
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lrat.acceleration import View
from lrat.config.catalogue import names_users_code
from lrat.config.settings import RunConfig
from lrat.config.user_code import in_users_code, object_from_file
from lrat.data import ImageData, Splits, in_order, stratified_subset
from lrat.data.arrays import SCALE_WORDS
from lrat.distributed.group import ProcessGroup, SingleProcess
from lrat.errors import ConfigurationError, UnknownNameError
from lrat.evaluation import Suite, evaluate_suite
from lrat.runs import suites
from lrat.threat import Ball, as_ball
from lrat.training import Progress, Watch
from lrat.training.guards import ImageScale, Measured, Probe, probe_size, standard_guards
from lrat.training.metrics import EpochRecord
from lrat.training.watch import Measure, Silent, Tracker

CLEAN_SUBSET = 512
VALIDATION_STEPS = 10
_BATCH = 256

TENSORBOARD = "tensorboard"
"""The tracker's name, and its folder in the run's."""
_METHODS = ("begin", "on_epoch", "end")


def accuracy_measure(
    data: ImageData,
    suite: Suite,
    *,
    seed: int,
    view: nn.Module,
    device: torch.device,
    group: ProcessGroup | None = None,
) -> Measure:
    """A measure for training to call: accuracy on ``data``, natural and under each attack.

    ``view``: what attacks see, refreshed from the model at each call. Each process of ``group``
    takes every n-th image; all know the accuracy on all of them. The model was
    examined before the run.
    """
    group = SingleProcess() if group is None else group
    alone = len(data) < group.size  # then each takes all
    share = (
        data
        if alone
        else data.select(torch.arange(group.rank, len(data), group.size, device="cpu"))
    )

    def measure(model: nn.Module) -> Mapping[str, float]:
        if isinstance(view, View):
            view.refresh()
        batches = in_order(share, batch_size=_BATCH, device=device)
        result = evaluate_suite(
            model, batches, suite, seed=seed, view=view, device=device, known_notes=()
        )
        accuracy = {name: each.value for name, each in result.accuracy.items()}
        if alone or group.size == 1:
            return accuracy
        right = [round(value * len(share)) for value in accuracy.values()]
        counts = torch.tensor(right, dtype=torch.float64, device=device)
        total = group.gather(counts).sum(0) / len(data)
        return dict(zip(accuracy, total.tolist(), strict=True))

    return measure


def selection_key(config: RunConfig) -> str:
    """The name of the attack by whose accuracy on held-out images an epoch is selected."""
    return _pgd(config.training.validation_steps)


def _pgd(steps: int) -> str:
    return f"pgd-{steps}"


@dataclass(frozen=True, kw_only=True)
class Monitoring:
    """What is measured after each epoch, besides clean accuracy on images that are trained on.

    ``held`` is attacked by PGD of ``steps`` steps inside ``threat``, by which an epoch is selected
    with ``selects``; ``monitored`` by ``attacks`` after every ``every`` epochs. Without ``held``,
    ``guards`` attack some of the images that are trained on.
    """

    threat: Ball
    seed: int
    held: ImageData | None
    selects: bool
    steps: int = VALIDATION_STEPS
    monitored: ImageData | None = None
    attacks: tuple[str, ...] = ()
    every: int = 1
    guards: bool = True

    @classmethod
    def of(cls, config: RunConfig, splits: Splits) -> "Monitoring":
        """What ``config`` says; ``ConfigurationError`` where ``splits`` lack its images."""
        training, held = config.training, splits.validation
        if training.selection == "robust" and held is None:
            raise ConfigurationError(
                "training.selection=robust needs held-out images: set data.validation above 0, or "
                "training.selection=last"
            )
        monitored = None
        if training.monitor.attacks:
            monitored = splits.test if training.monitor.split == "test" else held
            if monitored is None:
                raise ConfigurationError("training.monitor.split=validation: data.validation is 0")
            monitored = stratified_subset(monitored, training.monitor.limit, seed=0)
        return cls(
            threat=as_ball(config.threat),
            seed=config.seed,
            held=held,
            selects=training.selection == "robust",
            steps=training.validation_steps,
            monitored=monitored,
            attacks=training.monitor.attacks,
            every=training.monitor.every,
            guards=training.guards,
        )

    def watch(
        self,
        images: ImageData,
        view: nn.Module,
        device: torch.device,
        *,
        group: ProcessGroup | None = None,
        progress: Progress | None = None,
        trackers: Sequence[Tracker] = (),
        notes: tuple[str, ...] = (),
    ) -> Watch:
        """The measurements and guards of a training on ``images``.

        ``view``: what attacks see; ``notes``: of the model's examination before the run.
        """

        def accuracy(data: ImageData, *attacks: str) -> Measure:
            suite = suites.attacks_as_suite(attacks, self.threat)
            return accuracy_measure(
                data, suite, seed=self.seed, view=view, device=device, group=group
            )

        held, name = self.held, _pgd(self.steps)
        clean = stratified_subset(images, CLEAN_SUBSET, seed=0)
        probe, guards = None, None
        if self.guards and held is None:
            some = stratified_subset(images, probe_size(len(images)), seed=0)
            probe = Probe(
                batches=tuple(in_order(some, batch_size=_BATCH, device=device)),
                threat=self.threat,
                view=view,
                seed=self.seed,
            )
        if self.guards:
            guards = standard_guards(
                validation=None if held is None else Measured(name=name, images=len(held)),
                selects=self.selects,
                probe=None if probe is None else probe.measured,
                largest_class=float(clean.labels.bincount().max()) / len(clean),
                clean_images=len(clean),
                said=[ImageScale.name] if any(SCALE_WORDS in note for note in notes) else [],
            )
        return Watch(
            clean=tuple(in_order(clean, batch_size=_BATCH, device=device)),
            validate=None if held is None else accuracy(held, name),
            select_by=name if self.selects else None,
            monitor=None if self.monitored is None else accuracy(self.monitored, *self.attacks),
            monitor_every=self.every,
            probe=probe,
            guards=guards,
            trackers=trackers,
            progress=progress or Silent(),
            notes=notes,
        )


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
    make, _ = object_from_file(name, "tracker")
    if not callable(make):
        raise ConfigurationError(
            f"tracker {name!r}: it is {type(make).__name__}, not a function or class that is "
            "called with the run's folder"
        )
    with in_users_code(f"tracker {name!r}"):
        built = make(folder)
    missing = [method for method in _METHODS if not callable(getattr(built, method, None))]
    if missing or inspect.isclass(built):
        raise ConfigurationError(
            f"tracker {name!r}: it gives {type(built).__name__}, which lacks "
            f"{', '.join(missing) or 'an instance'}; a tracker has {', '.join(_METHODS)}"
        )
    tracker: Tracker = built
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
        if path is None:  # repeating a finished run adds no file
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
            stamped = self._events.Event(wall_time=time.time(), **event)
            writer.write(stamped.SerializeToString())
        return gathered.getvalue()

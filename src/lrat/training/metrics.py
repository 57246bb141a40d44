"""What an epoch was like: sums on the device while it runs, one record when it ends.

``WeightRecorder`` keeps the weights of single images in chosen epochs, the evidence behind the
figures on weights.
"""

import hashlib
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lrat.errors import RunFolderError
from lrat.files.read import parse_object, read_text, trouble
from lrat.files.write import append_line, to_json, write_table, write_text
from lrat.training.outcome import StepOutcome, TermRows

TIMES = ("seconds", "evaluation_seconds", "images_per_second")
"""The fields of ``EpochRecord`` that differ between two runs of the same configuration."""
_CURE = "bring it back, or remove it to continue without the records of those epochs"

COLUMNS = ("index", "label", "term", "raw_weight", "normalised_weight", "loss")
_KIND_OF = {"raw_weight": "weight", "normalised_weight": "share", "loss": "loss"}


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """One line of ``metrics.jsonl``. Accuracies are fractions of 1.

    ``epoch`` counts from 1. ``lr``: of its last step. ``loss``: mean over images. ``terms``: per
    term ``loss``, ``weight_mean``, ``weight_min``, ``weight_max`` (raw weights), ``share`` (mean
    coefficient; 1 is all of the loss), ``effective_sample_size`` (see the function, mean over
    steps). ``fallbacks``: steps in which all weights were 0. ``robust_accuracy``: of the training
    forward on the first variant; ``clean_accuracy``: on the fixed subset, in eval mode.
    ``skipped``: steps that changed nothing, as their loss or gradient was not finite (the other
    numbers are of the others). ``average``: ``clean_accuracy`` and what validation and monitor gave
    (``validation/NAME``, ``monitor/NAME``) with the averaged weights. ``probe``: accuracy under a
    stronger attack on some training images. ``notices``: what guards said.
    ``passes``: per image, ``attack_`` and ``update_`` ``forwards`` and ``backwards``.
    ``seconds`` of the steps, ``evaluation_seconds`` of everything at the end of the epoch.
    """

    epoch: int
    lr: float
    loss: float | None
    steps: int
    images: int
    terms: Mapping[str, Mapping[str, float | None]]
    fallbacks: int = 0
    robust_accuracy: float | None = None
    clean_accuracy: float | None = None
    passes: Mapping[str, float | None] = field(default_factory=dict)
    validation: Mapping[str, float | None] = field(default_factory=dict)
    monitor: Mapping[str, float | None] = field(default_factory=dict)
    average: Mapping[str, float | None] = field(default_factory=dict)
    probe: Mapping[str, float | None] = field(default_factory=dict)
    skipped: int = 0
    notices: Sequence[Mapping[str, str]] = ()
    seconds: float = 0.0
    evaluation_seconds: float = 0.0
    images_per_second: float = 0.0

    def to_json(self) -> str:
        """One line of JSON with its checksum and without its line end."""
        return to_json(_finite(asdict(self)))

    @classmethod
    def from_json(cls, line: str) -> "EpochRecord":
        """The record that a line of ``metrics.jsonl`` holds; ``ValueError`` for a damaged one."""
        values = parse_object(line)
        try:
            record = cls(**values | {"notices": tuple(values.get("notices", ()))})
            record._check()
            return record
        except (AttributeError, TypeError) as error:
            raise ValueError(f"is no record of an epoch ({error})") from None

    def _check(self) -> None:
        """``TypeError`` or ``AttributeError`` for values that no epoch has."""
        tables = (self.passes, self.validation, self.monitor, self.average, self.probe)
        counts = (self.epoch, self.steps, self.images, self.fallbacks, self.skipped)
        times = (self.seconds, self.evaluation_seconds, self.images_per_second)
        numbers = [self.loss, self.robust_accuracy, self.clean_accuracy]
        numbers += [value for each in (*tables, *self.terms.values()) for value in each.values()]
        texts = [text for notice in self.notices for text in notice.values()]
        if not (
            all(type(each) is int and each >= 0 for each in counts)
            and all(type(each) in {int, float} for each in (self.lr, *times))
            and all(each is None or type(each) in {int, float} for each in numbers)
            and all(isinstance(each, str) for each in texts)
        ):
            raise TypeError("a value is not of its kind")


def _finite(value: Any) -> Any:
    """JSON has no NaN or infinity: null there, so that every reader can parse the line."""
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def effective_sample_size(weights: Tensor) -> Tensor:
    """(sum w)^2 / sum w^2 / n of weights [n], in 0..1: 1 where all are equal, 0 where all are 0."""
    squares = weights.square().sum()
    size = weights.sum().square() / (squares * len(weights))
    return torch.where(squares > 0, size, torch.zeros_like(size))


class EpochSums:
    """Sums over the steps of one epoch, kept on the device: no host synchronisation until read.

    ``state_dict`` is part of a checkpoint within an epoch, so that its record comes out the same.
    """

    def __init__(self, device: torch.device) -> None:
        self.steps = 0
        self.images = 0
        self.skipped = 0
        self.seconds = 0.0
        self._device = device
        self._dtype = torch.float32 if device.type == "mps" else torch.float64
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._extremes: dict[str, Tensor] = {}

    def add(self, outcome: StepOutcome) -> None:
        """Take in one step."""
        count = outcome.images
        self.steps += 1
        self.images += count
        for name, passed in vars(outcome.passes).items():
            self._mean(f"passes/{name}", passed, count)
        if outcome.skipped:
            self.skipped += 1
            return
        self._mean("loss", outcome.loss * count, count)
        self._mean("fallbacks", 0 if outcome.fallbacks is None else outcome.fallbacks, 1)
        if outcome.correct is not None:
            self._mean("correct", outcome.correct.sum(), len(outcome.correct))
        for term, rows in outcome.terms.items():
            for kind, values in rows.values.items():
                self._add_rows(kind, term, values.to(self._dtype))

    def _add_rows(self, kind: str, term: str, values: Tensor) -> None:
        name = "weight_mean" if kind == "weight" else kind
        self._mean(f"terms/{term}/{name}", values.sum(), len(values))
        if kind == "weight":
            self._extreme(f"terms/{term}/weight_min", values.min(), torch.minimum)
            self._extreme(f"terms/{term}/weight_max", values.max(), torch.maximum)
        elif kind == "share":
            self._mean(f"terms/{term}/effective_sample_size", effective_sample_size(values), 1)

    def _mean(self, name: str, total: Tensor | float, count: int) -> None:
        if name not in self._sums:
            self._sums[name] = torch.zeros((), dtype=self._dtype, device=self._device)
            self._counts[name] = 0
        self._sums[name] += total
        self._counts[name] += count

    def _extreme(
        self, name: str, value: Tensor, choose: Callable[[Tensor, Tensor], Tensor]
    ) -> None:
        held = self._extremes.get(name)
        self._extremes[name] = value if held is None else choose(held, value)

    def record(self, *, epoch: int, lr: float, **extra: Any) -> EpochRecord:
        """The record of the epoch (counted from 0 here); ``extra`` fills its other fields."""
        values = self._read()
        terms: dict[str, dict[str, float]] = {}
        for name in sorted(name for name in values if name.startswith("terms/")):
            term, _, kind = name.removeprefix("terms/").rpartition("/")
            terms.setdefault(term, {})[kind] = values[name]
        return EpochRecord(
            epoch=epoch + 1,
            lr=lr,
            loss=values.get("loss"),
            steps=self.steps,
            images=self.images,
            skipped=self.skipped,
            terms=terms,
            fallbacks=round(values.get("fallbacks", 0) * (self.steps - self.skipped)),
            robust_accuracy=values.get("correct"),
            passes={
                name.removeprefix("passes/"): value
                for name, value in values.items()
                if name.startswith("passes/")
            },
            seconds=self.seconds,
            images_per_second=self.images / self.seconds if self.seconds > 0 else 0.0,
            **extra,
        )

    def _read(self) -> dict[str, float]:
        """All means and extremes in one transfer."""
        held = {**self._sums, **self._extremes}
        read = torch.stack(list(held.values())).tolist()
        return {
            name: value / self._counts.get(name, 1) for name, value in zip(held, read, strict=True)
        }

    def state_dict(self) -> dict[str, Any]:
        return {
            "steps": self.steps,
            "images": self.images,
            "skipped": self.skipped,
            "seconds": self.seconds,
            "sums": dict(self._sums),
            "counts": dict(self._counts),
            "extremes": dict(self._extremes),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.steps = state["steps"]
        self.images = state["images"]
        self.skipped = state["skipped"]
        self.seconds = state["seconds"]
        self._counts = dict(state["counts"])
        self._sums = {name: value.to(self._device) for name, value in state["sums"].items()}
        self._extremes = {name: value.to(self._device) for name, value in state["extremes"].items()}


class MetricsFile:
    """``metrics.jsonl``: one JSON object per epoch, whole lines only.

    The file is the record of a run; a checkpoint holds ``state_dict`` alone, the number of lines
    before it and their digest, so that its size does not grow with the epochs.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._count = 0
        self._digest = hashlib.sha256()

    def rewrite(self, lines: Iterable[str]) -> None:
        """Make the file hold these lines: a continued run cuts it back to its checkpoint."""
        text = self._take([f"{line}\n" for line in lines])
        try:
            stored = read_text(self.path)
        except (OSError, ValueError):
            stored = None
        if stored != text:
            write_text(self.path, text)

    def append(self, line: str) -> None:
        """Add one line, whole or not at all. Raises ``RunFolderError`` if that is impossible."""
        append_line(self.path, line)
        self._count += 1
        self._digest.update(f"{line}\n".encode())

    def state_dict(self) -> dict[str, Any]:
        return {"lines": self._count, "sha256": self._digest.hexdigest()}

    def lines(self, saved: Mapping[str, Any]) -> list[str]:
        """The lines that ``saved``, a ``state_dict``, was of; none where the file is gone.

        Raises ``RunFolderError`` where the file holds others.
        """
        try:
            rows = [f"{row}\n" for row in read_text(self.path).split("\n")][: saved["lines"]]
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:
            raise RunFolderError(f"{self.path} {trouble(error)}; {_CURE}") from None
        self._take(rows)
        if self.state_dict() != saved:
            raise RunFolderError(
                f"{self.path} does not hold the {saved['lines']} epochs before the newest "
                f"checkpoint{_first_damaged(rows)}: {_CURE}"
            )
        return [row.removesuffix("\n") for row in rows]

    def _take(self, rows: Sequence[str]) -> str:
        text = "".join(rows)
        self._count, self._digest = len(rows), hashlib.sha256(text.encode())
        return text


def _first_damaged(rows: Sequence[str]) -> str:
    for number, row in enumerate(rows, start=1):
        try:
            parse_object(row)
        except ValueError as error:
            return f" (line {number} {error})"
    return ""


class WeightRecorder:
    """Writes ``folder/epoch-NNN.parquet`` (``.npz`` without pyarrow), one row per image and term.

    ``epochs``: the epochs to record, counted from 1. Columns ``COLUMNS``: index and label int64,
    term text, the others float32 (NaN where the objective does not tell); rows by term, then by
    index, so that they do not depend on the order of batches. ``state_dict`` holds the rows of an
    epoch under way.
    """

    def __init__(self, folder: Path, *, epochs: Collection[int]) -> None:
        self._folder = folder
        self._epochs = frozenset(epochs)
        self._parts: dict[str, list[dict[str, Tensor]]] = {}

    def add(self, outcome: StepOutcome, *, epoch: int) -> None:
        """Keep the rows of a step if its epoch (from 1) is to be recorded."""
        if epoch in self._epochs:
            for term, rows in outcome.terms.items():
                self._parts.setdefault(term, []).append(_part(rows))

    def write(self, *, epoch: int) -> Path | None:
        """Write the epoch's file and forget its rows; None if it is not to be recorded."""
        parts, self._parts = self._parts, {}
        if epoch not in self._epochs:
            return None
        return write_table(self._folder / f"epoch-{epoch:03d}", _table(parts))

    def state_dict(self) -> dict[str, Any]:
        """The rows so far, joined: thousands of small tensors take long to write and to read."""
        self._parts = {term: [_joined(parts)] for term, parts in self._parts.items()}
        return {"parts": {term: list(parts) for term, parts in self._parts.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._parts = {term: list(parts) for term, parts in state["parts"].items()}


def _part(rows: TermRows) -> dict[str, Tensor]:
    missing = torch.full((len(rows.index),), torch.nan, device=rows.index.device)
    part = {name: rows.values.get(kind, missing).float() for name, kind in _KIND_OF.items()}
    return {"index": rows.index, "label": rows.labels, **part}


def _joined(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: _on_cpu([part[name] for part in parts]) for name in parts[0]}


def _on_cpu(pieces: Sequence[Tensor]) -> Tensor:
    """Pieces joined on the CPU: those of a continued run lie there already, new ones may not.

    Neighbours on one device are joined there first, as each transfer waits for the device.
    """
    groups = groupby(pieces, key=lambda piece: piece.device)
    return torch.cat([torch.cat(list(group)).cpu() for _, group in groups])


def _table(parts: Mapping[str, list[dict[str, Tensor]]]) -> dict[str, np.ndarray]:
    tables = []
    for term, pieces in parts.items():
        columns = {name: values.numpy() for name, values in _joined(pieces).items()}
        order = np.argsort(columns["index"], kind="stable")
        table = {name: values[order] for name, values in columns.items()}
        tables.append({**table, "term": np.full(len(order), term)})
    if not tables:
        return {name: np.empty(0, dtype="U1" if name == "term" else "f4") for name in COLUMNS}
    return {name: np.concatenate([table[name] for table in tables]) for name in COLUMNS}

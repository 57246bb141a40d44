"""Per-image weights of chosen epochs: the evidence behind the figures on weights."""

from collections.abc import Collection, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lrat.files.write import write_table
from lrat.training.outcome import StepOutcome, TermRows

COLUMNS = ("index", "label", "term", "raw_weight", "normalised_weight", "loss")
_KIND_OF = {"raw_weight": "weight", "normalised_weight": "share", "loss": "loss"}


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

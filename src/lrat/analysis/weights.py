"""Statistics of a method's weights, per recorded epoch, term and class."""

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lrat.errors import RunFolderError
from lrat.files.read import listed, read_whole, trouble
from lrat.files.write import TABLE_SUFFIXES, read_table

Floats = npt.NDArray[np.float64]
EDGES: Floats = np.append(np.arange(61) / 20, np.inf)
"""Edges of the histograms: bins of .05 from 0 to 3, and one for all above."""
LOW = 0.2
"""The paper calls a weight below this very low (Figure 1a)."""
ALL_CLASSES = -1
SUM = "(sum)"
"""The row of all terms together: an image's weights added up, S of Eq. 15."""
_EPOCH = re.compile(r"epoch-(\d+)")


@dataclass(frozen=True, kw_only=True, eq=False)
class RecordedEpoch:
    """The weights of one epoch, counted from 1: a row per image and term.

    ``label`` int64; ``term`` text; ``raw`` and ``normalised`` float64, NaN where the objective has
    no weights (TRADES).
    """

    epoch: int
    index: npt.NDArray[np.int64]
    label: npt.NDArray[np.int64]
    term: npt.NDArray[Any]
    raw: Floats
    normalised: Floats


def read_recorded(folder: Path) -> Iterator[RecordedEpoch]:
    """The recorded epochs in a run's ``weights`` folder, ascending.

    Raises ``RunFolderError`` that names a damaged file, or a folder that cannot be read.
    """
    try:
        paths = listed(folder, "epoch-*")
    except OSError as error:
        raise RunFolderError(f"{folder} {trouble(error)}; make it readable") from None
    by_epoch = {
        int(match[1]): path
        for path in paths
        if path.suffix in TABLE_SUFFIXES and (match := _EPOCH.fullmatch(path.stem))
    }
    cure = "bring it back, or delete it to analyse the others"
    for epoch, path in sorted(by_epoch.items()):
        yield read_whole(path, partial(_recorded, epoch), cure)


def _recorded(epoch: int, path: Path) -> RecordedEpoch:
    table = read_table(path)
    return RecordedEpoch(
        epoch=epoch,
        index=table["index"].astype(np.int64),
        label=table["label"].astype(np.int64),
        term=table["term"].astype(np.str_),
        raw=table["raw_weight"].astype(np.float64),
        normalised=table["normalised_weight"].astype(np.float64),
    )


def weight_statistics(
    epochs: Iterable[RecordedEpoch],
    *,
    floor: float | Callable[[int], float],
    kinds: Collection[str] = ("raw", "normalised"),
    by_class: bool = True,
) -> dict[str, npt.NDArray[Any]]:
    """The content of ``weights.parquet``: a row per epoch, term, kind of weight and class.

    Columns: ``epoch``; ``term`` (``(sum)``: the terms of an image added up); ``kind`` (``raw``, or
    ``normalised`` under Eq. 15); ``label`` (-1: all classes); ``n``, ``mean``, ``deviation``,
    ``minimum``, ``maximum``; ``share_below`` (weights < .2); ``effective_sample_size``
    ((sum w)^2 / (n sum w^2), 1 where all weights are equal); ``instance_share`` and
    ``instance_share_deviation``: w_ij / sum_j w_ij, a term's share of an image's weight;
    ``floor_share``: the share of images whose raw weights add up to less than ``floor`` (C of
    Eq. 7, or a function from the epoch to it), so that the floor has weight, in rows of either
    kind; ``bin_00`` ...: counts between ``EDGES``. Terms without weights have no rows. ``kinds``:
    only these; ``by_class`` False: rows over all classes alone.
    """
    rows: list[dict[str, npt.NDArray[Any]]] = []
    for each in epochs:
        known = np.isfinite(each.raw)
        images, image = np.unique(each.index[known], return_inverse=True)
        if not len(images):
            continue
        label = np.zeros(len(images), dtype=np.int64)
        if by_class:
            label[image] = each.label[known]
        least = floor(each.epoch) if callable(floor) else floor
        below = np.bincount(image, weights=each.raw[known], minlength=len(images)) < least
        names, first = np.unique(each.term[known], return_index=True)
        terms = names[first.argsort()]  # in their original order
        for kind, weights in (("raw", each.raw[known]), ("normalised", each.normalised[known])):
            if kind not in kinds:
                continue
            total = np.bincount(image, weights=weights, minlength=len(images))
            for term in [*terms, SUM]:
                chosen = each.term[known] == term
                at = np.arange(len(images)) if term == SUM else image[chosen]
                values = (total if term == SUM else weights[chosen]).astype(np.float64)
                share = np.divide(values, total[at], out=np.zeros(len(at)), where=total[at] > 0)
                table = _by_class(values, label[at], share, below[at])
                if not by_class:
                    table = {name: column[:1] for name, column in table.items()}
                keys = {"epoch": each.epoch, "term": str(term), "kind": kind}
                columns = {name: np.full(len(table["n"]), key) for name, key in keys.items()}
                rows.append({**columns, **table})
    if not rows:
        return {}
    return {name: np.concatenate([table[name] for table in rows]) for name in rows[0]}


def _by_class(
    values: Floats,
    label: npt.NDArray[np.int64],
    share: Floats,
    below: npt.NDArray[np.bool_],
) -> dict[str, npt.NDArray[Any]]:
    """Statistics over all images, then over each class, by sums, so that a thousand classes cost as
    much as ten."""
    classes, group = np.unique(label, return_inverse=True)
    count = len(classes)

    def sums(of: npt.NDArray[Any]) -> Floats:
        each = np.bincount(group, weights=of, minlength=count).astype(np.float64)
        return np.append(of.sum(dtype=np.float64), each)

    def extremes(choose: np.ufunc, start: float) -> Floats:
        each = np.full(count, start)
        choose.at(each, group, values)
        return np.append(choose.reduce(values), each)

    n = sums(np.ones(len(values)))
    mean, mean_share = sums(values) / n, sums(share) / n
    at = group + 1  # the first row is that of all classes
    squares = sums(values**2)
    sizes = np.divide(sums(values) ** 2, n * squares, out=np.zeros(len(n)), where=squares > 0)
    return {
        "label": np.append(ALL_CLASSES, classes),
        "n": n.astype(np.int64),
        "mean": mean,
        "deviation": np.sqrt(_spread(sums, values, mean, at, n)),
        "minimum": extremes(np.minimum, np.inf),
        "maximum": extremes(np.maximum, -np.inf),
        "share_below": sums(values < LOW) / n,
        "effective_sample_size": sizes,
        "instance_share": mean_share,
        "instance_share_deviation": np.sqrt(_spread(sums, share, mean_share, at, n)),
        "floor_share": sums(below) / n,
        **_histograms(values, group, count),
    }


def _spread(
    sums: Any, values: Floats, mean: Floats, at: npt.NDArray[np.int64], n: Floats
) -> Floats:
    """The variance over all and per class, computed without cancellation."""
    per_class: Floats = sums((values - mean[at]) ** 2)[1:]
    overall = ((values - mean[0]) ** 2).sum()
    return np.append(overall, per_class) / n


def _histograms(
    values: Floats, group: npt.NDArray[np.int64], count: int
) -> dict[str, npt.NDArray[np.int64]]:
    bins = len(EDGES) - 1
    # Weights are float32, in which .2 is a little above .2, so the edges are converted too.
    number = np.searchsorted(EDGES.astype(np.float32), values.astype(np.float32), side="right") - 1
    number = np.clip(number, 0, bins - 1)
    each = np.bincount(group * bins + number, minlength=count * bins).reshape(count, bins)
    table = np.vstack([each.sum(0), each])
    return {f"bin_{column:02d}": table[:, column] for column in range(bins)}

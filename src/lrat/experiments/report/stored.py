"""What else a run keeps: its masking panel, security curves, recorded weights."""

from collections.abc import Mapping
from typing import Any, get_args

import numpy as np

from lrat.analysis.weights import ALL_CLASSES, EDGES, SUM, read_recorded, weight_statistics
from lrat.errors import LratError
from lrat.files.read import NOT_AS_WRITTEN
from lrat.reporting.report.collect.reading import Folder, number
from lrat.reporting.report.records import (
    CheckRecord,
    CheckStatus,
    CurveRecord,
    MaskingRecord,
    Share,
    TermWeights,
)
from lrat.runs.folder import CURVE, CURVES, PANEL, RECORDED

_FROM_BEST: tuple[CheckStatus, ...] = ("passed", "not run", "suspicious", "failed")


def masking(folder: Folder) -> MaskingRecord | None:
    """The panel beside an evaluation; None where there is none."""
    stored = folder.json(PANEL)
    if not stored:
        return None
    try:
        checks = [_check(values) for values in stored["checks"]]
        statuses = [check.status for check in checks]
        worst = max(statuses, key=_FROM_BEST.index, default=_FROM_BEST[1])
        return MaskingRecord(status=worst, n=int(stored["n"]), checks=checks)
    except NOT_AS_WRITTEN:
        folder.tell(f"{folder.path / PANEL} is no masking panel, so it is left out.")
        return None


def _check(values: Mapping[str, Any]) -> CheckRecord:
    status: CheckStatus = values["status"]
    if status not in get_args(CheckStatus):
        raise ValueError(status)
    return CheckRecord(
        name=str(values["name"]),
        status=status,
        sentence=str(values["sentence"]),
        value=number(values.get("value")),
        limit=number(values.get("limit")),
    )


def curves(home: Folder) -> list[CurveRecord]:
    """The security curves that `lrat curve` finished in a run's folder."""
    found = []
    for path in home.inside(CURVES, CURVE):
        folder = Folder(path.parent, home.problems)
        stored = folder.json(CURVE)
        if not stored:
            continue
        try:
            found.append(_curve(stored))
        except NOT_AS_WRITTEN:
            folder.tell(f"{path} is no security curve, so it is left out.")
    return found


def _curve(stored: Mapping[str, Any]) -> CurveRecord:
    ends = zip(stored["accuracy"], stored["low"], stored["high"], strict=True)
    n = int(stored["n"])
    return CurveRecord(
        norm=str(stored["norm"]),
        attack=str(stored["attack"]),
        epsilon=[float(value) for value in stored["epsilon"]],
        share=[Share(value=v, low=low, high=high, n=n) for v, low, high in ends],
        trained_epsilon=number(stored.get("trained_epsilon")),
    )


def weights(home: Folder) -> list[TermWeights]:
    """Raw weights by term over the recorded epochs; the sum of all terms last, where there are
    several."""
    try:
        recorded = read_recorded(home.path / RECORDED)
        table = weight_statistics(recorded, floor=0.0, kinds=("raw",), by_class=False)
    except LratError as error:
        home.tell(f"No weights: {str(error).rstrip('.')}.")
        return []
    if not table:
        return []
    whole = (table["kind"] == "raw") & (table["label"] == ALL_CLASSES)
    terms = [str(term) for term in dict.fromkeys(table["term"]) if term != SUM]
    shown = [*terms, SUM] if len(terms) > 1 else terms
    return [_term(table, whole & (table["term"] == term), term) for term in shown]


def _term(table: Mapping[str, Any], rows: Any, term: str) -> TermWeights:
    bins = sorted(name for name in table if name.startswith("bin_"))
    counts = np.stack([table[name][rows] for name in bins], axis=1)
    return TermWeights(
        term="all terms together" if term == SUM else term,
        epochs=table["epoch"][rows].tolist(),
        mean=table["mean"][rows].tolist(),
        effective=table["effective_sample_size"][rows].tolist(),
        below=table["share_below"][rows].tolist(),
        edges=EDGES.tolist(),
        counts=counts.tolist(),
    )

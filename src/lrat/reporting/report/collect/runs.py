"""Everything that the report shows of one run folder: its state, weights, masking panel, curves,
and which images are vulnerable.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from lrat.analysis.overlaps import overlap
from lrat.analysis.weights import ALL_CLASSES, EDGES, SUM, read_recorded, weight_statistics
from lrat.config.catalogue import place_in
from lrat.errors import DataError, LratError
from lrat.evaluation.curve_result import Curve
from lrat.evaluation.masking.panel import Panel
from lrat.evaluation.outcomes import NATURAL
from lrat.files.names import (
    ANALYSES,
    CONFIG,
    CURVE,
    CURVE_IMAGES,
    CURVES,
    ENVIRONMENT,
    METRICS,
    MODEL,
    OVERLAP,
    PANEL,
    RECORDED,
    SUMMARY,
    WEIGHTS,
)
from lrat.files.read import NOT_AS_WRITTEN
from lrat.reporting.report.collect import training
from lrat.reporting.report.collect.commands import train_command, typed_command
from lrat.reporting.report.collect.evaluations import Evaluated, read_evaluations
from lrat.reporting.report.collect.gallery import gallery
from lrat.reporting.report.collect.locate import LocatedRun, digests
from lrat.reporting.report.collect.reading import Folder, at
from lrat.reporting.report.records import (
    OverlapRecord,
    RunRecord,
    State,
    TermWeights,
)
from lrat.runs.kept import KeptResult

_UNKNOWN = "unknown"
_KEPT_APART = ("seed", "device", "threads")

_VIEWS = ("V_GD", "V_PGD", "V_CW")
_PAIRS = {"v_gd-v_cw": (0, 2), "v_gd-v_pgd": (0, 1), "v_pgd-v_cw": (1, 2)}


@dataclass(frozen=True, kw_only=True, eq=False)
class Collected:
    """A run's record with its evaluations as they were read. ``configuration``: equal for runs
    that differ in their seed alone; None where that cannot be known."""

    record: RunRecord
    evaluations: list[Evaluated]
    configuration: str | None


def collect_run(run: LocatedRun) -> Collected:
    """Everything about one run; its ``problems`` say what is missing or damaged."""
    home = Folder(run.folder)
    config = home.yaml(CONFIG)
    about = home.json(MODEL)
    lines = home.lines(METRICS)
    threat = str(config.get("threat", _UNKNOWN))
    data = _data_name(config)
    known = digests(home)
    written = hashlib.sha256(home.text(CONFIG).encode()).hexdigest()
    if about.get("configuration_file", written) != written:
        home.tell(f"{home.path / CONFIG} is damaged or was edited after the training.")
    evaluations = read_evaluations(run, home, threat, known.get("weights"), data=data)
    epochs = [line for line in lines if isinstance(line.get("epoch"), int)]
    trained = about.get("epochs")
    if isinstance(trained, int) and len(epochs) < trained:
        home.tell(f"{home.path / METRICS} holds {len(epochs)} of the {trained} epochs trained.")
    state = _state(home, evaluations)
    _tell_what_is_missing(run, home, state, evaluations, bool(config))
    first = evaluations[0] if evaluations else None
    split = str(at(config, "training", "monitor", "split") or "test")
    panels = (masking(Folder(each.folder, home.problems)) for each in evaluations)
    panel = next((each for each in panels if each is not None), None)
    overlaps = [*analysed(home, known.get("weights")), *([fooled(first)] if first else [])]
    commands = _train_command(home, config)
    record = RunRecord(
        name=run.name,
        folder=str(run.folder),
        method=str(at(config, "method", "name") or ("lrat.fit" if lines else "model of one's own")),
        state=state,
        data=data,
        model=_model_name(config),
        threat=threat if config or first is None else first.record.threat,
        training_seed=config.get("seed") if isinstance(config.get("seed"), int) else None,
        evaluations=[each.record for each in evaluations],
        curves=curves(home),
        epochs=[line["epoch"] for line in epochs],
        accuracy=training.accuracy(epochs),
        notices=training.notices(epochs),
        selected_epoch=_whole(about.get("selected_epoch")),
        overfitting=training.overfitting(epochs, split),
        weights=weights(home),
        overlap=[each for each in overlaps if each is not None],
        masking=panel,
        gallery=gallery(evaluations, home, about.get("class_names")),
        cost=training.cost(epochs, about.get("parameters")),
        config=home.text(CONFIG),
        environment=home.json(ENVIRONMENT),
        digests=known,
        commands=[*commands, *(each.typed or each.command for each in evaluations)],
        problems=home.problems,
    )
    return Collected(
        record=record,
        evaluations=evaluations,
        configuration=_configuration(config, known) if config else None,
    )


def _train_command(home: Folder, config: Mapping[str, Any]) -> list[str]:
    typed = typed_command(home)
    if typed is not None:
        return [typed]
    try:
        return [train_command(config, home.path)] if config else []
    except NOT_AS_WRITTEN:
        home.tell(f"{home.path / CONFIG} holds no settings of a run, so its command is left out.")
        return []


def _state(home: Folder, evaluations: list[Evaluated]) -> State:
    if evaluations:
        return "evaluated"
    finished = (home.path / WEIGHTS).is_file() or (home.path / MODEL).is_file()
    # What `lrat.fit` trained returns its weights and keeps no file of them.
    finished = finished or not (home.path / CONFIG).is_file()
    return "trained" if finished else "unfinished"


def _tell_what_is_missing(
    run: LocatedRun, home: Folder, state: State, evaluations: list[Evaluated], configured: bool
) -> None:
    if configured and not (home.path / WEIGHTS).is_file():
        home.tell(f"{run.name} is not trained to its end; its `lrat train` command goes on.")
    elif state == "trained" and configured:
        home.tell(f"{run.name} was not evaluated: `lrat evaluate {run.folder} --suite tier`.")
    if evaluations and evaluations[0].current is False:
        home.tell(f"{run.name} was trained on since it was evaluated: `{evaluations[0].command}`.")


def _data_name(config: Mapping[str, Any]) -> str:
    """Of a user's file or folder its own name alone."""
    name = str(at(config, "data", "name") or _UNKNOWN)
    path = place_in(name)
    return name if path is None else Path(path).name


def _model_name(config: Mapping[str, Any]) -> str:
    name = str(at(config, "model", "name") or _UNKNOWN)
    width = at(config, "model", "width")
    return Path(name).name + ("" if width is None else f", width {width}")


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) else None


def _configuration(config: Mapping[str, Any], known: Mapping[str, str]) -> str | None:
    settings = {key: value for key, value in config.items() if key not in _KEPT_APART}
    data = settings.get("data")
    without_root = {**data, "root": None} if isinstance(data, Mapping) else data
    code = known.get("model file", "")
    try:
        return json.dumps([{**settings, "data": without_root}, code], sort_keys=True, default=str)
    except TypeError:  # keys of several kinds
        return None


def masking(folder: Folder) -> Panel | None:
    """The panel beside an evaluation; None where there is none."""
    stored = folder.json(PANEL)
    try:
        return Panel.from_dict(stored) if stored else None
    except DataError:
        folder.tell(f"{folder.path / PANEL} is no masking panel, so it is left out.")
        return None


def curves(home: Folder) -> list[Curve]:
    """The security curves that ``lrat curve`` finished in a run's folder."""
    stored_curves = []
    for path in home.inside(CURVES, CURVE):
        stored = Folder(path.parent, home.problems).json(CURVE)
        kept = KeptResult(folder=path.parent, identity={}, what="curve", again="measure it again")
        try:
            images = kept.table(CURVE_IMAGES, dict) if stored else None
            stored_curves += [Curve.from_dict(stored, images or {})] if stored else []
        except (LratError, *NOT_AS_WRITTEN):
            home.tell(f"{path} is no security curve, so it is left out.")
    return stored_curves


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


def analysed(home: Folder, weights: str | None) -> list[OverlapRecord]:
    """The most vulnerable images by view, by each analysis in the run's folder.

    ``weights``: the digest of the selected ones, None where they cannot be read.
    """
    overlaps = []
    for path in home.inside(ANALYSES, SUMMARY):
        folder = Folder(path.parent, home.problems)
        summary, stored = folder.json(SUMMARY), folder.json(OVERLAP)
        if not summary or not stored:
            continue
        try:
            overlaps.append(_of_views(path.parent, summary, stored, weights))
        except NOT_AS_WRITTEN:
            folder.tell(f"{path.parent / OVERLAP} is no overlap of views, so it is left out.")
    return overlaps


def _of_views(
    folder: Path, summary: Mapping[str, Any], stored: Mapping[str, Any], weights: str | None
) -> OverlapRecord:
    about = (
        f"The {stored['size']} most vulnerable of {stored['n']} {summary['part']} images in each "
        f"of three views (smallest values; {folder.name}), weights {summary['checkpoint']}."
    )
    is_selected = weights is not None and summary["checkpoint"] == "selected"
    if is_selected and at(summary, "identity", "model") not in (None, weights):
        about += " These are earlier weights of this run."
    pairs = {}
    for name, views in _PAIRS.items():
        common = stored["pairs"][name]
        pairs[views] = common["jaccard"], common["chance"]["jaccard"]
    return _overlap(about, _VIEWS, pairs)


def fooled(evaluated: Evaluated) -> OverlapRecord | None:
    """The images that each attack of an evaluation fooled, among those right when clean; None for
    fewer than two attacks, or where no outcomes can be read."""
    verdicts = evaluated.verdicts
    if verdicts is None:
        return None
    clean = verdicts.right[NATURAL]
    sets = {name: ~verdicts.right[name][clean] for name in verdicts.names if name != NATURAL}
    if len(sets) < 2 or not clean.any():
        return None
    pairs = {}
    for (column, one), (row, other) in combinations(enumerate(sets.values()), 2):
        common = overlap(other, one)
        pairs[row, column] = common.jaccard, common.chance.jaccard
    about = (
        f"The images that each attack of {evaluated.record.suite} fooled, of {int(clean.sum())} "
        "test images that are right when clean."
    )
    return _overlap(about, list(sets), pairs)


def _overlap(
    about: str, names: Sequence[str], pairs: Mapping[tuple[int, int], tuple[float, float]]
) -> OverlapRecord:
    """Square matrices of what every two have in common and what chance would give."""
    jaccard, chance = np.eye(len(names)), np.eye(len(names))
    for (row, column), (value, by_chance) in pairs.items():
        jaccard[row, column] = jaccard[column, row] = value
        chance[row, column] = chance[column, row] = by_chance
    return OverlapRecord(about=about, names=names, jaccard=jaccard.tolist(), chance=chance.tolist())

"""One run folder as far as it goes: everything that the report shows of it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lrat.experiments.report.digests import digests
from lrat.experiments.report.overlaps import analysed, fooled
from lrat.experiments.report.stored import curves, masking, weights
from lrat.files.read import NOT_AS_WRITTEN
from lrat.reporting.report.collect import training
from lrat.reporting.report.collect.commands import train_command
from lrat.reporting.report.collect.evaluations import Evaluated, read_evaluations
from lrat.reporting.report.collect.gallery import gallery
from lrat.reporting.report.collect.places import Place
from lrat.reporting.report.collect.reading import Folder, at
from lrat.reporting.report.records import RunRecord, State
from lrat.runs.folder import CONFIG, ENVIRONMENT, METRICS, MODEL, WEIGHTS

_UNKNOWN = "unknown"
_KEPT_APART = ("seed", "device", "threads")


@dataclass(frozen=True, kw_only=True, eq=False)
class Collected:
    """A run's record with its evaluations as they were read. ``configuration``: equal for runs
    that differ in their seed alone; None where that cannot be known."""

    record: RunRecord
    evaluations: list[Evaluated]
    configuration: str | None


def collect_run(place: Place) -> Collected:
    """Everything about one run; what is missing or damaged is told in its ``problems``."""
    home = Folder(place.folder)
    config = home.yaml(CONFIG)
    about = home.json(MODEL)
    lines = home.lines(METRICS)
    threat = str(config.get("threat", _UNKNOWN))
    data = _data_name(config)
    known = digests(home)
    written = hashlib.sha256(home.text(CONFIG).encode()).hexdigest()
    if about.get("configuration_file", written) != written:
        home.tell(f"{home.path / CONFIG} is damaged or was edited after the training.")
    evaluations = read_evaluations(place, home, threat, known.get("weights"), data=data)
    epochs = training.epoch_records(lines)
    trained = about.get("epochs")
    if isinstance(trained, int) and len(epochs) < trained:
        home.tell(f"{home.path / METRICS} holds {len(epochs)} of the {trained} epochs trained.")
    state = _state(home, evaluations)
    _tell_what_is_missing(place, home, state, evaluations, bool(config))
    first = evaluations[0] if evaluations else None
    split = str(at(config, "training", "monitor", "split") or "test")
    panel = next((found for each in evaluations if (found := _panel(each, home))), None)
    overlaps = [*analysed(home), *([fooled(first)] if first else [])]
    commands = _train_command(home, config)
    record = RunRecord(
        name=place.name,
        folder=str(place.folder),
        method=str(at(config, "method", "name") or ("lrat.fit" if lines else "model of one's own")),
        state=state,
        data=data,
        model=_model_name(config),
        threat=threat if config or first is None else first.record.threat,
        training_seed=config.get("seed") if isinstance(config.get("seed"), int) else None,
        evaluations=[each.record for each in evaluations],
        curves=curves(home),
        epochs=epochs,
        selected_epoch=_whole(about.get("selected_epoch")),
        overfitting=training.overfitting(epochs, lines, split),
        weights=weights(home),
        overlap=[each for each in overlaps if each is not None],
        masking=panel,
        gallery=gallery(evaluations, home, about.get("class_names")),
        cost=training.cost(lines, about.get("parameters")),
        config=home.text(CONFIG),
        environment=home.json(ENVIRONMENT),
        digests=known,
        commands=[*commands, *(each.command for each in evaluations)],
        problems=home.problems,
    )
    return Collected(
        record=record,
        evaluations=evaluations,
        configuration=_configuration(config, known) if config else None,
    )


def _train_command(home: Folder, config: Mapping[str, Any]) -> list[str]:
    try:
        return [train_command(config, home.path)] if config else []
    except NOT_AS_WRITTEN:
        home.tell(f"{home.path / CONFIG} holds no settings of a run, so its command is left out.")
        return []


def _panel(each: Evaluated, home: Folder) -> Any:
    return masking(Folder(each.folder, home.problems))


def _state(home: Folder, evaluations: list[Evaluated]) -> State:
    if evaluations:
        return "evaluated"
    finished = (home.path / WEIGHTS).is_file() or (home.path / MODEL).is_file()
    # What `lrat.fit` trained returns its weights and keeps no file of them.
    finished = finished or not (home.path / CONFIG).is_file()
    return "trained" if finished else "unfinished"


def _tell_what_is_missing(
    place: Place, home: Folder, state: State, evaluations: list[Evaluated], configured: bool
) -> None:
    if configured and not (home.path / WEIGHTS).is_file():
        home.tell(f"{place.name} is not trained to its end; its `lrat train` command goes on.")
    elif state == "trained" and configured:
        home.tell(f"{place.name} was not evaluated: `lrat evaluate {place.folder} --suite tier`.")
    if evaluations and evaluations[0].current is False:
        home.tell(
            f"{place.name} was trained on since it was evaluated: `{evaluations[0].command}`."
        )


def _data_name(config: Mapping[str, Any]) -> str:
    """Of a user's own arrays the file's name alone."""
    name = str(at(config, "data", "name") or _UNKNOWN)
    return Path(name.removeprefix("npz:")).name if name.startswith("npz:") else name


def _model_name(config: Mapping[str, Any]) -> str:
    name = str(at(config, "model", "name") or _UNKNOWN)
    width = at(config, "model", "width")
    return Path(name).name + ("" if width is None else f", width {width}")


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) else None


def _configuration(config: Mapping[str, Any], known: Mapping[str, str]) -> str | None:
    settings = {key: value for key, value in config.items() if key not in _KEPT_APART}
    data = settings.get("data")
    place = {**data, "root": None} if isinstance(data, Mapping) else data
    code = known.get("model file", "")
    try:
        return json.dumps([{**settings, "data": place}, code], sort_keys=True, default=str)
    except TypeError:  # keys of several kinds
        return None

"""A run as a typed value: YAML in and out, unknown keys refused with the nearest known one."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BeforeValidator, Field, ValidationError

from lrat.checks import ARGUMENTS
from lrat.config import catalogue
from lrat.config.method import Method, MethodSettings
from lrat.config.sections import Section, in_one_line, leaves
from lrat.errors import ConfigurationError
from lrat.files.read import parse_yaml, read_yaml, trouble
from lrat.text import cut, shown, storable

_KEEPING = {
    "keep_last",
    "checkpoint_every_steps",
    "checkpoint_every_minutes",
    "trackers",
    "guards",
}
"""How a run is kept and watched, which decides nothing of its result."""

_MOST_THREADS = 4096


def _off(value: Any) -> Any:
    """YAML reads a bare ``off`` as False."""
    return "off" if value is False else value


def _decay(value: float | None) -> float | None:
    """The decay of a weight average, refused as the average itself refuses it."""
    return None if value is None else ARGUMENTS["ema"]("ema", value)


class SimulationSettings(Section):
    """The attacks simulated in training; ``step_size`` null is epsilon / 10.

    ``saa_keep``: a cheaper SAA that gives up targets on the way, as {6: 1}; see ``attacks.SAA``.
    """

    steps: int = Field(default=10, ge=1)
    step_size: float | None = Field(default=None, ge=0)
    saa_steps: int = Field(default=20, ge=1)
    saa_targets: int = Field(default=3, ge=1)
    saa_keep: dict[int, int] | None = None


class DataSettings(Section):
    """Which images; ``validation`` is the held-out share, ``augment`` null is crop and flip for
    CIFAR-10 alone, ``train_limit`` a stratified part of the training images. Image files are
    resized to ``size`` pixels a side and read with so many ``channels`` (null: 3)."""

    name: Annotated[str, AfterValidator(lambda name: catalogue.data_row(name) and name)] = "digits"
    root: str | None = None
    validation: float = Field(default=0.15, ge=0, lt=1)
    train_limit: int | None = Field(default=None, ge=1)
    augment: bool | None = None
    size: int | None = Field(default=None, ge=1)
    channels: Literal[1, 3] | None = None


class ModelSettings(Section):
    """Which network; ``width`` null is the network's own default.

    ``weights``: FILE or FILE#KEY that the run begins with. ``normalize``: imagenet, cifar10,
    MEAN,...;STD,... or none; null is what the network's library says, or none.
    """

    name: Annotated[str, AfterValidator(catalogue.check_model_name)] = "small-cnn"
    width: int | None = Field(default=None, ge=1)
    weights: str | None = None
    normalize: str | None = None


class MonitorSettings(Section):
    """Accuracy under named attacks every so many epochs, for learning curves."""

    attacks: tuple[str, ...] = ()
    every: int = Field(default=1, ge=1)
    split: Literal["validation", "test"] = "test"
    limit: int | None = Field(default=None, ge=1)


class ScheduleSettings(Section):
    """How the learning rate moves; null is that schedule's own default (``training.schedules``).

    ``piecewise`` follows ``training.drops``. The ``warm_up_`` settings put a linear rise before any
    schedule; the others belong to one each, and one that does nothing is refused.
    """

    name: Literal["piecewise", "cosine", "one-cycle"] = "piecewise"
    final: float | None = None
    peak: float | None = None
    div_factor: float | None = None
    final_div_factor: float | None = None
    shape: Literal["cosine", "linear"] | None = None
    warm_up_epochs: float | None = None
    warm_up_fraction: float | None = None
    warm_up_start: float | None = None


class TrainingSettings(Section):
    """The loop: the paper's SGD and schedule, and how the reported weights are selected.

    ``decay``: weights, to leave normalisation layers and biases out of weight decay. ``ema``: decay
    of a moving average of the weights, which is then what is selected and reported. ``non_finite``:
    whether a step whose loss or gradient is NaN or infinite ends the run or is skipped.
    ``guards``: whether the run is watched for what goes wrong.

    ``selection``: ``robust`` keeps the epoch with the best PGD accuracy on held-out images
    (``validation_steps`` steps of epsilon / 4), ``last`` the last epoch.

    A checkpoint is written after each epoch, within one after every ``checkpoint_every_steps``
    steps and ``checkpoint_every_minutes``; the last ``keep_last`` are kept, the selected and
    ``keep_epochs``. ``trackers``: ``tensorboard`` or ``FILE.py:FUNCTION``. ``sync_batch_norm``:
    over the images of all processes (CUDA), instead of each one's.
    """

    epochs: int = Field(default=30, ge=1)
    schedule_epochs: int | None = Field(default=None, ge=1)
    batch_size: int = Field(default=128, ge=1)
    lr: float = Field(default=0.1, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    nesterov: bool = False
    weight_decay: float = Field(default=2e-4, ge=0)
    drops: dict[float, float] = Field(default_factory=lambda: {0.6: 0.1, 0.9: 0.1})
    schedule: ScheduleSettings = ScheduleSettings()
    decay: Literal["all", "weights"] = "all"
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    ema: Annotated[float | None, AfterValidator(_decay)] = None
    ema_warm_up: bool = True
    precision: Literal["float32", "bf16-mixed"] = "float32"
    clip: float | None = Field(default=None, gt=0)
    accumulate: int = Field(default=1, ge=1)
    non_finite: Literal["stop", "skip"] = "stop"
    guards: bool = True
    selection: Literal["robust", "last"] = "robust"
    validation_steps: int = Field(default=10, ge=1)
    record_weights: tuple[int, ...] = ()
    keep_epochs: tuple[int, ...] = ()
    keep_last: int = Field(default=2, ge=1)
    checkpoint_every_steps: int | None = Field(default=None, ge=1)
    checkpoint_every_minutes: float | None = Field(default=10.0, gt=0)
    trackers: tuple[str, ...] = ()
    sync_batch_norm: bool = False
    monitor: MonitorSettings = MonitorSettings()


class RunConfig(Section):
    """Everything that decides a run's result, and what computes it.

    ``acceleration`` auto: attacks see a faster view of the model, which is checked against it.
    ``threads`` null: one for small-cnn, which more threads only slow down, else PyTorch's choice.
    """

    method: Method = MethodSettings()
    threat: Annotated[str, AfterValidator(catalogue.canonical_threat)] = "linf:8/255"
    attack: SimulationSettings = SimulationSettings()
    data: DataSettings = DataSettings()
    model: ModelSettings = ModelSettings()
    training: TrainingSettings = TrainingSettings()
    seed: int = Field(default=0, ge=0, le=2**63 - 1)
    acceleration: Annotated[Literal["auto", "off"], BeforeValidator(_off)] = "auto"
    device: str = "auto"
    threads: int | None = Field(default=None, ge=1, le=_MOST_THREADS)

    def result_settings(self, *, defaults: bool = True) -> dict[str, Any]:
        """What decides the result: not what computes it (device, threads), nor where files lie.

        Without ``defaults`` only what differs from them, so that a setting that a later version
        adds changes no earlier run.
        """
        settings = self.model_dump(
            mode="json",
            exclude={"device": True, "threads": True, "data": {"root"}, "training": _KEEPING},
            exclude_defaults=not defaults,
        )
        # A section that differs from the defaults in what is left out alone says nothing.
        settings = {name: value for name, value in settings.items() if value != {}}
        # The contents of a user's files are compared apart (contents.json), wherever they lie.
        for section, name in (("data", self.data.name), ("model", self.model.name)):
            if catalogue.place_in(name) is not None:
                settings[section]["name"] = f"{name.partition(':')[0]}:"
        if catalogue.names_users_code(self.model.name):
            settings["model"]["name"] = Path(self.model.name).name
        if self.model.weights is not None:
            settings["model"]["weights"] = "given"
        return settings

    def floor_in(self, epoch: int) -> float:
        """C of Eq. 7 in this epoch, counted from 1; 0 for an objective of another form."""
        length = self.training.schedule_epochs or self.training.epochs
        value = self.method.value
        phases = value.phases or ()
        floors = [each.min_weight for each in phases if each.begin <= (epoch - 1) / length]
        return [value.min_weight, *floors][-1]

    def digest(self) -> str:
        """SHA-256 of ``result_settings`` without defaults."""
        content = self.result_settings(defaults=False)
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def to_yaml(self) -> str:
        """All settings as YAML that ``read_settings`` and ``load_config`` take back.
        ``ConfigurationError`` for a path that no file can hold."""
        content = self.model_dump(mode="json")
        # JSON has no numbers for keys, YAML has.
        content["training"]["drops"] = dict(self.training.drops)
        content["attack"]["saa_keep"] = self.attack.saa_keep
        # Absolute paths hold in any folder.
        data, model = content["data"], content["model"]
        if data["root"] is not None:
            data["root"] = str(Path(data["root"]).resolve())
        for section in (data, model):
            if (path := catalogue.place_in(section["name"])) is not None:
                section["name"] = f"{section['name'].partition(':')[0]}:{Path(path).resolve()}"
        if catalogue.names_users_code(model["name"]):
            model["name"] = str(Path(model["name"]).resolve())
        if model["weights"] is not None:
            model["weights"] = str(Path(model["weights"]).resolve())
        training = content["training"]
        training["trackers"] = [
            str(Path(name).resolve()) if catalogue.names_users_code(name) else name
            for name in training["trackers"]
        ]
        paths = (data["root"], data["name"], model["name"], model["weights"])
        for path in (*paths, *training["trackers"]):
            if path is not None and path != storable(path):
                raise ConfigurationError(
                    f"{storable(path)}: this path is no UTF-8, so no configuration can hold it: "
                    "rename its folder or file"
                )
        return yaml.safe_dump(content, sort_keys=False)


def load_config(*layers: Mapping[str, Any]) -> RunConfig:
    """Configuration from layers of nested mappings, later ones winning.

    The threat defaults to the data set's customary one. Raises ConfigurationError in one line.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        merged = _merge(merged, layer)
    if "threat" not in merged:
        section = merged.get("data", {})
        name = str(section.get("name", "digits")) if isinstance(section, Mapping) else ""
        if catalogue.place_in(name) is not None:
            raise ConfigurationError(f"data {name!r} has no customary threat: pass --threat")
        if name in catalogue.DATA:
            merged["threat"] = catalogue.DATA[name].default_threat
    try:
        return RunConfig.model_validate(merged)
    except ValidationError as error:
        raise ConfigurationError(in_one_line(error, RunConfig)) from None


def read_settings(path: Path, *, follow: bool = False) -> dict[str, Any]:
    """The settings in a YAML file, as a run's config.yaml; ``follow`` as in ``open_stored``.

    Raises ``ConfigurationError`` in one line.
    """
    try:
        return read_yaml(path, follow=follow)
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"{path} {trouble(error)}; write settings in YAML, as in a run's config.yaml"
        ) from None


def parse_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """``["training.lr=0.05"]`` -> ``{"training": {"lr": 0.05}}``; values are YAML scalars."""
    result: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key:
            raise ConfigurationError(
                f"--set {shown(assignment)}: write key=value, as training.lr=0.05"
            )
        try:
            value = parse_yaml(text)
        except ValueError:
            raise ConfigurationError(
                f"--set {shown(assignment)}: {shown(text)} is no YAML value"
            ) from None
        nested: Any = value
        for part in reversed(key.split(".")):
            nested = {part: nested}
        result = _merge(result, nested)
    return result


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """``key: ours, theirs`` for each leaf in which two configurations differ."""
    left, right = dict(leaves(ours)), dict(leaves(theirs))
    missing = object()
    return [
        f"{cut(key)}: {shown(left.get(key))} asked, {shown(right.get(key))} in the folder"
        for key in sorted(left.keys() | right.keys())
        if left.get(key, missing) != right.get(key, missing)
    ]


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, given in over.items():
        value = {"name": given} if key == "method" and isinstance(given, str) else given
        below = merged.get(key)
        if (
            isinstance(below, Mapping)
            and isinstance(value, Mapping)
            and key not in {"drops", "saa_keep"}
        ):
            merged[key] = _merge(below, value)
        else:
            merged[key] = value
    return merged

"""The presets of a reproduction: what their rows have in common, and each row as a configuration.

A preset is data, network, schedule, what is recorded and which weights are reported; a row is a
method with the settings that set it apart. ``Choice`` is a preset with the user's own settings.

The rows of a reproduction by name: the method, the step of its attacks, and the row against
which it is judged.
"""

import hashlib
import json
import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lrat.config import catalogue
from lrat.config.settings import RunConfig, load_config, parse_assignments
from lrat.errors import ConfigurationError, UnknownNameError
from lrat.files.read import read_yaml
from lrat.threat.norms import threat_parts

_DROP = 0.6
"""The paper's epoch 60 as a fraction of the schedule, for schedules that have no first drop."""
_MONITORED = ("pgd-20", "cw-20")
_IN_EVERY_RUN = ("method.name", "seed", "data.root")
"""What no setting for all rows may say."""

LONG_STEP = 0.22
"""The step of the same group's published code as a share of epsilon (0.007 at 0.031); the paper's
text says .1."""
LONG_SUFFIX = f"-{LONG_STEP:g}eps"
BASELINE = "sat"
LONG_BASELINE = f"{BASELINE}{LONG_SUFFIX}"
_ABLATED = {"gd+cw": "lrat-cw", "gd+saa": "lrat-saa", "saa+cw+gd": "lrat-saa+cw"}
"""Table 2 asks what a GD term does to a mixture, so each is compared with that without GD."""


@dataclass(frozen=True, kw_only=True)
class Preset:
    """What the rows of a reproduction share.

    ``autoattacked``: so many test images meet AutoAttack, None for all. ``monitored``: so many test
    images are attacked after every epoch. ``seeds``: how many of each row by default, ``seeds_of``
    where a row has another number. ``kept``: epochs whose checkpoints stay, besides the first at
    the lower rate. ``reports_drop``: that epoch is what is reported (the paper's early stopping),
    not the run's selection. ``recorded_every``: epochs between records of all images' weights.
    ``rows``: further rows of Table 1, beside the paper's and those of every preset. ``first``: rows
    in order of preference. ``sensitivity_epochs`` (None: as in tables) and ``sensitivity_seeds``:
    of a sensitivity's rows. ``records``: whether runs record what figures need, and early stopping
    is evaluated too.
    """

    name: str
    about: str
    settings: Mapping[str, Any]
    autoattacked: int | None = None
    monitored: int | None = None
    seeds: int = 1
    seeds_of: Mapping[str, int] = field(default_factory=dict)
    kept: Sequence[int] = ()
    reports_drop: bool = False
    recorded_every: int = 1
    rows: Sequence[str] = ()
    first: Sequence[str] = ()
    for_gpu: bool = False
    sensitivity_epochs: int | None = None
    sensitivity_seeds: int = 1
    records: bool = True


_PRESETS = {
    name: Preset(name=name, **fields)
    for name, fields in read_yaml(Path(__file__).with_name("presets.yaml")).items()
}
DEMO = _PRESETS.pop("demo")
PRESETS: Mapping[str, Preset] = _PRESETS
"""What `lrat reproduce` offers."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A preset, with settings of the user's own for all rows (``key=value``).

    Raises ``ConfigurationError`` for settings that rows decide themselves.
    """

    preset: Preset
    set: tuple[str, ...] = ()
    data_root: str | None = None

    @staticmethod
    def of(name: str, assignments: Sequence[str] = (), data_root: str | None = None) -> "Choice":
        """The preset called ``name``; ``UnknownNameError`` for another."""
        if name not in PRESETS:
            raise UnknownNameError("preset", name, PRESETS)
        return Choice(preset=PRESETS[name], set=tuple(assignments), data_root=data_root)

    def __post_init__(self) -> None:
        for assignment in self.set:
            if assignment.partition("=")[0] in _IN_EVERY_RUN:
                raise ConfigurationError(
                    f"--set {assignment!r} cannot hold for all rows: use --rows, --seeds or "
                    "--data-root"
                )

    def config(self, row: str, seed: int, changed: Mapping[str, Any] | None = None) -> RunConfig:
        """What the row trains with this seed; ``changed``: further settings of the row.

        The user's own settings win over the preset's, but not over what makes the row.
        """
        users = parse_assignments(self.set)
        plain = load_config(self.preset.settings, users)
        root = {} if self.data_root is None else {"root": self.data_root}
        return load_config(
            self.preset.settings,
            self._recorded(plain),
            users,
            row_layer(row, plain.threat),
            changed or {},
            {"seed": seed, "data": root},
        )

    def checkpoint(self, config: RunConfig) -> str:
        """Which weights of a run are reported first: ``selected`` or ``epoch-60``."""
        return self.checkpoints(config)[0]

    def checkpoints(self, config: RunConfig) -> tuple[str, ...]:
        """Which weights of a run are attacked: those that are reported, then the others of the
        first epoch at the lower rate and of the run's selection; one where they are the same."""
        both = ["selected", f"epoch-{drop_epoch(config)}"]
        if self.preset.reports_drop:
            both.reverse()
        several = self.preset.records and drop_epoch(config) < config.training.epochs
        return tuple(both if several else both[:1])

    @property
    def source(self) -> str | None:
        """The data set whose folds the seeds test, None where all test the same images."""
        data = self.config(BASELINE, 0).data.name
        return data if catalogue.folds_by_seed(data) else None

    def sets(self, key: str) -> bool:
        """Whether the user chose this setting, as ``training.epochs``."""
        return any(assignment.partition("=")[0] == key for assignment in self.set)

    def seeds_of(self, row: str) -> tuple[int, ...]:
        """The row's seeds by default."""
        return tuple(range(self.preset.seeds_of.get(row, self.preset.seeds)))

    def _recorded(self, plain: RunConfig) -> dict[str, Any]:
        """What a run keeps and measures on the way, which depends on its number of epochs."""
        if not self.preset.records:
            return {}
        epochs, drop = plain.training.epochs, drop_epoch(plain)
        every = self.preset.recorded_every
        kept = {drop, *(epoch for epoch in self.preset.kept if epoch <= epochs)}
        monitor: dict[str, Any] = {"attacks": list(_MONITORED), "split": "test"}
        if self.preset.monitored is not None:
            monitor["limit"] = self.preset.monitored
        return {
            "training": {
                "record_weights": list(range(every, epochs + 1, every)),
                "keep_epochs": sorted(kept),
                "monitor": monitor,
            }
        }

    def record(self) -> dict[str, Any]:
        """What ``preset.json`` holds: the common settings without method, seed and data folder."""
        settings = self.config("sat", 0).result_settings()
        del settings["method"], settings["seed"]
        text = json.dumps([self.preset.name, settings], sort_keys=True)
        return {
            "preset": self.preset.name,
            "about": self.preset.about,
            "set": list(self.set),
            "settings": settings,
            "digest": hashlib.sha256(text.encode()).hexdigest(),
        }


def drop_epoch(config: RunConfig) -> int:
    """The first epoch at the lower learning rate, the paper's "epoch 60" of 100; the last one of a
    run that ends before."""
    training = config.training
    length = training.schedule_epochs or training.epochs
    drops = training.drops if training.schedule.name == "piecewise" else {}
    # 0.6 * 5 is 3.0000000000000004 in other orders of multiplication. No drop is before epoch 2.
    first = max(2, math.ceil(min(drops, default=_DROP) * length - 1e-9))
    return min(first, training.epochs)


def check_row(name: str) -> str:
    """The row's own name: a method's, aliases resolved, or one with the long step, as
    ``lrat-cw-0.22eps``. ``UnknownNameError`` for one that is not known."""
    method = name.removesuffix(LONG_SUFFIX)
    resolved = catalogue.ALIASES.get(method, method)
    if resolved not in catalogue.METHODS:
        raise UnknownNameError("row", name, [*catalogue.METHODS, *catalogue.ALIASES, LONG_BASELINE])
    return resolved + name[len(method) :]


def method_of(row: str) -> str:
    """The method that the row trains."""
    return row.removesuffix(LONG_SUFFIX)


def row_layer(row: str, threat: str) -> dict[str, Any]:
    """What makes the row, as a layer of a configuration under this ``threat``."""
    method = {"method": {"name": method_of(row)}}
    if row == method_of(row):
        return method
    # Ten digits: .22 * .2 is 0.044, not 0.044000000000000004.
    step = float(f"{LONG_STEP * threat_parts(threat)[1]:.10g}")
    return {**method, "attack": {"step_size": step}}


def reference_of(row: str, rows: Container[str]) -> str | None:
    """The row of ``rows`` that this one is compared with; None where there is none.

    For a mixture with a GD term the same mixture without it; for every other row SAT with the long
    step, the stronger baseline, or plain SAT where that was not run.
    """
    method = method_of(row)
    if method in _ABLATED:
        candidates = [_ABLATED[method] + row[len(method) :]]
    else:
        candidates = [LONG_BASELINE, BASELINE]
    reference = next((name for name in candidates if name in rows), None)
    return None if reference == row else reference

"""Suites from YAML files: attacks by name, kind and settings."""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from lrat.attacks import (
    APGD,
    CW,
    FAB,
    FGSM,
    PGD,
    SAA,
    Attack,
    AutoAttack,
    LogitScaled,
    Restarts,
    Square,
)
from lrat.attacks.presets import MOST_TARGETS, RETIRE, RETIRE_SQUARE
from lrat.config.catalogue import names_users_code
from lrat.errors import ConfigurationError, SettingError, UnknownNameError
from lrat.evaluation import Suite, custom
from lrat.experiments.carried import transferred
from lrat.experiments.own_parts import loss_named, own_attack
from lrat.files.read import read_yaml, trouble
from lrat.text import cut, shown
from lrat.threat import Ball

_WRAPPERS = frozenset({"restarts", "logit_scale", "transfer_from"})


def _number(value: Any) -> Any:
    """``2/255`` too, which YAML reads as text."""
    numerator, slash, denominator = value.partition("/") if isinstance(value, str) else ("", "", "")
    try:
        return float(numerator) / float(denominator) if slash else value
    except (ValueError, ZeroDivisionError):
        return value


class AttackSettings(BaseModel):
    """An attack of a suite file. ``attack``: its kind, or ``FILE.py:NAME`` for one's own.

    ``step_size`` in [0, 1] units, also as 2/255, by default epsilon / 4. ``loss``: a name or
    ``FILE.py:NAME``. ``restarts``: how often it runs, each time on what is left. ``logit_scale``:
    the model's logits times this. ``transfer_from``: a run folder; the attack is made on that
    model.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    attack: str
    steps: int | None = Field(default=None, ge=1)
    step_size: Annotated[float | None, BeforeValidator(_number)] = Field(
        default=None, gt=0, allow_inf_nan=False
    )
    start: Literal["uniform", "gaussian", "none", "surface"] | None = None
    loss: str | None = None
    targets: int | None = Field(default=None, ge=1)
    queries: int | None = Field(default=None, ge=1)
    restarts: int | None = Field(default=None, ge=1)
    logit_scale: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    transfer_from: str | None = None


class SuiteFile(BaseModel):
    """A suite in YAML: a name, and attacks by name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = "custom"
    attacks: dict[str, AttackSettings] = Field(min_length=1)


@dataclass(frozen=True)
class _Kind:
    """How an attack is made from its threat and the settings that it takes."""

    make: Callable[..., Attack]
    takes: frozenset[str]
    defaults: Mapping[str, Any]


def _stepping(make: Callable[..., Attack], **defaults: Any) -> Callable[..., Attack]:
    def made(*, threat: Ball, step_size: float | None = None, **settings: Any) -> Attack:
        chosen = {**defaults, **settings}
        return make(threat=threat, step_size=step_size or threat.epsilon / 4, **chosen)

    return made


_KINDS: Mapping[str, _Kind] = {
    "pgd": _Kind(_stepping(PGD, steps=20), frozenset({"steps", "step_size", "start", "loss"}), {}),
    "cw": _Kind(_stepping(CW, steps=20), frozenset({"steps", "step_size", "start"}), {}),
    "fgsm": _Kind(FGSM, frozenset({"start"}), {}),
    "apgd": _Kind(APGD, frozenset({"steps", "start", "loss", "targets"}), {"retire_every": RETIRE}),
    "saa": _Kind(SAA, frozenset({"steps", "targets"}), {}),
    "fab": _Kind(FAB, frozenset({"steps", "targets", "loss"}), {"retire_every": RETIRE}),
    "square": _Kind(Square, frozenset({"queries", "loss"}), {"retire_every": RETIRE_SQUARE}),
    "autoattack": _Kind(AutoAttack, frozenset(), {}),
}


def suite_from_file(path: Path, ball: Ball) -> Suite:
    """The suite that a YAML file describes, all its attacks inside ``ball``.

    Raises ``ConfigurationError`` or ``SettingError`` in one line, with the file and the attack.
    """
    read = _read(path)
    try:
        found = SuiteFile.model_validate(read)
    except ValidationError as error:
        raise ConfigurationError(f"suite {path}: {_first_problem(error)}") from None
    attacks = {name: _attack(path, name, wanted, ball) for name, wanted in found.attacks.items()}
    return custom(ball, attacks, name=found.name)


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_yaml(path, follow=True)
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"suite {path} {trouble(error)}; it must be a mapping with `attacks:`, a mapping from "
            "names to settings"
        ) from None


def _first_problem(error: ValidationError) -> str:
    problems = error.errors(include_url=False)
    # A misspelt name is the cause of the right one's absence.
    each = next((each for each in problems if each["type"] == "extra_forbidden"), problems[0])
    *path, key = each["loc"]
    where = cut(".".join(map(str, each["loc"])))
    if each["type"] == "extra_forbidden":
        known = list((AttackSettings if path else SuiteFile).model_fields)
        near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        return f"unknown setting {where!r}: {hint}Known here: {', '.join(known)}"
    if each["type"] == "model_type":
        return f"{where}={shown(each['input'])}: write settings, as {{attack: pgd, steps: 50}}"
    if each["type"] == "missing" and key == "attack":
        return f"{where} is missing: one of {', '.join(_KINDS)}, or FILE.py:NAME"
    if each["type"] == "missing" or each["input"] in ({}, None):
        return f"{where}: name at least one attack, as `attacks: {{pgd: {{attack: pgd}}}}`"
    return f"{where}={shown(each['input'])}: {each['msg'].lower()}"


def _attack(path: Path, name: str, wanted: AttackSettings, ball: Ball) -> Attack:
    given = {key: value for key, value in wanted.model_dump().items() if value is not None}
    kind = given.pop("attack")
    wrapping = {key: given.pop(key) for key in sorted(_WRAPPERS & given.keys())}
    recipe = _users_own(kind) if names_users_code(kind) else _KINDS.get(kind)
    if recipe is None:
        raise UnknownNameError("attack", kind, [*_KINDS, "FILE.py:NAME"])
    idle = sorted(given.keys() - recipe.takes)
    if idle:
        takes = ", ".join(sorted(recipe.takes)) or "no settings"
        raise ConfigurationError(f"suite {path}: {name}: {kind} takes {takes}, not {idle[0]}")
    if "loss" in given:
        given["loss"] = loss_named(given["loss"])
    if kind == "apgd" and "loss" in given and given["loss"].targeted:
        given.setdefault("targets", MOST_TARGETS)
    try:
        return _wrapped(recipe.make(threat=ball, **recipe.defaults, **given), wrapping, ball)
    except SettingError as error:
        raise SettingError(f"suite {path}: {name}: {error}") from None


def _wrapped(attack: Attack, wrapping: Mapping[str, Any], ball: Ball) -> Attack:
    if "logit_scale" in wrapping:
        attack = LogitScaled(attack=attack, scale=wrapping["logit_scale"])
    if "restarts" in wrapping:
        attack = Restarts(attack=attack, count=wrapping["restarts"])
    if "transfer_from" in wrapping:
        attack = transferred(attack, wrapping["transfer_from"])
    return attack


def _users_own(place: str) -> _Kind:
    def made(*, threat: Ball) -> Attack:
        return own_attack(place)

    return _Kind(made, frozenset(), {})

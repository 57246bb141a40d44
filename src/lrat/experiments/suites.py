"""Suites by name, from a YAML file, and with the attacks that a user adds to them."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

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
    Transfer,
    as_attack,
)
from lrat.errors import ConfigurationError, UnknownNameError
from lrat.evaluation import Member, Suite, adaptive, custom, paper, quick, strong, tier
from lrat.experiments import catalogue
from lrat.experiments.subjects import Source, weights_digest
from lrat.experiments.users_code import object_from_file
from lrat.losses import Loss, as_loss, cross_entropy, cw, dlr, targeted_dlr
from lrat.threat import Ball

_LOSSES: Mapping[str, Loss] = {
    "cross_entropy": cross_entropy,
    "cw": cw,
    "dlr": dlr,
    "targeted_dlr": targeted_dlr,
}
_WRAPPERS = frozenset({"restarts", "logit_scale", "transfer_from"})


class AttackSettings(BaseModel):
    """An attack of a suite file. ``attack``: its kind, or ``FILE.py:NAME`` for one's own.

    ``step_size`` in [0, 1] units, by default epsilon / 4. ``loss``: a name or ``FILE.py:NAME``.
    ``restarts``: how often it runs, each time on what is left. ``logit_scale``: the model's logits
    times this. ``transfer_from``: a run folder; the attack is made on that model.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    attack: str
    steps: int | None = Field(default=None, ge=1)
    step_size: float | None = Field(default=None, gt=0)
    start: Literal["uniform", "gaussian", "none", "surface"] | None = None
    loss: str | None = None
    targets: int | None = Field(default=None, ge=1)
    queries: int | None = Field(default=None, ge=1)
    restarts: int | None = Field(default=None, ge=1)
    logit_scale: float | None = Field(default=None, gt=0)
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
    "apgd": _Kind(APGD, frozenset({"steps", "start", "loss", "targets"}), {"retire_every": 10}),
    "saa": _Kind(SAA, frozenset({"steps", "targets"}), {}),
    "fab": _Kind(FAB, frozenset({"steps", "targets", "loss"}), {"retire_every": 10}),
    "square": _Kind(Square, frozenset({"queries", "loss"}), {"retire_every": 50}),
    "autoattack": _Kind(AutoAttack, frozenset(), {}),
}


def suite(
    name: str,
    ball: Ball,
    classes: int,
    *,
    loss: str | None = None,
    transfer: Iterable[Path | str] = (),
) -> Suite:
    """The suite called ``name``, or the one in the YAML file of that path.

    ``loss``: a user's own (``FILE.py:NAME``), for which the adaptive attacks are added;
    ``transfer``: run folders, from each of which PGD-20 and targeted Auto-PGD are carried over.
    """
    chosen = _from_file(Path(name), ball) if names_a_file(name) else _by_name(name, ball, classes)
    added: list[Member] = []
    if loss is not None:
        added += adaptive(ball, loss_named(loss))
    for run in transfer:
        for attack in quick(ball).members[:1] + tier(ball, classes).members[-1:]:
            source = f"{attack.name}-from-{Path(run).name}"
            added.append(Member(name=source, attack=transferred(attack.attack, run, ball)))
    return chosen.with_members(*added) if added else chosen


def names_a_file(name: str) -> bool:
    """Whether a suite's name means a YAML file."""
    return name.endswith((".yaml", ".yml"))


def check_suite(name: str) -> str:
    """``UnknownNameError`` for a suite that is neither known nor a file, before anything else."""
    return name if names_a_file(name) else catalogue.check_suite_name(name)


def slug(name: str) -> str:
    """A suite's name in the names of folders: of a file, its stem."""
    return Path(name).stem if names_a_file(name) else name


def _by_name(name: str, ball: Ball, classes: int) -> Suite:
    catalogue.check_suite_name(name)
    if name == "tier":
        return tier(ball, classes)
    return {"quick": quick, "paper": paper, "strong": strong}[name](ball)


def _from_file(path: Path, ball: Ball) -> Suite:
    try:
        read = yaml.safe_load(path.read_text(encoding="utf-8"))
        found = SuiteFile.model_validate(read)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"suite {path} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigurationError(
            f"suite {path} is no YAML: {' '.join(str(error).split())}"
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigurationError(f"suite {path}: {where or 'the file'}: {first['msg']}") from None
    attacks = {name: _attack(name, wanted, ball) for name, wanted in found.attacks.items()}
    return custom(ball, attacks, name=found.name)


def _attack(name: str, wanted: AttackSettings, ball: Ball) -> Attack:
    given = {key: value for key, value in wanted.model_dump().items() if value is not None}
    kind = given.pop("attack")
    wrapping = {key: given.pop(key) for key in sorted(_WRAPPERS & given.keys())}
    recipe = _users_own(kind) if ".py:" in kind else _KINDS.get(kind)
    if recipe is None:
        raise UnknownNameError("attack", kind, [*_KINDS, "FILE.py:NAME"])
    idle = sorted(given.keys() - recipe.takes)
    if idle:
        takes = ", ".join(sorted(recipe.takes)) or "no settings"
        raise ConfigurationError(f"attack {name!r}: {kind} takes {takes}, not {idle[0]}")
    if "loss" in given:
        given["loss"] = loss_named(given["loss"])
    if kind == "apgd" and "loss" in given and given["loss"].targeted:
        given.setdefault("targets", 9)
    made = recipe.make(threat=ball, **recipe.defaults, **given)
    if "logit_scale" in wrapping:
        made = LogitScaled(attack=made, scale=wrapping["logit_scale"])
    if "restarts" in wrapping:
        made = Restarts(attack=made, count=wrapping["restarts"])
    if "transfer_from" in wrapping:
        made = transferred(made, wrapping["transfer_from"], ball)
    return made


def _users_own(place: str) -> _Kind:
    def made(*, threat: Ball) -> Attack:
        return as_attack(object_from_file(place, "attack"))

    return _Kind(made, frozenset(), {})


def loss_named(name: str) -> Loss:
    """A loss of ours by name, or a user's ``FILE.py:NAME``."""
    if ".py:" in name:
        return as_loss(object_from_file(name, "loss"))
    if name not in _LOSSES:
        raise UnknownNameError("loss", name, [*_LOSSES, "FILE.py:NAME"])
    return _LOSSES[name]


def transferred(attack: Attack, run: Path | str, ball: Ball) -> Transfer:
    """``attack`` made on the selected model of another run."""
    source = Source(run=Path(run)).open()
    digest = weights_digest(source.network.state_dict())
    return Transfer(attack=attack, source=source.network.eval(), name=digest[:16])

"""Suites by name, from a YAML file, with the attacks that a user adds, and transfer attacks.

A transfer attack computes its images on the model of another run.
"""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from torch import nn

from lrat.acceleration import View
from lrat.attacks import Attack, LogitScaled, Restarts, Transfer, Variant
from lrat.attacks.wrappers import Clean
from lrat.config import build, catalogue
from lrat.config.catalogue import (
    ATTACK_KINDS,
    ATTACKS,
    CATALOGUES,
    Row,
    names_a_file,
    names_users_code,
    run_name,
)
from lrat.config.method import fraction
from lrat.config.user_code import loss_named, own_attack
from lrat.data import ImageData
from lrat.errors import (
    ConfigurationError,
    LratError,
    ModelError,
    NonFiniteError,
    SettingError,
    UnknownNameError,
)
from lrat.evaluation import Member, Suite, adaptive, custom, quick, tier
from lrat.files.read import read_yaml, trouble
from lrat.hardware import move
from lrat.hooks import GradientWatch
from lrat.randomness import NoiseLike
from lrat.runs.sources import ModelSource
from lrat.runs.weights import weights_digest
from lrat.text import cut, shown
from lrat.threat import Ball
from lrat.types import Images, Labels

_DIGITS = 8
_DIGITS_OF_SOURCES = 16
_WRAPPERS = frozenset({"restarts", "logit_scale", "transfer_from"})


def suite(
    name: str,
    ball: Ball,
    classes: int,
    *,
    loss: str | None = None,
    transfer: Iterable[Path | str] = (),
) -> Suite:
    """The suite called ``name``, or the one in the YAML file of that path.

    ``loss``: a user's (``FILE.py:NAME``), for which the adaptive attacks are added;
    ``transfer``: run folders, from each of which PGD-20 and targeted Auto-PGD are carried over;
    where two are called the same, their models' digests tell them apart.
    """
    by_file = names_a_file(name)
    chosen = suite_from_file(Path(name), ball) if by_file else _by_name(name, ball, classes)
    added: list[Member] = []
    if loss is not None:
        added += adaptive(ball, loss_named(loss))
    runs = list(transfer)
    short = [run_name(run) for run in runs]
    for run, label in zip(runs, short, strict=True):
        origin = Origin.of(run)
        source = label if short.count(label) == 1 else f"{label}-{origin.digest[:_DIGITS]}"
        for attack in quick(ball).members[:1] + tier(ball, classes).members[-1:]:
            added.append(
                Member(name=f"{attack.name}-from-{source}", attack=origin.makes(attack.attack))
            )
    return chosen.with_members(*added) if added else chosen


def _by_name(name: str, ball: Ball, classes: int) -> Suite:
    row = catalogue.SUITES[catalogue.check_suite_name(name)]
    chosen: Suite = row.build(ball, **dict.fromkeys(row.takes, classes))
    return chosen


def attack(name: str, ball: Ball) -> Attack:
    """An evaluation attack by name: pgd-20, cw-20 (any number of steps), those of AutoAttack,
    saa."""
    counted = re.fullmatch(r"(.+)-([1-9]\d*)", name)
    kind = counted[1] if counted else name
    row = ATTACKS.get(kind)
    if row is None or not row.about or row.by_steps != (counted is not None):
        listed = (name.replace("-N", "-20") for name in CATALOGUES["attacks"])
        raise UnknownNameError("attack", name, listed)
    return build.attack(kind, ball, {"steps": int(counted[2])} if counted else {})


def attacks_as_suite(names: tuple[str, ...], ball: Ball) -> Suite:
    """Named attacks as a suite, for monitoring."""
    members = tuple(Member(name=name, attack=attack(name, ball)) for name in names)
    return Suite(name="+".join(names), threat=ball, members=members)


class AttackSettings(BaseModel):
    """An attack of a suite file. ``attack``: its kind, or ``FILE.py:NAME`` for a user's.

    ``step_size`` in [0, 1] units, also as 2/255, by default epsilon / 4. ``loss``: a name or
    ``FILE.py:NAME``. ``restarts``: how often it runs, each time on what is left. ``logit_scale``:
    the model's logits times this. ``transfer_from``: a run folder, on whose model
    the attack runs.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    attack: str
    steps: int | None = Field(default=None, ge=1)
    step_size: Annotated[float | None, BeforeValidator(fraction)] = Field(
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


def suite_from_file(path: Path, ball: Ball) -> Suite:
    """The suite that a YAML file describes, all its attacks inside ``ball``.

    Raises ``ConfigurationError`` or ``SettingError`` in one line, with the file and the attack.
    """
    read = _read(path)
    try:
        file = SuiteFile.model_validate(read)
    except ValidationError as error:
        raise ConfigurationError(f"suite {path}: {_first_problem(error)}") from None
    origin = cache(Origin.of)  # several attacks may share one run's model
    attacks = {
        name: _attack(path, name, settings, ball, origin) for name, settings in file.attacks.items()
    }
    return custom(ball, attacks, name=file.name)


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
        return f"{where} is missing: one of {', '.join(ATTACK_KINDS)}, or FILE.py:NAME"
    if each["type"] == "missing" or each["input"] in ({}, None):
        return f"{where}: name at least one attack, as `attacks: {{pgd: {{attack: pgd}}}}`"
    return f"{where}={shown(each['input'])}: {each['msg'].lower()}"


def _attack(
    path: Path,
    name: str,
    settings: AttackSettings,
    ball: Ball,
    origin: Callable[[str], "Origin"],
) -> Attack:
    given = {key: value for key, value in settings.model_dump().items() if value is not None}
    kind = given.pop("attack")
    wrapping = {key: given.pop(key) for key in sorted(_WRAPPERS & given.keys())}
    row = Row("") if names_users_code(kind) else ATTACK_KINDS.get(kind)
    if row is None:
        raise UnknownNameError("attack", kind, [*ATTACK_KINDS, "FILE.py:NAME"])
    idle = sorted(given.keys() - set(row.takes))
    if idle:
        takes = ", ".join(sorted(row.takes)) or "no settings"
        raise ConfigurationError(f"suite {path}: {name}: {kind} takes {takes}, not {idle[0]}")
    if "loss" in given:
        given["loss"] = loss_named(given["loss"])
    try:
        attack = build.attack(kind, ball, given) if row.make else own_attack(kind)
        return _wrapped(attack, wrapping, origin)
    except SettingError as error:
        raise SettingError(f"suite {path}: {name}: {error}") from None


def _wrapped(
    attack: Attack, wrapping: Mapping[str, Any], origin: Callable[[str], "Origin"]
) -> Attack:
    if "logit_scale" in wrapping:
        attack = LogitScaled(attack=attack, scale=wrapping["logit_scale"])
    if "restarts" in wrapping:
        attack = Restarts(attack=attack, count=wrapping["restarts"])
    if "transfer_from" in wrapping:
        attack = origin(wrapping["transfer_from"]).makes(attack)
    return attack


class Carried(Transfer):
    """``Transfer`` that refuses a source whose gradient is NaN: the attack would stand still there,
    and its images would be as harmless as the clean ones."""

    def run(
        self, model: nn.Module, images: Images, labels: Labels, noise: NoiseLike, clean: Clean
    ) -> Variant:
        with GradientWatch(self.source) as watch:
            variant = super().run(model, images, labels, noise, clean)
        if watch.has_nan:
            raise NonFiniteError(
                f"the gradient of the source of transferred attacks (model {self.name}) is NaN, so "
                "gradient attacks stand still on it: carry attacks over from another run"
            )
        return variant


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The model of a transfer attack, with the digest of its weights."""

    network: nn.Module
    digest: str

    @staticmethod
    def of(run: Path | str) -> "Origin":
        """The selected model of a run."""
        network = ModelSource(run=Path(run)).load().network.eval()
        return Origin(
            network=network, digest=weights_digest(network.state_dict())[:_DIGITS_OF_SOURCES]
        )

    def makes(self, attack: Attack) -> Transfer:
        """The transfer of ``attack`` from this model, named by the digest."""
        return Carried(attack=attack, source=self.network, name=self.digest)


def prepare_sources(suite: Suite, images: ImageData, device: torch.device) -> None:
    """Move the source models of transfer attacks in ``suite`` to ``device``.

    ``ModelError`` that names the attack where its source does not fit ``images``.
    """
    checked: set[nn.Module] = set()
    for step in suite.steps:
        if isinstance(step.attack, Transfer) and step.attack.source not in checked:
            move(step.attack.source, device)
            checked.add(step.attack.source)
            try:
                build.check_fit(step.attack.source, images)
            except LratError as error:
                raise ModelError(
                    f"{step.name}, transferred from another run's model: {error}"
                ) from None


def seen_alike(suite: Suite, view: nn.Module, images: ImageData) -> Suite:
    """``suite`` whose transfer attacks see their source models in views with the choices of
    ``view``, checked on ``images`` too. What an evaluation records of its view holds for them."""
    if not isinstance(view, View):
        return suite
    views: dict[nn.Module, nn.Module] = {}
    members = []
    for member in suite.members:
        attack: Any = member.attack
        if isinstance(attack, Transfer):
            source = attack.source
            if source not in views:
                views[source] = build.view("auto", source, images, view.choices)
            attack = replace(attack, source=views[source])
        members.append(replace(member, attack=attack))
    return replace(suite, members=tuple(members))

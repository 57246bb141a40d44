"""The method of a configuration: a name of ``lrat list methods``, or an objective written out.

What is written out names its parts (attacks, weightings, losses) as the catalogue does. A part is
a name, or ``{name: ..., setting: value}`` with arguments of the class or function behind it. What
an attack leaves out is that of the configuration's section ``attack``.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Annotated, Any, Literal, TypeAlias

import yaml
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationError,
    model_serializer,
    model_validator,
)

from lrat.checks import ARGUMENTS
from lrat.config import catalogue
from lrat.config.catalogue import Option, Row
from lrat.config.sections import Section, refused, unknown_key
from lrat.errors import ConfigurationError, UnknownNameError
from lrat.text import shown

_FORMS = ("terms", "phases", "objective")
_OF_TERMS = ("min_weight", "normalization", "anchor", "loss")
_FIRST = ("name", "begin")
_CLEAN, _ANCHOR = "clean", "anchor"
PARTS: Mapping[str, Mapping[str, Row]] = {
    "attack": catalogue.ATTACK_KINDS,
    "attack_with": catalogue.ATTACK_KINDS,
    "weighting": catalogue.WEIGHTINGS,
    "loss": catalogue.LOSSES,
    "objective": catalogue.OBJECTIVES,
}
"""The rows of a part by the key that it has."""
_NAME = re.compile(r"[^\W_][\w.+=-]{0,79}")


def _read_part(key: str, given: Any, *path: str) -> Any:
    """A part as it is kept: its name alone where it has no settings."""
    rows = PARTS[key]
    whole = {"name": given} if isinstance(given, str) else given
    name = whole.get("name") if isinstance(whole, Mapping) else None
    if not isinstance(name, str):
        example = "{name: " + next(iter(rows)) + "}"
        raise refused(f"write a name, or {example}", *path, given=given)
    if name not in rows:
        at = path if isinstance(given, str) else (*path, "name")
        raise refused(str(UnknownNameError(key.partition("_")[0], name, rows)), *at)
    settings = {}
    for setting, value in whole.items():
        if setting == "name" or value is None:
            continue
        if setting not in rows[name].takes:
            raise unknown_key(("name", *rows[name].takes), *path, str(setting))
        if setting in PARTS:
            settings[setting] = _read_part(setting, value, *path, setting)
        else:
            settings[setting] = _plain(setting, fraction(value))
    return {"name": name, **settings} if settings else name


def _plain(setting: str, value: Any) -> Any:
    """2 is 2.0 where a setting is a real number: one spelling for one method."""
    rule = ARGUMENTS.get(setting)
    is_real = type(value) is int and rule is not None and rule.need.startswith("a finite number")
    return float(value) if is_real else value


def fraction(value: Any) -> Any:
    """``2/255`` as a number, which YAML reads as text; anything else as it is."""
    numerator, slash, denominator = value.partition("/") if isinstance(value, str) else ("", "", "")
    try:
        return float(numerator) / float(denominator) if slash else value
    except (ValueError, ZeroDivisionError):
        return value


def part_of(given: str | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """A part's name and its settings."""
    settings = {"name": given} if isinstance(given, str) else dict(given)
    return settings.pop("name"), settings


def _name(name: str) -> str:
    if name and not _NAME.fullmatch(name):
        raise refused(
            "write up to 80 letters, digits and .+=-_, as it names folders and columns", given=name
        )
    return name


def _read_anchor(given: Any) -> Any:
    """The name of a term or ``clean``; an attack that is no term is always ``{name: ...}``."""
    if given is None or isinstance(given, str):
        return given
    name, settings = part_of(_read_part("attack", given))
    return {"name": name, **settings}


Part: TypeAlias = str | dict[str, Any]
_Attack = Annotated[Part, BeforeValidator(partial(_read_part, "attack"))]
_Weighting = Annotated[Part, BeforeValidator(partial(_read_part, "weighting"))]
_Loss = Annotated[Part, BeforeValidator(partial(_read_part, "loss"))]
_Other = Annotated[Part, BeforeValidator(partial(_read_part, "objective"))]
_Name = Annotated[str, AfterValidator(_name)]


class _Written(Section):
    """Settings that are stored without those that are not set."""

    @model_serializer(mode="wrap")
    def _without_unset(self, plain: Any) -> dict[str, Any]:
        """Names and beginnings first."""
        kept = {key: value for key, value in plain(self).items() if value not in (None, "")}
        if getattr(self, "terms", ()) is None:
            kept = {key: value for key, value in kept.items() if key not in _OF_TERMS}
        return {key: kept[key] for key in sorted(kept, key=lambda key: key not in _FIRST)}


class TermSettings(_Written):
    """A term of Eq. 7: an attack, the weighting of its images, and the ``loss`` that training
    descends on them, by default the objective's. ``name``: by default the attack's."""

    attack: _Attack
    weighting: _Weighting = "uniform"
    loss: _Loss | None = None
    name: _Name = ""

    @property
    def label(self) -> str:
        """What the term is called in records and figures."""
        return self.name or part_of(self.attack)[0]


class ObjectiveSettings(_Written):
    """``terms`` and the other settings of Eq. 7 (``objectives.Reweighted``), or another
    ``objective`` of the catalogue. ``loss``: what training descends, by default cross-entropy.

    ``anchor``: x* of the floor: the name of a term (null: the first one), ``clean``, or an attack
    that is no term, as ``{name: pgd}``.
    """

    terms: tuple[TermSettings, ...] | None = None
    min_weight: float = Field(default=0.0, ge=0)
    normalization: Literal["batch", "instance", "none"] = "batch"
    anchor: Annotated[Part | None, BeforeValidator(_read_anchor)] = None
    loss: _Loss | None = None
    objective: _Other | None = None

    @model_validator(mode="after")
    def _check(self) -> "ObjectiveSettings":
        possible = [form for form in _FORMS if form in type(self).model_fields]
        forms = [form for form in possible if getattr(self, form) is not None]
        if len(forms) != 1:
            given = " and ".join(forms) or "none of them"
            raise refused(f"write one of {', '.join(possible)}; this has {given}")
        if self.terms is not None:
            self._check_terms(self.terms)
            return self
        for key in _OF_TERMS:
            if getattr(self, key) != ObjectiveSettings.model_fields[key].default:
                raise refused(f"does nothing beside {forms[0]}: leave it out", key)
        return self

    def _check_terms(self, terms: Sequence[TermSettings]) -> None:
        names = [term.label for term in terms]
        for number, name in enumerate(names):
            if name in names[:number]:
                why = f"another term is called {name!r} too: give this one a name"
                raise refused(why, "terms", number, "name")
            if name in (_CLEAN, _ANCHOR):
                why = "the objective calls other images so: choose another name"
                raise refused(why, "terms", number, "name", given=name)
        if isinstance(self.anchor, str) and self.anchor not in (*names, _CLEAN):
            known = ", ".join([*names, _CLEAN])
            raise refused(
                f"choose one of {known}, or write an attack that is no term, as {{name: pgd}}",
                "anchor",
                given=self.anchor,
            )
        if not isinstance(self.anchor, str | None) and not self.min_weight:
            raise refused("does nothing without a floor: set min_weight above 0", "anchor")
        if not names and not (self.anchor == _CLEAN and self.min_weight):
            raise refused(
                "a term is missing, as [{attack: pgd}]; training on clean images alone has "
                "anchor: clean and min_weight: 1",
                "terms",
            )

    @property
    def described(self) -> str:
        """The parts in a few words, as ``saa-margin+cw``."""
        if self.terms is None:
            return part_of(self.objective or "")[0]
        return "+".join(map(_described, self.terms)) or _CLEAN


def _described(term: TermSettings) -> str:
    weighting = part_of(term.weighting)[0]
    return term.label if weighting == "uniform" else f"{term.label}-{weighting}"


class PhaseSettings(ObjectiveSettings):
    """An objective and the fraction of training at which it begins: .3 is epoch 30 of 100."""

    begin: float = Field(ge=0, lt=1)


class MethodValue(ObjectiveSettings):
    """A method written out: an objective, or ``phases``, one after the other.

    ``name``: what folders, tables and figures call it; by default its parts do.
    """

    phases: tuple[PhaseSettings, ...] | None = None
    name: _Name = ""

    @model_validator(mode="after")
    def _check_phases(self) -> "MethodValue":
        begins = [phase.begin for phase in self.phases or ()]
        if self.phases is not None and begins[:1] != [0]:
            raise refused("the first phase must begin at 0, as [{begin: 0, terms: ...}]", "phases")
        for number, (before, begin) in enumerate(pairwise(begins), start=1):
            if begin <= before:
                raise refused(
                    f"the phase before it begins at {before}: write phases in the order in which "
                    "they begin",
                    *("phases", number, "begin"),
                    given=begin,
                )
        if not self.name:
            parts = [each.described for each in self.phases or (self,)]
            object.__setattr__(self, "name", "-".join(["custom", *parts])[:80])
        return self

    @property
    def value(self) -> "MethodValue":
        """The method written out."""
        return self


class MethodSettings(Section):
    """A method by name and the numbers of its equations; one that it lacks is refused."""

    name: Annotated[str, AfterValidator(catalogue.resolve_method)] = "lrat-saa+cw"
    alpha: float = Field(default=2.0, gt=0)
    beta: float = Field(default=0.5, gt=0)
    min_weight: float = Field(default=0.1, ge=0)
    normalization: Literal["batch", "instance", "none"] = "batch"
    anchor: str | None = None
    gairat_lambda: float = -1.0
    gairat_begin: float = Field(default=0.3, ge=0, lt=1)
    trades_beta: float = Field(default=6.0, ge=0)

    @property
    def takes(self) -> list[str]:
        """The settings that this method uses."""
        return sorted(set(_options(catalogue.METHODS[self.name].value)))

    @property
    def value(self) -> MethodValue:
        """The method written out. ``ConfigurationError`` for an anchor that it does not have."""
        value: dict[str, Any] = self._filled(catalogue.METHODS[self.name].value)
        if phases := value.get("phases"):  # one that the next one replaces at once never acts
            acting = [one for one, then in pairwise(phases) if one["begin"] < then["begin"]]
            value["phases"] = [*acting, phases[-1]]
        try:
            return MethodValue.model_validate({"name": self.name, **value})
        except ValidationError as error:
            why = error.errors()[0]["msg"]
            raise ConfigurationError(f"method.anchor={shown(self.anchor)}: {why}") from None

    def _filled(self, value: Any) -> Any:
        if isinstance(value, Option):
            return getattr(self, value.name)
        if isinstance(value, Mapping):
            return {key: self._filled(part) for key, part in value.items()}
        return [self._filled(part) for part in value] if isinstance(value, list) else value


def _options(value: Any) -> Iterator[str]:
    if isinstance(value, Option):
        yield value.name
    elif isinstance(value, Mapping | list):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _options(part)


def _read_method(given: Any) -> Any:
    """By name where nothing is written out; what is written out under a name of the catalogue must
    be that method, and is it."""
    if isinstance(given, MethodValue):
        return given
    if not isinstance(given, Mapping) or given.keys().isdisjoint(_FORMS):
        return MethodSettings.model_validate(given)
    known = tuple(MethodValue.model_fields)
    for key in given:
        if key not in known:
            raise unknown_key(known, str(key))
    value = MethodValue.model_validate(given)
    if value.name not in {*catalogue.METHODS, *catalogue.ALIASES}:
        return value
    named = MethodSettings(name=value.name)
    if value.model_copy(update={"name": named.name}) != named.value:
        raise refused(
            "the method of this name in `lrat list methods` is another one: choose another name, "
            f"or leave out {' and '.join(form for form in _FORMS if form in given)} to train that",
            "name",
            given=value.name,
        )
    return named


Method: TypeAlias = Annotated[MethodSettings | MethodValue, BeforeValidator(_read_method)]
"""The section ``method`` of a configuration."""


def method_as_yaml(name: str) -> str:
    """The method of that name written out, as ``lrat train --config`` takes it."""
    value = MethodSettings(name=catalogue.resolve_method(name)).value.model_dump(mode="json")
    return (
        "# Attacks take what they leave out (steps, step_size, ...) from the section `attack`.\n"
        + yaml.safe_dump({"method": value}, sort_keys=False, default_flow_style=None)
    )

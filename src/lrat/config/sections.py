"""What all sections of a configuration share: what they hold, and how a mistake is said."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from lrat.checks import MOST_WHOLE
from lrat.errors import ConfigurationError, LratError
from lrat.files.read import parse_yaml
from lrat.text import cut, shown

_NO_OPTIONS = {
    **dict.fromkeys(("name", "classes", "num_classes"), "it follows from the name and the data"),
    **dict.fromkeys(("channels", "in_chans"), "it follows from the data"),
    **dict.fromkeys(("weights", "pretrained", "checkpoint_path"), "name a file by --weights"),
    "normalize": "use --normalize",
    "size": "it is that of the data (--size)",
}
"""Options of a network that a configuration says elsewhere, and where."""
_REFUSED = "refused"
_UNKNOWN = "extra_forbidden"


class Section(BaseModel):
    """Settings by name; an unknown name is refused with the nearest known one."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    @field_validator("*")
    @classmethod
    def _can_be_stored(cls, value: Any) -> Any:
        if type(value) is int and not -MOST_WHOLE <= value < MOST_WHOLE:
            raise ValueError("must be below 2^63")
        return value


def refused(why: str, *path: str | int, given: Any = None) -> ValidationError:
    """To be raised inside a validator: the key at ``path`` below its section is refused."""
    details = InitErrorDetails(
        type=PydanticCustomError(_REFUSED, "{why}", {"why": why}), loc=path, input=given
    )
    return ValidationError.from_exception_data("section", [details])


def unknown_key(known: Sequence[str], *path: str | int) -> ValidationError:
    """The same for a key at ``path`` that is none of those ``known`` there."""
    details = InitErrorDetails(
        type=PydanticCustomError(_UNKNOWN, "unknown", {"known": known}), loc=path, input=None
    )
    return ValidationError.from_exception_data("section", [details])


def written(path: Sequence[str | int]) -> str:
    """``method.terms[1].weighting``: a key's path as messages write it."""
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)
    return text.removeprefix(".")


def in_one_line(error: ValidationError, root: type[BaseModel]) -> str:
    """All that is wrong in a section of class ``root``."""
    problems = []
    for each in error.errors(include_url=False):
        path = each["loc"]
        where, given, context = cut(written(path)), each["input"], each.get("ctx", {})
        if each["type"] == _UNKNOWN:
            known = context.get("known") or _known_keys(root, path[:-1])
            near = difflib.get_close_matches(str(path[-1]), known, n=1, cutoff=0.5)
            hint = f"did you mean {written((*path[:-1], near[0]))!r}? " if near else ""
            problems.append(f"unknown setting {where!r}: {hint}Known here: {', '.join(known)}")
        elif each["type"] == _REFUSED:
            value = "" if given is None else f"={shown(given)}"
            problems.append(f"{where}{value}: {each['msg']}")
        elif each["type"] == "missing":
            problems.append(f"{where} is missing: set it")
        elif each["type"] == "model_type":
            first = _known_keys(root, path)[:1]
            inside = f", as {where}.{first[0]}" if first in (["name"], ["attack"]) else ""
            problems.append(f"{where}={shown(given)}: must be a section of settings{inside}")
        elif isinstance(context.get("error"), LratError):
            problems.append(str(context["error"]))
        elif each["type"] == "tuple_type":
            has_parts = given is None or isinstance(given, Mapping)
            form = "[...]" if has_parts else f"[{cut(' '.join(str(given).split()))}]"
            problems.append(f"{where}={shown(given)}: must be a list, as {where}={form}")
        else:
            cause = each["msg"].lower().replace("dictionary", "mapping")
            problems.append(f"{where}={shown(given)}: {cause}")
    return "; ".join(problems)


def _known_keys(section: type[BaseModel], path: Sequence[str | int]) -> list[str]:
    """The settings of the section at ``path``, and of each that may be there."""
    sections = [section]
    for key in path:
        fields = [each.model_fields[key] for each in sections if key in each.model_fields]
        if isinstance(key, str):
            sections = [section for each in fields for section in _sections(each.annotation)]
    return list(dict.fromkeys(key for each in sections for key in each.model_fields))


def _sections(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for each in get_args(annotation) for section in _sections(each)]


def leaves(value: Any, *path: str | int) -> Iterator[tuple[str, Any]]:
    """``path.of.it[1].key``, value: each leaf of nested settings."""
    if isinstance(value, Mapping):
        inside: Iterator[tuple[str | int, Any]] = ((str(key), value[key]) for key in value)
    elif isinstance(value, list) and any(isinstance(each, Mapping) for each in value):
        inside = enumerate(value)
    else:
        yield written(path), value
        return
    for key, part in inside:
        yield from leaves(part, *path, key)


def name_and_options(name: str) -> dict[str, Any]:
    """``timm:resnet18,drop_path_rate=0.1`` as the arguments of ``from_timm``."""
    bare, *options = name.partition(":")[2].split(",")
    parsed: dict[str, Any] = {"name": bare}
    for option in options:
        key, equals, value = option.partition("=")
        if not equals or not key.isidentifier():
            raise ConfigurationError(
                f"model {name!r}: write options as key=value, as timm:resnet18,drop_path_rate=0.1"
            )
        if key in parsed or key in _NO_OPTIONS:
            cure = _NO_OPTIONS.get(key, "write it once")
            raise ConfigurationError(f"model {name!r}: {key} cannot be set there: {cure}")
        try:
            parsed[key] = parse_yaml(value)
        except ValueError:
            raise ConfigurationError(f"model {name!r}: {shown(value)} is no YAML value") from None
    return parsed

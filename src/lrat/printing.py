"""How configured things print: as the call that makes them."""

from collections.abc import Collection
from dataclasses import MISSING, fields
from typing import Any


def as_call(thing: Any, *, quiet: Collection[str]) -> str:
    """``Name(field=value, ...)`` as dataclasses print themselves.

    The fields named by ``quiet`` are left out while they have their default. What was added to a
    class later is quiet, so that whoever compares what was printed before (a folder that tells by
    it whether it holds the same run) finds the same text.
    """
    shown = [
        f"{each.name}={getattr(thing, each.name)!r}"
        for each in fields(thing)
        if each.repr and not (each.name in quiet and _is_default(thing, each))
    ]
    return f"{type(thing).__qualname__}({', '.join(shown)})"


def _is_default(thing: Any, each: Any) -> bool:
    default = each.default
    if default is MISSING and each.default_factory is not MISSING:
        default = each.default_factory()
    return bool(getattr(thing, each.name) == default)

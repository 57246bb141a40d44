"""What tells one function or object of a user's from another where its name does not.

``lrat.fit`` knows the run in a folder by how its parts print. A function without a name of its own
(a lambda, one made inside another) and an object that prints as its class alone look the same
whatever they do.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from types import FunctionType, MethodType
from typing import Any

from torch import Tensor, nn

from lrat.experiments.function_code import code_digest

_ADDRESS = re.compile(" at 0x[0-9a-fA-F]+")


def without_addresses(text: str) -> str:
    """``text`` without those of functions and objects in it: they differ between processes."""
    return _ADDRESS.sub("", text)


def own_names(*parts: Any) -> str:
    """What stands for the code of nameless functions, and for the contents of objects that print
    as their class alone, anywhere in ``parts``; empty without any."""
    return ", ".join(_told(parts, set()))


def _told(thing: Any, seen: set[int]) -> Iterator[str]:
    if id(thing) in seen or isinstance(thing, (nn.Module, Tensor, type)):
        return
    seen.add(id(thing))
    for part in _parts(thing):
        yield from _told(part, seen)
    if isinstance(thing, FunctionType):
        if "<" in thing.__qualname__:
            yield f"{thing.__qualname__} {code_digest(thing)}"
    elif _prints_as_its_class(thing) and (held := getattr(thing, "__dict__", None)):
        yield f"{type(thing).__qualname__} {without_addresses(repr(_ordered(held)))}"


def _prints_as_its_class(thing: Any) -> bool:
    own: Any = type(thing)
    return own.__repr__ is object.__repr__


def _parts(thing: Any) -> Iterator[Any]:
    """What else a part is made of."""
    if isinstance(thing, MethodType):
        yield from (thing.__func__, thing.__self__)
    elif isinstance(thing, partial):
        yield from (thing.func, *thing.args, *thing.keywords.values())
    elif isinstance(thing, Mapping):
        yield from thing.values()
    elif isinstance(thing, (tuple, list)):
        yield from thing
    elif is_dataclass(thing):
        yield from (getattr(thing, each.name, None) for each in fields(thing))
    elif not isinstance(thing, FunctionType):
        yield from vars(thing).values() if hasattr(thing, "__dict__") else ()


def _ordered(held: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Sets in an order of their own: Python's differs between processes."""
    return [
        (name, sorted(map(repr, value)) if isinstance(value, (set, frozenset)) else value)
        for name, value in sorted(held.items())
    ]

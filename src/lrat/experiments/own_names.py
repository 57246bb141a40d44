"""What tells one function or object of a user's from another where its name does not.

``lrat.fit`` knows the run in a folder by how its parts print. A function without a name of its own
(a lambda, one made inside another) and an object that prints as its class alone look the same
whatever they do.
"""

import re
from collections.abc import Iterator, Mapping
from types import FunctionType
from typing import Any

from torch import Tensor, nn

from lrat.config.fingerprints import code_digest, parts_of

DEFAULT_REPR: Any = object.__repr__
"""That of objects which print as their class alone."""
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
    parts = parts_of(thing)
    if parts is None and not isinstance(thing, FunctionType):
        parts = getattr(thing, "__dict__", {}).values()
    for part in parts or ():
        yield from _told(part, seen)
    if isinstance(thing, FunctionType):
        if "<" in thing.__qualname__:
            yield f"{thing.__qualname__} {code_digest(thing)}"
    elif type(thing).__repr__ is DEFAULT_REPR and (held := getattr(thing, "__dict__", None)):
        yield f"{type(thing).__qualname__} {without_addresses(repr(_ordered(held)))}"


def _ordered(held: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Sets in an order of their own: Python's differs between processes."""
    return [
        (name, sorted(map(repr, value)) if isinstance(value, (set, frozenset)) else value)
        for name, value in sorted(held.items())
    ]

"""Digests of the code of functions and classes that a user hands over from Python.

An attack or a loss prints as its name, which stays when its code changes; what was attacked with
the old code must not be read back for the new one. Code from files (``FILE.py:NAME``) is known by
the file already.

``lrat.fit`` knows the run in a folder by how its parts print. A function without a name (a lambda,
one defined inside another) and an object that prints as its class alone print the same whatever
they do: ``own_names`` gives digests of these.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from types import CodeType, FunctionType, MethodType
from typing import Any

from torch import Tensor, nn

from lrat.config.user_code import OwnAttack, OwnLoss
from lrat.evaluation import Suite

_DIGITS = 12
_PLAIN = (bool, int, float, complex, str, bytes, type(None))

DEFAULT_REPR: Any = object.__repr__
"""That of objects which print as their class alone."""
_ADDRESS = re.compile(" at 0x[0-9a-fA-F]+")


def own_functions(suite: Suite) -> str:
    """``mine 1a2b3c4d5e6f, other ...``: the functions and classes in ``suite`` that are not ours,
    by name, with their codes' digests; empty without any."""
    digests: dict[str, str] = {}
    for step in suite.steps:
        for each in _inside(step.attack, set()):
            digests[f"{each.__module__}.{each.__qualname__}"] = code_digest(each)
    return ", ".join(f"{name.rpartition('.')[2]} {digests[name]}" for name in sorted(digests))


def code_digest(thing: Callable[..., Any]) -> str:
    """Twelve hex digits for a function's or a class's code, constants and defaults, and for the
    functions and plain values of its own module and closure that it names."""
    return digest(_code(thing, set()))


def digest(lines: Iterable[str]) -> str:
    """Twelve hex digits for these lines."""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:_DIGITS]


def _inside(thing: Any, seen: set[int]) -> Iterator[Any]:
    """The users' functions and classes inside an attack."""
    if id(thing) in seen or isinstance(thing, (nn.Module, OwnLoss, OwnAttack)):
        return
    seen.add(id(thing))
    function = thing if isinstance(thing, FunctionType) else type(thing)
    if callable(thing) and _is_own(function):
        yield function
    for part in parts_of(thing) or ():
        yield from _inside(part, seen)


def parts_of(thing: Any) -> Iterable[Any] | None:
    """The parts of a method, a partial function, a container or a dataclass; None for others."""
    if isinstance(thing, MethodType):
        return thing.__func__, thing.__self__
    if isinstance(thing, partial):
        return thing.func, *thing.args, *thing.keywords.values()
    if isinstance(thing, Mapping):
        return thing.values()
    if isinstance(thing, (tuple, list)):
        return thing
    if is_dataclass(thing):
        return [getattr(thing, each.name, None) for each in fields(thing)]
    return None


def _is_own(thing: Any) -> bool:
    """Whether a function or class is neither ours, nor Python's or PyTorch's."""
    package = str(getattr(thing, "__module__", "")).partition(".")[0]
    return package not in {"lrat", "torch", "builtins", "functools", "numpy"}


def _code(thing: Any, seen: set[int]) -> Iterator[str]:
    if id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, (staticmethod, classmethod)):
        thing = thing.__func__
    if isinstance(thing, property):
        thing = thing.fget
    if isinstance(thing, type):
        for base in thing.__mro__:
            for name, member in sorted(vars(base).items()) if _is_own(base) else ():
                if isinstance(member, _PLAIN) and not name.startswith("__"):
                    yield f"{name}={member!r}"
                yield from _code(member, seen)
    if not isinstance(thing, FunctionType):
        return
    yield from code_lines(thing.__code__)
    cells = [value for cell in thing.__closure__ or () if (value := filled(cell)) is not None]
    named = [
        thing.__globals__[name] for name in named_in(thing.__code__) if name in thing.__globals__
    ]
    values = (*(thing.__defaults__ or ()), *(thing.__kwdefaults__ or {}).values(), *cells, *named)
    for value in values:
        if isinstance(value, _PLAIN):
            yield repr(value)
        elif isinstance(value, FunctionType) and _is_own(value):
            yield from _code(value, seen)


def code_lines(code: CodeType) -> Iterator[str]:
    """Bytecode, names and constants: the same in any line, and with any comments."""
    yield f"{code.co_code.hex()} {code.co_names} {code.co_varnames}"
    for value in code.co_consts:
        if isinstance(value, CodeType):
            yield from code_lines(value)
        elif isinstance(value, frozenset):
            yield repr(sorted(map(repr, value)))
        else:
            yield repr(value)


def named_in(code: CodeType) -> list[str]:
    """The names that a function and those inside it look up."""
    inner = [
        name for value in code.co_consts if isinstance(value, CodeType) for name in named_in(value)
    ]
    return sorted({*code.co_names, *inner})


def filled(cell: Any) -> Any:
    """What a closure's cell holds; None for one that is not filled yet."""
    try:
        return cell.cell_contents
    except ValueError:
        return None


def without_addresses(text: str) -> str:
    """``text`` without those of functions and objects in it: they differ between processes."""
    return _ADDRESS.sub("", text)


def own_names(*parts: Any) -> str:
    """The digests of nameless functions, and the contents of objects that print as their class
    alone, anywhere in ``parts``; empty without any."""
    return ", ".join(_unnamed(parts, set()))


def _unnamed(thing: Any, seen: set[int]) -> Iterator[str]:
    if id(thing) in seen or isinstance(thing, (nn.Module, Tensor, type)):
        return
    seen.add(id(thing))
    parts = parts_of(thing)
    if parts is None and not isinstance(thing, FunctionType):
        parts = getattr(thing, "__dict__", {}).values()
    for part in parts or ():
        yield from _unnamed(part, seen)
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

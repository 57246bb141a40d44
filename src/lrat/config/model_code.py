"""The code of a user's model, attack or objective, from a file or not.

Two readings are of the same program where their functions have the same bytecode and their plain
values are the same. Code in site-packages, in the standard library or in lrat is known by its
version. What a function or a method stores (counters, caches, switches) is state, no setting.
"""

import dis
import functools
import platform
import sys
import sysconfig
from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lrat import __version__
from lrat.acceleration.state import HOOKS
from lrat.config.fingerprints import (
    DEFAULT_REPR,
    code_lines,
    digest,
    filled,
    named_in,
    without_addresses,
)
from lrat.evaluation.storage.fingerprint import Program

_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, np.generic, Enum)
_MOST = 1000
"""A longer list or dictionary holds data."""
_DEEPEST = 50
"""What lies deeper inside objects is left out: a linked list has no end that Python could reach."""
_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
_OF_THE_MACHINE = frozenset({"device_ids", "output_device", "src_device_obj"})
_LIBRARIES = tuple(
    f"{Path(sysconfig.get_path(name)).resolve()}/" for name in ("stdlib", "platstdlib")
)


def program_of(*things: Any) -> Program:
    """The program of models, attacks and whatever else is ``things``."""
    walk = _Walk()
    for number, thing in enumerate(things):
        walk.visit(thing, f"{number}" if number else "model")
    return Program(
        versions=f"lrat {__version__}, PyTorch {torch.__version__}, Python "
        f"{'.'.join(platform.python_version_tuple()[:2])}",
        code=walk.code,
        values={
            name: text
            for name, (attribute, text) in walk.values.items()
            if attribute not in walk.stored
        },
    )


class _Walk:
    """Everything that can be reached from some objects: ``code``, ``values`` (with the name of the
    attribute or variable that holds it), and the names that functions store."""

    def __init__(self) -> None:
        self.code: dict[str, str] = {}
        self.values: dict[str, tuple[str, str]] = {}
        self.stored: set[str] = set()
        self._seen: dict[int, Any] = {}  # with the object, whose number another might get
        self._depth = 0

    def visit(self, thing: Any, name: str, attribute: str = "") -> None:
        if self._depth < _DEEPEST:
            self._depth += 1
            self._visit(thing, name, attribute)
            self._depth -= 1

    def _visit(self, thing: Any, name: str, attribute: str) -> None:
        if (text := _text(thing)) is not None:
            self.values[name] = (attribute, text)
            return
        if isinstance(thing, type):
            self._class(thing)
            return
        if id(thing) in self._seen or isinstance(thing, (Tensor, np.ndarray, ModuleType)):
            return
        self._seen[id(thing)] = thing
        if isinstance(thing, nn.Module):
            self._module(thing, name)
        elif isinstance(thing, FunctionType):
            self._function(thing)
        else:
            for key, part in _parts(thing):
                self.visit(part, f"{name}.{key}", key)

    def _module(self, module: nn.Module, name: str) -> None:
        self.values[f"{name}: tree"] = ("", digest([without_addresses(_tree(module))]))
        for path, part in module.named_modules():
            at = f"{name}.{path}" if path else name
            self._seen[id(part)] = part
            self._class(type(part))
            for kind in HOOKS:
                for number, hook in enumerate(getattr(part, kind, {}).values()):
                    self.visit(hook, f"{at}.{kind}[{number}]")
            held = getattr(part, "__dict__", {})
            for key in sorted(held.keys() - _OF_EVERY_MODULE - _OF_THE_MACHINE):
                self.visit(held[key], f"{at}.{key}", key)
            try:
                written = getattr(part, "code", None)
            except (AttributeError, RuntimeError):
                continue
            if isinstance(written, str):  # of a ScriptModule or a graph
                self.code[f"{at}.code"] = digest([written])

    def _function(self, function: FunctionType) -> None:
        self.visit(getattr(function, "__wrapped__", None), function.__qualname__)
        if not _is_users(function):  # a library's decorator around a function of the user's
            for cell in function.__closure__ or ():
                if (held := filled(cell)) is not function and callable(held):
                    self.visit(held, function.__qualname__)
            return
        code, name = function.__code__, function.__qualname__
        read = digest(code_lines(code))
        while self.code.setdefault(name, read) != read:  # two lambdas of one function
            name += "'"
        if function.__name__ != "__init__":
            self.stored.update(_stored(code))
        held = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
        for number, value in enumerate(held):
            self.visit(value, f"{name}: default {number}")
        for variable, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            if variable != "__class__":
                self.visit(filled(cell), f"{name}: {variable}", variable)
        names = named_in(code)
        for variable in names:
            if variable in function.__globals__:
                value = function.__globals__[variable]
            elif (value := sys.modules.get(variable)) is None:  # imported inside the function
                continue
            self._visit_named(value, names, variable, depth=0)

    def _visit_named(self, value: Any, names: Iterable[str], variable: str, depth: int) -> None:
        """What a function's text names: of a module or a namespace its parts with such names."""
        if variable.startswith("__") or depth > 3:
            return
        if isinstance(value, (Namespace, SimpleNamespace)) or (
            isinstance(value, ModuleType) and _is_users_file(getattr(value, "__file__", None))
        ):
            for each in names:
                if each in vars(value):
                    self._visit_named(vars(value)[each], names, each, depth + 1)
        else:
            self.visit(value, f"{variable} (global)", variable)

    def _class(self, kind: type) -> None:
        for base in kind.__mro__:
            if id(base) in self._seen or not _is_users(base):
                continue
            self._seen[id(base)] = base
            for name, member in sorted(vars(base).items()):
                if not name.startswith("__") or _text(member) is None:
                    self.visit(member, f"{base.__qualname__}.{name}", name)


def _parts(thing: Any) -> Iterator[tuple[str, Any]]:
    """The parts of an object that is no module, function or class, by name."""
    if isinstance(thing, (staticmethod, classmethod)):
        yield "function", thing.__func__
    elif isinstance(thing, property):
        yield from (("get", thing.fget), ("set", thing.fset))
    elif isinstance(thing, functools.partial):
        yield "function", thing.func
        yield from ((f"{n}", each) for n, each in enumerate(thing.args))
        yield from thing.keywords.items()
    elif isinstance(thing, MethodType):
        yield from (("function", thing.__func__), ("self", thing.__self__))
    elif isinstance(thing, Mapping):
        if len(thing) <= _MOST:
            yield from ((str(key), each) for key, each in list(thing.items()))
    elif isinstance(thing, (list, tuple, set, frozenset)):
        if len(thing) <= _MOST:
            yield from ((f"{n}", each) for n, each in enumerate(thing))
    elif hasattr(thing, "__wrapped__"):
        yield "function", thing.__wrapped__
    elif _is_users(kind := type(thing)) or kind.__repr__ is DEFAULT_REPR:
        yield "class", type(thing)
        names = {*getattr(thing, "__dict__", ()), *getattr(type(thing), "__slots__", ())}
        yield from ((name, getattr(thing, name, None)) for name in sorted(names))
    elif is_dataclass(thing):
        yield from ((each.name, getattr(thing, each.name, None)) for each in fields(thing))


def _tree(module: nn.Module) -> str:
    try:
        return repr(module)
    except Exception:  # a user's extra_repr or __repr__
        return str([(path, type(part).__qualname__) for path, part in module.named_modules()])


def _text(value: Any, depth: int = 0) -> str | None:
    """How a plain value, or a container of such values alone, is written; None for anything else.

    Floats to six digits: those that are computed differ in the last bits between processors."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, _PLAIN):
        return repr(value)
    if isinstance(value, (list, tuple, set, frozenset, Mapping)):
        items = value.items() if isinstance(value, Mapping) else value
        if type(value).__module__ not in {"builtins", "collections", "torch"} or len(value) > _MOST:
            return None
        texts = []
        for each in list(items) if depth < _DEEPEST else ():
            if (text := _text(each, depth + 1)) is None:
                return None
            texts.append(text)
        if texts:
            return str(sorted(texts) if isinstance(value, (set, frozenset)) else texts)
    return None


def _stored(code: CodeType) -> Iterator[str]:
    for each in dis.get_instructions(code):
        if each.opname in {"STORE_ATTR", "STORE_GLOBAL", "STORE_DEREF"}:
            yield str(each.argval)
    for value in code.co_consts:
        if isinstance(value, CodeType):
            yield from _stored(value)


def _is_users(thing: Any) -> bool:
    """Whether a function or class is from a file, cell or line of the user's."""
    module = str(getattr(thing, "__module__", ""))
    if module.partition(".")[0] in {"lrat", "torch", "builtins"}:
        return False
    if isinstance(thing, FunctionType):
        return _is_users_file(thing.__code__.co_filename)
    loaded = sys.modules.get(module)
    if loaded is None or module == "__main__":
        return True
    return _is_users_file(getattr(loaded, "__file__", None) or "<frozen>")


@functools.cache
def _is_users_file(file: str | None) -> bool:
    if file is None or file.startswith("<frozen"):
        return False
    if file.startswith("<"):
        return True
    path = str(Path(file).resolve())
    return "/site-packages/" not in path.replace("\\", "/") and not path.startswith(_LIBRARIES)

"""The state of a model by name: its tensors, and all other values that its forward may read."""

import copy
import enum
import functools
import itertools
import logging
import types
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lrat.modes import evaluating, recordable

HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
_INTERNAL = frozenset(vars(nn.Module()))
_NUMBERS = (type(None), bool, int, float, complex, str, bytes)
_COMPARED = (*_NUMBERS, tuple)
_DEEPEST = 12
_LONGEST = 1000
"""Deeper nesting and longer lists are compared by identity and length alone."""


Attribute = tuple[str, str]
"""A plain attribute: the path of its module, and its name there."""


@dataclass
class State:
    """The parts of a model at one moment, for a comparison on the host that reads no tensor.

    ``tensors``: parameters, buffers and tensors in plain attributes, by name. ``others``: names
    with values: modules, hooks, layouts of tensors. ``attributes``: the same of each plain
    attribute of a module: numbers, flags, and the contents of lists, dictionaries and objects.
    ``bound``: attributes that hold modules, or share an object with the rest of the model.
    ``holders``: the attribute of each tensor that is in one.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    others: list[tuple[str, Any]] = field(default_factory=list)
    attributes: dict[Attribute, list[tuple[str, Any]]] = field(default_factory=dict)
    bound: set[Attribute | None] = field(default_factory=set)
    holders: dict[str, Attribute] = field(default_factory=dict)
    _names: dict[int, tuple[str, Attribute | None]] = field(default_factory=dict)

    @classmethod
    def of(cls, module: nn.Module) -> "State":
        state = cls()
        state._add("", module, 0, None)
        return state

    def changed(self, other: "State") -> set[Attribute | None] | None:
        """The attributes that differ in more than the values of tensors; None where other parts
        differ, or attributes that cannot be copied alone."""
        if self.attributes.keys() != other.attributes.keys() or _differ(self.others, other.others):
            return None
        changed: set[Attribute | None] = {
            key for key, parts in self.attributes.items() if _differ(parts, other.attributes[key])
        }
        return None if changed & (self.bound | other.bound) else changed

    def without_tensors(self) -> "State":
        """The state for a later comparison, which keeps no tensor and no autograd graph alive."""
        return State(others=self.others, attributes=self.attributes, bound=self.bound)

    def _add(self, name: str, value: Any, depth: int, within: Attribute | None) -> None:
        """``within``: the attribute to which ``value`` belongs."""
        entries = self.others if within is None else self.attributes[within]
        if type(value) in _NUMBERS:
            entries.append((name, value))
            return
        known, first = self._names.setdefault(id(value), (name, within))
        if first != within:
            self.bound |= {first, within}
        if isinstance(value, Tensor):
            self.tensors[name] = value
            if within is not None:
                self.holders[name] = within
            # With the name of the tensor to which it is tied, so that untied ones differ.
            entries.append((name, (known, value.shape, value.dtype, value.device)))
        elif known != name:
            entries.append((name, known))
        else:
            parts = _parts(value) if depth < _DEEPEST else []
            is_module = isinstance(value, nn.Module)
            is_whole = is_module or not parts or len(parts) > _LONGEST
            entries.append((name, value if is_whole else type(value)))
            entries.append((name, len(parts)))
            if len(parts) <= _LONGEST:
                deeper = 0 if is_module else depth + 1
                for key, part in parts:
                    self._add(f"{name}.{key}" if name else key, part, deeper, within)
            if is_module:
                self._add_module(name, value, within)

    def _add_module(self, name: str, module: nn.Module, within: Attribute | None) -> None:
        """Add the hooks and plain attributes of a module."""
        if within is not None:
            self.bound.add(within)
        for number, hook in enumerate(hooks_of(module).values()):
            (self.others if within is None else self.attributes[within]).append(
                (f"{name} hook {number}", hook)
            )
        for key, part in vars(module).items():
            if key not in _INTERNAL:
                holder = (name, key) if within is None else within
                self.attributes.setdefault(holder, [])
                self._add(f"{name}.{key}" if name else key, part, 0, holder)


def registered(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, tied ones under each of their names: the part of
    ``State.tensors`` that takes a fifth of its time."""
    return dict(
        itertools.chain(
            module.named_parameters(remove_duplicate=False),
            module.named_buffers(remove_duplicate=False),
        )
    )


def private_copy(model: nn.Module) -> nn.Module:
    """A copy in eval mode that shares no tensor with ``model``.

    Results of earlier forwards that ``model`` stores are copied without their graphs; hooks that
    are no part of the model are shared, so that their memory is not copied.
    """
    with torch.inference_mode(False), torch.no_grad(), recordable(model), evaluating(model):
        memo: dict[int, Any] = {}
        for tensor in State.of(model).tensors.values():
            if not tensor.is_leaf:
                memo[id(tensor)] = tensor.detach().clone()
        for module in model.modules():
            for hook in _all_hooks(module).values():
                if not isinstance(getattr(hook, "__self__", None), nn.Module):
                    memo[id(hook)] = hook
        copied = copy.deepcopy(model, memo)
    for module in copied.modules():
        for kind, number in _all_hooks(module).keys() - hooks_of(module).keys():
            del getattr(module, kind)[number]
    return copied


def hooks_of(module: nn.Module) -> dict[tuple[str, int], Any]:
    """The hooks of one module by kind and number, without those of this package."""
    return {key: hook for key, hook in _all_hooks(module).items() if not is_of(hook, "lrat.")}


def is_of(hook: Any, package: str) -> bool:
    """Whether a hook is defined in this package, as ``"torch."``."""
    return str(getattr(hook, "__module__", "")).startswith(package)


def _all_hooks(module: nn.Module) -> dict[tuple[str, int], Any]:
    return {
        (kind, number): hook for kind in HOOKS for number, hook in getattr(module, kind, {}).items()
    }


def _differ(some: list[tuple[str, Any]], others: list[tuple[str, Any]]) -> bool:
    return len(some) != len(others) or not all(map(_same, some, others))


def _same(one: tuple[str, Any], other: tuple[str, Any]) -> bool:
    (name, value), (other_name, other_value) = one, other
    if name != other_name or type(value) is not type(other_value):
        return False
    return value is other_value or (
        type(value) in _COMPARED
        and (value == other_value or repr(value) == repr(other_value))  # NaN
    )


def _parts(value: Any) -> list[tuple[str, Any]]:
    """Names and values of the parts of an object; [] for an object that is compared as a whole."""
    if isinstance(value, nn.Module):
        registered = (value._parameters, value._buffers, value._modules)
        return [item for kind in registered for item in kind.items()]
    if isinstance(value, type | types.ModuleType | types.FunctionType | enum.Enum | logging.Logger):
        return []
    if isinstance(value, dict):
        keys = enumerate(value)
        names = [key if isinstance(key, str) else f"[{number}]" for number, key in keys]
        others = [
            (f"{name} key", key) for name, key in zip(names, value, strict=True) if key != name
        ]
        return [*zip(names, value.values(), strict=True), *others]
    if isinstance(value, list | tuple | deque | set | frozenset):
        return [(str(number), part) for number, part in enumerate(value)]
    if isinstance(value, functools.partial):
        return [("func", value.func), ("args", value.args), ("keywords", value.keywords)]
    if isinstance(value, types.MethodType):
        return [("__func__", value.__func__), ("__self__", value.__self__)]
    if isinstance(value, np.ndarray):
        content = value.tobytes() if value.dtype != object else b""
        return [("shape", str(value.shape)), ("content", content)]
    slots = {name for kind in type(value).__mro__ for name in _slots(kind) if hasattr(value, name)}
    return [
        *((name, getattr(value, name)) for name in sorted(slots)),
        *getattr(value, "__dict__", {}).items(),
    ]


def _slots(kind: type) -> tuple[str, ...]:
    named = vars(kind).get("__slots__", ())
    names = (named,) if isinstance(named, str) else tuple(named)
    return tuple(name for name in names if not name.startswith("__"))

"""The checks of arguments: one table of rules by name, for functions and for constructors.

A rule takes the value that a user passed and returns it as plain Python: numbers of NumPy and torch
become int or float, plain values come back unchanged. A value that breaks the rule raises
SettingError in one line: the value, the rule, an example. Nothing here loads torch.
"""

import functools
import inspect
import math
import operator
import os
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from lrat.errors import LratError, SettingError
from lrat.text import shown

MOST_WHOLE = 2**63
"""Tensors and stored records hold no whole number from this one on."""
MOST_NUMBER = sys.float_info.max
_Function = TypeVar("_Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Rule:
    """A rule for a value. ``take`` returns it as plain Python, or raises TypeError, ValueError or
    OverflowError; ``need`` describes the permitted values, of which ``example`` is one as written.
    """

    take: Callable[[Any], Any]
    need: str
    example: object

    def __call__(self, name: str, value: Any, owner: str = "") -> Any:
        """``value`` of the argument ``name`` of ``owner``, checked. Raises SettingError."""
        try:
            return self.take(value)
        except LratError:
            raise
        except (TypeError, ValueError, OverflowError, AttributeError) as error:
            given = f"{name}={shown(value)}"
            given = f"{owner}({given})" if owner else given
            need = "below 2^63" if isinstance(error, OverflowError) else self.need
            raise SettingError(f"{given}: must be {need}, as {name}={self.example}") from None


def is_flag(value: Any) -> bool:
    """Whether this is a truth value of Python, NumPy or torch."""
    return isinstance(value, bool) or str(getattr(value, "dtype", "")).endswith("bool")


def _check(condition: bool) -> None:
    if not condition:
        raise ValueError


def _whole(value: Any) -> int:
    _check(not is_flag(value) and getattr(value, "ndim", 0) == 0)
    plain = operator.index(value)
    if not -MOST_WHOLE <= plain < MOST_WHOLE:
        raise OverflowError
    return plain


def _number(value: Any) -> int | float:
    _check(not is_flag(value) and getattr(value, "ndim", 0) == 0)
    _check(not isinstance(value, str | bytes | bytearray))
    number = value if type(value) in (int, float) else float(value)
    _check(-MOST_NUMBER <= number <= MOST_NUMBER)
    return number


def _flag(value: Any) -> bool:
    _check(is_flag(value) or (type(value) is int and value in (0, 1)))
    return bool(value)


def _path(value: Any) -> Any:
    text = os.fspath(value)
    _check(isinstance(text, str) and text.strip() != "" and "\0" not in text)
    return value


def _device(value: Any) -> Any:
    if not isinstance(value, str):
        import torch

        _check(isinstance(value, torch.device))
    _check(value != "")
    return value


def _paths(value: Any) -> tuple[Path, ...]:
    _check(not isinstance(value, str | bytes))
    return tuple(Path(_path(each)) for each in value)


def _module(value: Any) -> Any:
    from torch import nn

    _check(isinstance(value, nn.Module))
    tensors = (*value.parameters(), *value.buffers())
    if any(map(nn.parameter.is_lazy, tensors)):
        raise SettingError(
            "the model has weights without a shape yet (LazyLinear and the like): call it once on "
            "a few images, as model(images[:2])"
        )
    if any(tensor.is_meta for tensor in tensors):
        raise SettingError(
            "the model's weights are on the device 'meta', which holds no numbers: move it with "
            "model.to_empty(device='cpu') and load its weights"
        )
    return value


def whole(least: int | None = None, *, most: int = MOST_WHOLE - 1, example: object) -> Rule:
    """A whole number, of at least ``least`` and at most ``most``."""

    def take(value: Any) -> int:
        plain = _whole(value)
        _check((least is None or plain >= least) and plain <= most)
        return plain

    need = "a whole number" if least is None else f"a whole number >= {least}"
    need += "" if most == MOST_WHOLE - 1 else f" and <= {most}"
    return Rule(take, need, example)


def number(
    *,
    least: float = -math.inf,
    above: float = -math.inf,
    most: float = math.inf,
    below: float = math.inf,
    example: object,
) -> Rule:
    """A finite number from ``least`` to ``most``, larger than ``above``, smaller than ``below``."""

    def take(value: Any) -> int | float:
        plain = _number(value)
        _check(least <= plain <= most and above < plain < below)
        return plain

    bounds = {">=": least, ">": above, "<=": most, "<": below}
    words = [f"{sign} {bound:g}" for sign, bound in bounds.items() if math.isfinite(bound)]
    return Rule(take, " ".join(["a finite number", " and ".join(words)]).strip(), example)


def one_of(known: Collection[str]) -> Rule:
    """One of these words."""

    def take(value: Any) -> str:
        _check(isinstance(value, str) and value in known)
        return str(value)

    names = sorted(known)
    return Rule(take, " or ".join(map(repr, names)), repr(names[0]))


def optional(rule: Rule) -> Rule:
    """A value that ``rule`` permits, or None."""
    return Rule(
        lambda value: None if value is None else rule.take(value),
        f"{rule.need}, or None",
        rule.example,
    )


def pairs(key: Rule, value: Rule) -> Rule:
    """A mapping from what ``key`` permits to what ``value`` permits."""

    def take(mapping: Any) -> dict[Any, Any]:
        _check(isinstance(mapping, Mapping))
        return {key.take(first): value.take(second) for first, second in mapping.items()}

    example = f"{{{key.example}: {value.example}}}"
    return Rule(take, f"a mapping from {key.need} to {value.need}", example)


def instance(*kinds: Any, need: str, example: object) -> Rule:
    """An object of one of these classes or protocols; neither a class nor an empty text."""

    def take(value: Any) -> Any:
        _check(isinstance(value, kinds) and not isinstance(value, type) and value != "")
        return value

    return Rule(take, need, example)


def tuple_of(kind: type, *, least: int = 0, need: str, example: object) -> Rule:
    """An iterable (not a text) of at least ``least`` objects of this class, as a tuple."""

    def take(value: Any) -> tuple[Any, ...]:
        _check(not isinstance(value, str | bytes))
        items = tuple(value)
        _check(len(items) >= least and all(isinstance(each, kind) for each in items))
        return items

    return Rule(take, need, example)


FRACTION = number(least=0, below=1, example=0.15)
SHARE = number(least=0, most=1, example=0.1)
POSITIVE = number(above=0, example=2)
NOT_NEGATIVE = number(least=0, example=0.5)
FLAG = Rule(_flag, "True or False", True)
FUNCTION = instance(Callable, need="a function", example="my_function")
MODULE = Rule(
    _module, "an nn.Module (load a state dict into one, put a function into its forward)", "Net()"
)
PATH = Rule(_path, "a path, not empty", "'runs/mine'")
FOLDER = replace(PATH, take=lambda value: Path(_path(value)))
PATHS = Rule(_paths, "a list of paths", "['runs/a', 'runs/b']")
TEXT = instance(str, need="a text, not empty", example="'selected'")

ARGUMENTS: Mapping[str, Rule] = {
    # how long, how many
    "epochs": whole(1, example=20),
    "schedule_epochs": whole(1, example=100),
    "batch_size": whole(1, example=128),
    "accumulate": whole(1, example=2),
    "limit": whole(1, example=1000),
    "chunk": whole(1, example=128),
    "levels": whole(1, most=10_000, example=64),
    "seconds": number(above=0, example=600),
    "keep_last": whole(1, example=2),
    "monitor_every": whole(1, example=5),
    "every_steps": whole(1, example=500),
    "every_minutes": number(above=0, example=10),
    "padding": whole(0, example=4),
    "channels": whole(1, example=3),
    "classes": whole(2, example=10),
    "width": whole(1, example=16),
    "size": whole(1, example=28),
    # attacks and threats
    "epsilon": number(least=0, example="8/255"),
    "tolerance": number(least=0, example=1e-6),
    "max_epsilon": number(above=0, example="16/255"),
    "steps": whole(1, example=10),
    "step_size": number(least=0, example="2/255"),
    "saa_steps": whole(1, example=20),
    "saa_targets": whole(1, example=3),
    "saa_keep": pairs(whole(1, example=6), whole(1, example=1)),
    "targets": whole(1, example=9),
    "restarts": whole(1, example=5),
    "count": whole(1, example=10),
    "queries": whole(1, example=5000),
    "retire_every": optional(whole(1, example=10)),
    "stacked": FLAG,
    "keep": pairs(whole(example=6), whole(example=1)),
    "p_init": number(above=0, most=1, example=0.8),
    "alpha_max": SHARE,
    "backward": number(least=0, most=1, example=0.9),
    "overshoot": number(above=0, example=1.05),
    "scale": number(above=0, example=10),
    # objectives and weightings
    "alpha": number(above=0, example=2),
    "beta": number(above=0, example=0.5),
    "lambda_": number(example=-1),
    "min_weight": number(least=0, example=0.1),
    "share_rows": whole(0, example=512),
    "label_smoothing": number(least=0, below=1, example=0.1),
    "smoothing": number(least=0, below=1, example=0.1),
    # the optimiser and its schedules
    "lr": number(above=0, example=0.1),
    "momentum": number(least=0, below=1, example=0.9),
    "nesterov": FLAG,
    "weight_decay": number(least=0, example=2e-4),
    "drops": pairs(number(above=0, most=1, example=0.6), number(above=0, example=0.1)),
    "clip": number(above=0, example=1),
    "ema": number(least=0, below=1, example=0.999),
    "ema_warm_up": FLAG,
    "final": number(least=0, most=1, example=0.01),
    "peak": number(above=0, below=1, example=0.3),
    "div_factor": number(least=1, example=25),
    "final_div_factor": number(least=1, example=1e4),
    # data and folders
    "seed": whole(example=0),
    "validation": FRACTION,
    "flip": FLAG,
    "keep_images": FLAG,
    "out": FOLDER,
    "folder": FOLDER,
    "checkpoint": TEXT,
    # where and how it runs
    "model": MODULE,
    "on_progress": FUNCTION,
    "acceleration": one_of(("auto", "off")),
    "device": Rule(_device, "the name of a device", "'cpu'"),
    "devices": whole(1, example=2),
    "nodes": whole(1, example=2),
    "workers": whole(1, example=2),
    "max_minutes": number(example=30),
}
"""The rules of arguments whose names mean the same everywhere."""


def check_fields(thing: Any, owner: str | None = None, /, **rules: Rule) -> None:
    """Check the fields of a new dataclass instance, and store them as plain Python.

    ``rules`` go before those of ``ARGUMENTS``; a default is not checked. Raises SettingError, which
    names the ``owner`` of the field, by default the class.
    """
    owner = type(thing).__name__ if owner is None else owner
    for each in fields(thing):
        rule, value = rules.get(each.name, ARGUMENTS.get(each.name)), getattr(thing, each.name)
        if rule is None or (each.default is not MISSING and value is each.default):
            continue
        object.__setattr__(thing, each.name, rule(each.name, value, owner))


def checked(**rules: Rule) -> Callable[[_Function], _Function]:
    """The same for a function: it is called with checked arguments as plain Python."""

    def decorate(function: _Function) -> _Function:
        signature = inspect.signature(function)
        name_of_class, _, method = function.__qualname__.rpartition(".")
        owner = name_of_class if method == "__init__" else ""

        @functools.wraps(function)
        def call(*positional: Any, **named: Any) -> Any:
            bound = signature.bind(*positional, **named)
            for name, value in bound.arguments.items():
                rule = rules.get(name, ARGUMENTS.get(name))
                if rule is not None and value is not signature.parameters[name].default:
                    bound.arguments[name] = rule(name, value, owner)
            return function(*bound.args, **bound.kwargs)

        return call  # type: ignore[return-value]

    return decorate

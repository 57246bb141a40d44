"""Checkpoints small enough to carry away, for runs that are trained in slices on several machines.

A portable state is a run's state without momentum, its parameters (and their average) as float16.
Everything else stays as it is: the statistics of BatchNorm, the position in the data, the records.
"""

import math
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from lrat.files.read import NOT_AS_WRITTEN
from lrat.training.checkpoint_format import DamagedError

_HALF = "half"
_SHIFT = "shift"
_TOP = 15
"""float16 is finite below 2^16: the largest value of a tensor is brought to 2^14 .. 2^15."""
_REACH = 100
"""Shifts further than this keep float32: float32 itself ends at 2^128."""


def portable(state: Mapping[str, Any], parameters: Collection[str]) -> dict[str, Any]:
    """``state`` without momentum and with the named parameters as float16; for ``restored``.

    A tensor is brought near float16's upper end by a power of two, which loses nothing, so that no
    value overflows: each keeps float16's 11 bits, and those below 2^-29 of the largest in their
    tensor are off by at most 2^-39 of it. Tensors that hold NaN or infinity, or are no float32,
    stay as they are.
    """
    names = frozenset(parameters)
    return {
        **without_momentum(state),
        "model": _halved(state["model"], names, {}),
        "average": _halved(state.get("average"), names, {}),
        "portable": {"weights": "float16"},
    }


def without_momentum(state: Mapping[str, Any]) -> dict[str, Any]:
    """``state`` as it is but for the optimiser's part; for ``restored``."""
    return {**state, "optimizer": None, "portable": {"weights": "float32"}}


def restored(state: Mapping[str, Any]) -> dict[str, Any]:
    """A portable state with float32 weights again; ``optimizer`` is None.

    Raises ``DamagedError`` for what no ``portable`` made.
    """
    try:
        return {
            **state,
            "model": _widened(state["model"], {}),
            "average": _widened(state.get("average"), {}),
        }
    except (RuntimeError, *NOT_AS_WRITTEN) as error:
        raise DamagedError("its weights are of no portable checkpoint") from error


def _halved(value: Any, names: frozenset[str], known: dict[Any, Any]) -> Any:
    """Dictionaries with the named tensors as float16; tied ones stay tied."""
    if not isinstance(value, Mapping):
        return value
    found: dict[str, Any] = {}
    for name, inner in value.items():
        if name in names and isinstance(inner, Tensor):
            place = (inner.data_ptr(), inner.storage_offset(), inner.shape, inner.stride())
            if place not in known:
                known[place] = _half(inner)
            found[name] = known[place]
        else:
            found[name] = _halved(inner, names, known)
    return found


def _half(value: Tensor) -> Any:
    if value.dtype is not torch.float32 or value.numel() == 0:
        return value
    largest = value.detach().abs().max().item()
    if not math.isfinite(largest):
        return value
    shift = _TOP - math.frexp(largest)[1] if largest else 0
    if abs(shift) > _REACH:
        return value
    return {_HALF: (value.detach() * 2.0**shift).half(), _SHIFT: shift}


def _widened(value: Any, known: dict[int, Tensor]) -> Any:
    if not isinstance(value, Mapping):
        return value
    if value.keys() == {_HALF, _SHIFT}:
        if id(value) not in known:
            known[id(value)] = value[_HALF].float() * 2.0 ** -value[_SHIFT]
        return known[id(value)]
    return {name: _widened(inner, known) for name, inner in value.items()}

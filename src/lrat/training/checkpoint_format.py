"""The small file beside a checkpoint, and checkpoints without momentum to carry away.

The small file says what must be known of a checkpoint before it is read. A portable state is a
run's state without momentum, its parameters (and their average) as float16. Everything else stays
as it is: the statistics of BatchNorm, the position in the data, the records.
"""

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields
from functools import total_ordering
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lrat.errors import CheckpointError
from lrat.files.read import NOT_AS_WRITTEN, read_json
from lrat.files.write import to_json

FORMAT = 3
"""Of a checkpoint and its description; others are refused."""
_NAME = re.compile(r"epoch-(\d+)(?:-step-(\d+)(-measuring)?)?(-portable)?")
_LARGEST = 10**9

_HALF = "half"
_SHIFT = "shift"
_TOP = 15
"""float16 is finite below 2^16: the largest value of a tensor is brought to 2^14 .. 2^15."""
_REACH = 100
"""Shifts further than this keep float32: float32 itself ends at 2^128."""


class DamagedError(Exception):
    """Why one checkpoint cannot be used."""


@total_ordering
@dataclass(frozen=True)
class Name:
    """``epoch-060``, or ``epoch-061-step-000123`` within an epoch, ``...-measuring`` when these are
    all its steps; ``...-portable``.

    ``epoch`` epochs are complete and ``step`` steps of the next one are done. The later is the
    larger; of two at the same step the portable one is the smaller. No two states of a run have
    the same name: a killed process that replaced one of the same name could leave neither.
    """

    epoch: int
    step: int = 0
    portable: bool = False
    measuring: bool = False

    def __str__(self) -> str:
        position = f"epoch-{self.epoch:03d}"
        if self.step:
            position = f"epoch-{self.epoch + 1:03d}-step-{self.step:06d}"
        measuring = "-measuring" if self.measuring else ""
        return f"{position}{measuring}{'-portable' if self.portable else ''}"

    def __lt__(self, other: "Name") -> bool:
        return self._order < other._order

    @property
    def _order(self) -> tuple[int, int, bool, bool]:
        return self.epoch, self.step, self.measuring, not self.portable

    @classmethod
    def parse(cls, text: str) -> "Name | None":
        match = _NAME.fullmatch(text)
        if match is None:
            return None
        number, step, measuring, portable = match.groups()
        epoch = int(number) if step is None else int(number) - 1
        return cls(
            max(0, epoch),
            0 if step is None else int(step),
            portable is not None,
            measuring is not None,
        )


@dataclass(frozen=True, kw_only=True)
class Description:
    """``epoch`` completed epochs; ``step``: steps done in the one after; ``selected``: the epoch
    (from 1) whose weights are the best so far, None without selection; ``portable``: without
    momentum, see ``slices``; ``version`` of lrat that wrote it.
    """

    epoch: int
    step: int
    selected: int | None
    identity: str
    format: int
    sha256: str
    portable: bool
    version: str

    def belongs_to(self, name: Name) -> bool:
        return (self.epoch, self.step, self.portable) == (name.epoch, name.step, name.portable)

    def to_json(self) -> str:
        return to_json(asdict(self), indent=1)

    @classmethod
    def read(cls, path: Path) -> "Description":
        """The description in ``path``, whatever that file holds.

        Raises ``DamagedError``, and ``CheckpointError`` for the format of another version of lrat.
        """
        try:
            values = read_json(path)
        except (OSError, ValueError) as error:
            raise DamagedError(f"{path.name} cannot be read") from error
        if type(values.get("format")) is not int:
            raise DamagedError(f"{path.name} cannot be read")
        if values["format"] != FORMAT:
            raise CheckpointError(
                f"checkpoint {path.with_suffix('.pt')} has format {values['format']}"
                f"{_written_by(values)}, this version reads {FORMAT}: "
                "continue with the version that wrote it, or in another folder"
            )
        if not _fits(values):
            raise DamagedError(f"{path.name} cannot be read")
        return cls(**values)


def _written_by(values: dict[str, Any]) -> str:
    version = values.get("version")
    return f" (of lrat {version})" if isinstance(version, str) and version else ""


def _fits(values: dict[str, Any]) -> bool:
    """Whether these are the fields of a description, each of its kind."""
    known = {field.name: field for field in fields(Description)}
    return values.keys() == known.keys() and (
        all(_is_count(values[name]) for name in ("epoch", "step"))
        and (values["selected"] is None or _is_count(values["selected"]))
        and all(isinstance(values[name], str) for name in ("identity", "sha256", "version"))
        and isinstance(values["portable"], bool)
    )


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < _LARGEST


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

    Raises ``DamagedError`` for what ``portable`` did not write.
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
    halved: dict[str, Any] = {}
    for name, inner in value.items():
        if name in names and isinstance(inner, Tensor):
            memory = (inner.data_ptr(), inner.storage_offset(), inner.shape, inner.stride())
            if memory not in known:
                known[memory] = _half(inner)
            halved[name] = known[memory]
        else:
            halved[name] = _halved(inner, names, known)
    return halved


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

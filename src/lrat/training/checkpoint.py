"""Checkpoints: whole or absent, verified when read, and read without executing anything.

A checkpoint is two files: ``epoch-060.pt``, a nested dictionary of tensors and plain values, and
``epoch-060.json``, its digest and what must be known before it is read. One within an epoch is
``epoch-061-step-000123``. The description is written last and removed first, so a payload without
one was never finished and is not looked at.
"""

import hashlib
import json
import logging
import pickle
import re
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lrat.errors import CheckpointError, SettingError
from lrat.files import write_atomically

_logger = logging.getLogger(__name__)
FORMAT = 1
_PLAIN = (bool, int, float, str, bytes)
_NAME = re.compile(r"epoch-(\d+)(?:-step-(\d+))?")


class _DamagedError(Exception):
    """Why one checkpoint cannot be used."""


@dataclass(frozen=True, kw_only=True)
class Description:
    """The small file beside a checkpoint.

    ``epoch``: completed epochs; ``step``: steps done in the one after; ``selected``: the epoch
    (from 1) whose weights are the best so far, None without selection.
    """

    epoch: int
    step: int
    selected: int | None
    identity: str
    format: int
    sha256: str

    @property
    def name(self) -> str:
        if self.step:
            return f"epoch-{self.epoch + 1:03d}-step-{self.step:06d}"
        return f"epoch-{self.epoch:03d}"


class Checkpoints:
    """The checkpoints of one run in one folder.

    ``identity`` stands for the configuration: a checkpoint of another one is refused.
    Kept: the last ``keep_last``, those after the epochs ``keep_epochs`` (from 1), and those that
    one of the last calls selected. Every method raises ``CheckpointError`` with cause and cure.
    """

    def __init__(
        self,
        folder: Path,
        *,
        identity: str,
        keep_last: int = 2,
        keep_epochs: Collection[int] = (),
    ) -> None:
        if keep_last < 1:
            raise SettingError(f"Checkpoints(keep_last={keep_last}): keep at least the last one")
        self.folder = folder
        self._identity = identity
        self._keep_last = keep_last
        self._keep_epochs = frozenset(keep_epochs)
        self._damaged: set[str] = set()

    def save(
        self, state: dict[str, Any], *, epoch: int, step: int = 0, selected: int | None = None
    ) -> Path:
        """Write ``state`` after ``epoch`` epochs and ``step`` steps; then drop what is not kept.

        ``state`` holds tensors, numbers, text, None, and lists, tuples and dictionaries of them:
        what can be read back without executing anything.
        """
        _check_plain(state, "state")
        description = Description(
            epoch=epoch,
            step=step,
            selected=selected,
            identity=self._identity,
            format=FORMAT,
            sha256="",
        )
        payload = self._payload(description.name)
        self._described(description.name).unlink(missing_ok=True)
        write_atomically(payload, lambda file: torch.save(state, file))
        text = json.dumps(asdict(replace(description, sha256=_digest(payload))), indent=1)
        write_atomically(
            self._described(description.name), lambda file: file.write(f"{text}\n".encode())
        )
        self._damaged.discard(description.name)
        self._prune((epoch, step))
        return payload

    def latest(self) -> dict[str, Any] | None:
        """The state to continue from, on the CPU; None if there is no checkpoint.

        A damaged one is named in a warning and the one before it is used; if none is whole,
        ``CheckpointError``.
        """
        found = self._find_newest()
        return None if found is None else found[1]

    def load(self, name: str) -> dict[str, Any]:
        """The state called ``last``, ``selected`` (the last without selection) or ``epoch-N``."""
        if name in {"last", "selected"}:
            found = self._find_newest()
            if found is None:
                raise CheckpointError(f"no checkpoint in {self.folder}: train first")
            description, state = found
            if name == "last" or description.selected is None:
                return state
            name = f"epoch-{description.selected}"
        match = _NAME.fullmatch(name)
        key = (0, 0) if match is None else _key(match)
        stem = next((stem for known, stem in self._stems() if known == key), None)
        if match is None or stem is None:
            known = ", ".join(f"epoch-{epoch}" for (epoch, step), _ in self._stems() if step == 0)
            raise CheckpointError(
                f"no checkpoint {name!r} in {self.folder}: there are last, selected, {known}"
            )
        try:
            return self._read(self._describe(stem))
        except _DamagedError as error:
            raise CheckpointError(
                f"checkpoint {self._payload(stem)} is damaged ({error}): use another one"
            ) from error

    def _find_newest(self) -> tuple[Description, dict[str, Any]] | None:
        stems = self._stems()
        for _, stem in reversed(stems):
            try:
                description = self._describe(stem)
                return description, self._read(description)
            except _DamagedError as error:
                self._damaged.add(stem)
                _logger.warning(
                    "checkpoint %s is damaged (%s): falling back to the one before it",
                    self._payload(stem),
                    error,
                )
        if stems:
            raise CheckpointError(
                f"no checkpoint in {self.folder} is whole: remove the folder to start again"
            )
        return None

    def _stems(self) -> list[tuple[tuple[int, int], str]]:
        """Names that have a description, oldest first, by (completed epochs, steps)."""
        matches = [_NAME.fullmatch(path.stem) for path in self.folder.glob("epoch-*.json")]
        return sorted((_key(match), match.group()) for match in matches if match is not None)

    def _describe(self, stem: str) -> Description:
        path = self._described(stem)
        try:
            values = json.loads(path.read_bytes())
            description = Description(**values)
        except (OSError, ValueError, TypeError) as error:
            raise _DamagedError(f"{path.name} cannot be read") from error
        if description.format != FORMAT:
            raise CheckpointError(
                f"checkpoint {self._payload(stem)} has format {description.format}, this version "
                f"reads {FORMAT}: continue with the version that wrote it, or in another folder"
            )
        if description.identity != self._identity:
            raise CheckpointError(
                f"checkpoint {self._payload(stem)} belongs to another configuration: "
                "run with that configuration again, or choose another folder"
            )
        if description.name != stem:
            raise _DamagedError(f"{path.name} describes {description.name}")
        return description

    def _read(self, description: Description) -> dict[str, Any]:
        path = self._payload(description.name)
        try:
            if _digest(path) != description.sha256:
                raise _DamagedError("its digest differs")
            state = torch.load(path, map_location="cpu", weights_only=True)
        except OSError as error:
            raise _DamagedError(f"it cannot be read: {error.strerror}") from error
        except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError) as error:
            # torch's own message advises to load with code execution allowed: not passed on.
            raise _DamagedError("it holds something other than tensors and plain values") from error
        if not isinstance(state, dict):
            raise _DamagedError("it holds no state")
        return state

    def _prune(self, newest: tuple[int, int]) -> None:
        """Remove what is not kept, what lies ahead (of an abandoned course), what is unfinished."""
        stems = dict(self._stems())
        past = [key for key, stem in stems.items() if key <= newest and stem not in self._damaged]
        last = past[-self._keep_last :]
        selected = set()
        for key in last:
            try:
                selected.add(self._describe(stems[key]).selected)
            except (_DamagedError, CheckpointError):
                continue
        kept = {
            stems[key]
            for key in past
            if key in last or (key[1] == 0 and key[0] in self._keep_epochs | selected)
        }
        for stem in stems.values():
            if stem not in kept:
                self._described(stem).unlink(missing_ok=True)
        for path in self.folder.glob("epoch-*.pt"):
            if path.stem not in kept:
                path.unlink(missing_ok=True)
        for path in self.folder.glob(".epoch-*.tmp"):
            path.unlink(missing_ok=True)

    def _payload(self, name: str) -> Path:
        return self.folder / f"{name}.pt"

    def _described(self, name: str) -> Path:
        return self.folder / f"{name}.json"


def _key(match: re.Match[str]) -> tuple[int, int]:
    """Completed epochs and steps: the epoch of a name with a step is still under way."""
    epoch, step = match.groups()
    return (int(epoch), 0) if step is None else (int(epoch) - 1, int(step))


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_plain(value: Any, where: str) -> None:
    """Refuse when saving what could not be loaded without executing code."""
    if type(value) in {dict, OrderedDict}:
        for key, inner in value.items():
            _check_plain(inner, f"{where}[{key!r}]")
    elif type(value) in {list, tuple}:
        for place, inner in enumerate(value):
            _check_plain(inner, f"{where}[{place}]")
    elif not (value is None or isinstance(value, Tensor) or type(value) in _PLAIN):
        raise CheckpointError(
            f"{where} is a {type(value).__name__}: a checkpoint holds tensors, numbers, text and "
            "lists and dictionaries of them alone; convert it in its state_dict"
        )

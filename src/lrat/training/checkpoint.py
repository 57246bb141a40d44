"""Checkpoints: whole or absent, verified when read, and read without executing anything.

A checkpoint is two files: ``epoch-060.pt``, a nested dictionary of tensors and plain values, and
``epoch-060.json``, its digest and what must be known before it is read. One within an epoch is
``epoch-061-step-000123`` (``checkpoint_format.Name``), one without momentum ``epoch-060-portable``.
Both are written under temporary names before either is renamed; a payload without a description is
not read, and named in a warning where it is the newest.
"""

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor

from lrat import __version__
from lrat.checks import checked
from lrat.errors import CheckpointError
from lrat.files.read import listed, open_stored, trouble
from lrat.files.write import discard, remove_leftovers, write_together
from lrat.training.checkpoint_format import (
    FORMAT,
    DamagedError,
    Description,
    Name,
    portable,
    restored,
    without_momentum,
)

_logger = logging.getLogger(__name__)
_PLAIN = (bool, int, float, str, bytes, torch.dtype)


class Checkpoints:
    """The checkpoints of one run in one folder.

    ``identity`` identifies the configuration: a checkpoint of another one is refused.
    Kept: the last ``keep_last``, those after the epochs ``keep_epochs`` (from 1), and those that
    one of the last calls selected. Every method raises ``CheckpointError`` with cause and cure;
    those that write ``RunFolderError`` where that is impossible, and what was there stays.
    """

    @checked()
    def __init__(
        self,
        folder: Path,
        *,
        identity: str,
        keep_last: int = 2,
        keep_epochs: Collection[int] = (),
    ) -> None:
        self.folder = folder
        self._identity = identity
        self._keep_last = keep_last
        self._keep_epochs = frozenset(keep_epochs)
        self._damaged: set[Name] = set()

    def save(
        self,
        state: dict[str, Any],
        *,
        epoch: int,
        step: int = 0,
        measuring: bool = False,
        selected: int | None = None,
    ) -> Path:
        """Write ``state`` after ``epoch`` epochs and ``step`` steps; then drop what is not kept.

        ``measuring``: these are all steps of the epoch.

        ``state`` holds tensors, numbers, text, None, and lists, tuples and dictionaries of them:
        what can be read back without executing anything.
        """
        name = Name(epoch, step, measuring=measuring)
        path = self._write(state, name, selected)
        self._prune(name)
        return path

    def save_portable(
        self,
        state: dict[str, Any],
        parameters: Collection[str],
        *,
        epoch: int,
        step: int = 0,
        measuring: bool = False,
        selected: int | None = None,
    ) -> Path:
        """Write ``state`` without momentum and leave only what is to be carried away.

        That is this one with the named ``parameters`` as float16 (``checkpoint_format.portable``),
        and, with weights bit for bit, those that are selected or named by ``keep_epochs``, which
        may be this one. The others are removed when these are written.
        """
        name = Name(epoch, step, True, measuring)
        epochs = self._keep_epochs | {selected}
        stays = step == 0 and epoch in epochs
        light = without_momentum(state) if stays else portable(state, parameters)
        path = self._write(light, name, selected)
        kept = {name}
        for each in self._names():
            if each.step == 0 and each.epoch in epochs and each < name:
                kept.add(self._lightened(each))
        self._remove_all_but(kept)
        return path

    def latest(self) -> dict[str, Any] | None:
        """The state to continue from, on the CPU; None if there is no checkpoint.

        A damaged one is named in a warning and the one before it is used; if none is whole,
        ``CheckpointError``. So is one whose selected epoch is damaged, as long as one before it
        leads there again; else the newest is used (see ``holds``). A portable one has the key
        ``portable``, and no optimiser.
        """
        newest = None
        for description, state in self._whole():
            if description.selected is None or self.holds(description.selected):
                if newest is not None:
                    _logger.warning("going back to where the selected epoch comes again")
                return state
            newest = state if newest is None else newest
        return newest

    def holds(self, epoch: int) -> bool:
        """Whether the weights after ``epoch`` are there and whole; a warning names damage."""
        return any(self._is_whole(name) for name in self._names() if _is_after(name, epoch))

    def epochs(self) -> list[int]:
        """The epochs whose weights are there, whole and as they were measured."""
        exact = [
            name for name in self._names() if not name.portable or name.epoch in self._keep_epochs
        ]
        return [name.epoch for name in exact if name.step == 0 and self._is_whole(name)]

    def load(self, name: str) -> dict[str, Any]:
        """The state called ``last``, ``selected`` (the last without selection) or ``epoch-N``."""
        if name in {"last", "selected"}:
            last = next(self._whole(), None)
            if last is None:
                raise CheckpointError(f"no checkpoint in {self.folder}: train first")
            description, state = last
            if name == "last" or description.selected is None:
                return state
            name = f"epoch-{description.selected}"
        parsed = Name.parse(name)
        if parsed is not None:
            for known in reversed(self._names()):
                if (known.epoch, known.step) == (parsed.epoch, parsed.step):
                    return self._read_or_refuse(known)
        epochs = dict.fromkeys(f"epoch-{known.epoch}" for known in self._names() if not known.step)
        raise CheckpointError(
            f"no checkpoint {name!r} in {self.folder}: there are "
            f"{', '.join(['last', 'selected', *epochs])}"
        )

    def size(self) -> int:
        """Bytes of all that lies in the folder."""
        return sum(path.stat().st_size for path in self.folder.glob("*") if path.is_file())

    def _write(self, state: dict[str, Any], name: Name, selected: int | None) -> Path:
        check_plain(state, "state")
        payload = self._payload(name)
        description = Description(
            epoch=name.epoch,
            step=name.step,
            selected=selected,
            identity=self._identity,
            format=FORMAT,
            sha256="",
            portable=name.portable,
            version=__version__,
        )
        digest = hashlib.sha256()

        def put(file: BinaryIO) -> None:
            torch.save(state, cast(BinaryIO, _Hashing(file, digest.update)))

        def describe(file: BinaryIO) -> None:
            text = replace(description, sha256=digest.hexdigest()).to_json()
            file.write(f"{text}\n".encode())

        write_together((payload, put), (self._described(name), describe))
        self._damaged.discard(name)
        return payload

    def _lightened(self, name: Name) -> Name:
        """The portable checkpoint that replaces ``name``, written if it is not there."""
        light = replace(name, portable=True)
        if not name.portable:
            try:
                description = self._describe(name)
                self._write(without_momentum(self._read(name)), light, description.selected)
            except DamagedError:
                return name
        return light

    def _read_or_refuse(self, name: Name) -> dict[str, Any]:
        try:
            return self._read(name)
        except DamagedError as error:
            raise CheckpointError(
                f"checkpoint {self._payload(name)} is damaged ({error}): bring it back, or give "
                "the run's training command again, which goes on without it"
            ) from error

    def _whole(self) -> Iterator[tuple[Description, dict[str, Any]]]:
        """Those that can be read, newest first."""
        names, any_whole = self._names(), False
        self._note_undescribed(names)
        for name in reversed(names):
            if name in self._damaged:
                continue
            try:
                whole = self._describe(name), self._read(name)
            except DamagedError as error:
                self._note_damage(name, error)
                continue
            any_whole = True
            yield whole
        if names and not any_whole:
            raise CheckpointError(
                f"no checkpoint in {self.folder} is whole: remove the folder to start again"
            )

    def _note_undescribed(self, names: Collection[Name]) -> None:
        """Warn of payloads later than all checkpoints ``names``, which would else pass for the
        newest. A portable one may lie beside the whole one that it replaced."""
        described = [replace(name, portable=False) for name in names]
        for path in self._files("epoch-*.pt"):
            name = Name.parse(path.stem)
            if name is None or name in self._damaged:
                continue
            whole = replace(name, portable=False)
            if all(each < whole for each in described):
                missing = DamagedError(
                    f"{name}.json, which describes it, is missing: bring it back"
                )
                self._note_damage(name, missing)

    def _is_whole(self, name: Name) -> bool:
        if name in self._damaged:
            return False
        try:
            with self._verified(name):
                return True
        except DamagedError as error:
            self._note_damage(name, error)
            return False

    def _note_damage(self, name: Name, error: DamagedError) -> None:
        self._damaged.add(name)
        _logger.warning("checkpoint %s is damaged (%s)", self._payload(name), error)

    def _names(self) -> list[Name]:
        """Those that have a description, oldest first."""
        names = (Name.parse(path.stem) for path in self._files("epoch-*.json"))
        return sorted(name for name in names if name is not None)

    def _files(self, names: str) -> list[Path]:
        try:
            return listed(self.folder, names)
        except OSError as error:
            raise CheckpointError(f"{self.folder} {trouble(error)}; make it readable") from None

    def _describe(self, name: Name) -> Description:
        path = self._described(name)
        description = Description.read(path)
        if description.identity != self._identity:
            raise CheckpointError(
                f"checkpoint {self._payload(name)} belongs to another configuration: "
                "run with that configuration again, or choose another folder"
            )
        if not description.belongs_to(name):
            raise DamagedError(f"{path.name} describes another one")
        return description

    @contextmanager
    def _verified(self, name: Name) -> Iterator[tuple[Description, BinaryIO]]:
        """The description and the open payload, whose digest is right."""
        description = self._describe(name)
        try:
            with open_stored(self._payload(name)) as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != description.sha256:
                    raise DamagedError("its digest differs")
                file.seek(0)
                yield description, file
        except OSError as error:
            raise DamagedError(f"it cannot be read: {error.strerror}") from error

    def _read(self, name: Name) -> dict[str, Any]:
        try:
            with self._verified(name) as (description, file):
                state = torch.load(file, map_location="cpu", weights_only=True)
        except (CheckpointError, DamagedError):
            raise
        except Exception as error:
            # A dozen kinds; torch's own message advises to load with code execution allowed: not
            # passed on.
            raise DamagedError("it holds something other than tensors and plain values") from error
        if not isinstance(state, dict):
            raise DamagedError("it holds no state")
        return restored(state) if description.portable else state

    def _prune(self, newest: Name) -> None:
        """Remove what is not kept, later than ``newest`` (of an abandoned run), or unfinished."""
        past = [name for name in self._names() if name <= newest and name not in self._damaged]
        last = past[-self._keep_last :]
        selected = set()
        for name in last:
            try:
                selected.add(self._describe(name).selected)
            except (DamagedError, CheckpointError):
                continue
        epochs = self._keep_epochs | selected
        self._remove_all_but(
            {name for name in past if name in last or (name.step == 0 and name.epoch in epochs)}
        )

    def _remove_all_but(self, kept: Collection[Name]) -> None:
        """Descriptions first, so that a kill leaves none without its payload."""
        for name in self._names():
            if name not in kept:
                discard(self._described(name))
        payloads = {self._payload(name) for name in kept}
        for path in self._files("epoch-*.pt"):
            if path not in payloads:
                discard(path)
        remove_leftovers(self.folder)

    def _payload(self, name: Name) -> Path:
        return self.folder / f"{name}.pt"

    def _described(self, name: Name) -> Path:
        return self.folder / f"{name}.json"


class _Hashing:
    """A file to be written from its beginning to its end, whose bytes are digested on the way."""

    def __init__(self, file: BinaryIO, update: Callable[[bytes | memoryview], None]) -> None:
        self._file = file
        self._update = update

    def write(self, content: bytes | memoryview) -> int:
        self._update(content)
        return self._file.write(content)

    def flush(self) -> None:
        self._file.flush()


def _is_after(name: Name, epoch: int) -> bool:
    return (name.epoch, name.step) == (epoch, 0)


def check_plain(value: Any, where: str) -> None:
    """Refuse when saving what could not be loaded without executing code."""
    if type(value) in {dict, OrderedDict}:
        for key, inner in value.items():
            check_plain(inner, f"{where}[{key!r}]")
    elif type(value) in {list, tuple}:
        for index, inner in enumerate(value):
            check_plain(inner, f"{where}[{index}]")
    elif not (value is None or isinstance(value, Tensor) or type(value) in _PLAIN):
        raise CheckpointError(
            f"{where} is a {type(value).__name__}: a checkpoint holds tensors, numbers, text and "
            "lists and dictionaries of them alone; convert it in its state_dict"
        )

"""``FILE.py:NAME``: a user's own model, loss or attack, from a file that is run as Python.

An evaluation is continued only with the attacks that it was begun with. The name of a function
does not change when its code does, so what losses and attacks print, which is their identity, has
a digest of their file.
"""

import hashlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from lrat.attacks import Attack, Variant, as_attack
from lrat.attacks.wrappers import Clean, Wrapped
from lrat.config.catalogue import LOSSES, names_users_code
from lrat.errors import ConfigurationError, LratError, ModelError, SettingError, UnknownNameError
from lrat.losses import Loss, Prepared, as_loss
from lrat.models.wrappers import Normalized, hookable
from lrat.randomness import NoiseLike, seeded_randomness
from lrat.text import in_one_line
from lrat.types import Images, Labels, Logits

_CODE: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()
_NEIGHBOURS: dict[str, tuple[Path, str]] = {}
"""The modules that users' files imported from their folders, with their files and the content."""

_DIGITS = 12


def model_from_file(address: str, seed: int) -> nn.Module:
    """What the user's own function (or module object) gives: an nn.Module.

    The file sees its own folder on the import path, as a script would. What it draws from
    global random states follows from ``seed``. Everything it raises is one line.
    """
    name = address.rpartition(":")[2]
    with seeded_randomness(seed), _member(address, "model") as (member, code):
        is_maker = callable(member) and not isinstance(member, nn.Module)
        model = _one_line(f"model {address!r}", f"{name}()", member) if is_maker else member
    if not isinstance(model, nn.Module):
        kind = type(model).__name__
        raise ModelError(f"model {address!r}: {name} gives {kind}, not an nn.Module")
    model = hookable(model)
    _CODE[model] = code
    return model


def code_of(network: nn.Module) -> str | None:
    """The digest of the user's file that ``network`` comes from; None for any other network."""
    inner = network.network if isinstance(network, Normalized) else network
    return _CODE.get(network) or _CODE.get(inner)


def object_from_file(address: str, what: str) -> tuple[Any, str]:
    """The object that ``FILE.py:NAME`` names, as it is (a loss, an attack), and SHA-256 of its
    file; ``what`` for errors."""
    with seeded_randomness(0), _member(address, what) as member:
        return member


@contextmanager
def _member(address: str, what: str) -> Iterator[tuple[Any, str]]:
    """The named object of the user's file and the file's digest, while the file's folder is on the
    import path."""
    path, _, name = address.rpartition(":")
    file = Path(path).resolve()
    if not file.is_file():
        raise ConfigurationError(f"{what} {address!r}: there is no Python file {path}")
    source = file.read_bytes()  # once: what is digested is what is executed
    with _importable(file, source, what) as module:
        member = getattr(module, name, None)
        if member is None:
            raise ConfigurationError(f"{what} {address!r}: {path} has no {name!r}")
        yield member, hashlib.sha256(source).hexdigest()


@contextmanager
def _importable(file: Path, source: bytes, what: str) -> Iterator[ModuleType]:
    """``source`` as the module of ``file`` that is registered (dataclasses look themselves up) and
    can import its neighbours; it stays registered, since its classes refer to it, the path is as
    before."""
    name = f"_lrat_users_{hashlib.sha256(os.fsencode(file)).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None:
        raise ConfigurationError(f"{file} is no Python file")
    module = importlib.util.module_from_spec(spec)
    before, written = list(sys.path), sys.dont_write_bytecode
    _forget_changed(file.parent)
    known = set(sys.modules)
    sys.path.insert(0, str(file.parent))
    sys.modules[name] = module
    # Bytecode is known by the second in which its source was written, which a change may share.
    sys.dont_write_bytecode = True
    try:
        _one_line(f"{what} {str(file)!r}", file.name, lambda: _execute(source, module))
        yield module
    except BaseException:
        sys.modules.pop(name, None)
        raise
    finally:
        sys.path[:], sys.dont_write_bytecode = before, written
        for each in sys.modules.keys() - known - {name}:
            path = getattr(sys.modules[each], "__file__", None)
            if path is not None and Path(path).is_relative_to(file.parent):
                _NEIGHBOURS[each] = Path(path), _content(Path(path))


def _execute(source: bytes, module: ModuleType) -> None:
    """Not by the module's loader, which would read its file anew, or bytecode of an older one."""
    code = compile(source, str(module.__file__), "exec", dont_inherit=True)
    exec(code, vars(module))  # noqa: S102 - the user named this file to be run


def _forget_changed(folder: Path) -> None:
    """Let a file import its neighbours anew where one changed since an earlier file did, or where
    that one lay in another folder with a neighbour of the same name."""
    others = any(
        content != _content(path) or (path.parent != folder and (folder / path.name).is_file())
        for path, content in _NEIGHBOURS.values()
    )
    for name in _NEIGHBOURS if others else ():
        sys.modules.pop(name, None)
    if others:
        _NEIGHBOURS.clear()


def _content(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "absent"


@contextmanager
def in_users_code(what: str) -> Iterator[None]:
    """An error of a user's code inside becomes one line with its file and line; ours stay."""
    try:
        yield
    except LratError:
        raise
    except Exception as error:
        at = traceback.extract_tb(error.__traceback__)[-1]
        raise ConfigurationError(
            f"{what} fails in {Path(at.filename).name}, line {at.lineno}: {in_one_line(error)}"
        ) from error


def _one_line(whose: str, what: str, call: Callable[[], Any]) -> Any:
    """Run code of the user; whatever it raises is one line (SystemExit too)."""
    try:
        return call()
    except (Exception, SystemExit) as error:
        raise ConfigurationError(f"{whose}: {what} fails: {in_one_line(error)}") from error


@dataclass(frozen=True)
class OwnLoss:
    """A user's loss, printed as its address (``place`` in stored identities) and file's digest."""

    loss: Loss = field(repr=False)
    place: str
    code: str

    @property
    def needs_clean(self) -> bool:
        return self.loss.needs_clean

    @property
    def targeted(self) -> bool:
        return self.loss.targeted

    def prepare(
        self, labels: Labels, clean_logits: Logits | None = None, rank: Labels | None = None
    ) -> Prepared:
        with in_users_code(f"loss {self.place!r}"):
            prepared = self.loss.prepare(labels, clean_logits, rank)
        return Prepared(_watched(prepared.function, self.place), prepared.context)


@cache
def _watched(function: Callable[..., Tensor], address: str) -> Callable[..., Tensor]:
    """A user's function whose errors are one line; the same one for the same function."""

    def losses_of(logits: Tensor, *context: Tensor) -> Tensor:
        with in_users_code(f"loss {address!r}"):
            losses = function(logits, *context)
        if not isinstance(losses, Tensor):
            raise SettingError(
                f"loss {address!r} returned {type(losses).__name__}: return a tensor, one value "
                "per image"
            )
        if logits.requires_grad and not losses.requires_grad:
            raise SettingError(
                f"loss {address!r} does not depend on the logits differentiably (a detach, argmax "
                "or comparison inside?): gradient attacks cannot ascend it"
            )
        return losses

    losses_of.__name__ = address
    return losses_of


@dataclass(frozen=True)
class OwnAttack(Wrapped):
    """A user's attack, printed as ``OwnLoss`` is."""

    attack: Attack = field(repr=False)
    place: str
    code: str

    def run(
        self, model: nn.Module, images: Images, labels: Labels, noise: NoiseLike, clean: Clean
    ) -> Variant:
        with in_users_code(f"attack {self.place!r}"):
            return self.attack(model, images, labels, noise=noise, clean_logits=clean)


def loss_named(name: str) -> Loss:
    """A loss of ours by name, or a user's ``FILE.py:NAME``."""
    if names_users_code(name):
        function, code = object_from_file(name, "loss")
        return OwnLoss(as_loss(function), name, code[:_DIGITS])
    known = [name for name, row in LOSSES.items() if not row.takes]
    if name not in known:
        raise UnknownNameError("loss", name, [*known, "FILE.py:NAME"])
    return as_loss(LOSSES[name].target)


def own_attack(address: str) -> Attack:
    """A user's ``FILE.py:NAME``: an ``Attack``, or ``(model, images, labels) -> images``."""
    function, code = object_from_file(address, "attack")
    return OwnAttack(as_attack(function), address, code[:_DIGITS])

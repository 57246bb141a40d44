"""Attacks of other libraries as attacks of ours."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor, nn

from lrat.attacks.base import Attack, GradientAttack, Variant
from lrat.data.inputs import check_module, entering
from lrat.errors import LratError, RegionViolationError, SettingError
from lrat.hardware import differentiable
from lrat.modes import evaluating, outside_autocast, recordable, tensors_kept
from lrat.outputs import handing_copies
from lrat.randomness import NoiseLike, as_noise, global_states, seeded_randomness
from lrat.text import in_one_line, shown
from lrat.threat import Linf, Region
from lrat.types import Images, Labels, Logits

_logger = logging.getLogger(__name__)
AttackLike: TypeAlias = Attack | Callable[[nn.Module, Tensor, Tensor], Tensor]
"""What objectives and suites take: an ``Attack``, or ``(model, images, labels) -> images``."""
BOX = Linf(epsilon=1)
"""All of [0, 1]: where what is trained on must lie, when no threat is known."""


@dataclass
class Changes:
    """What attacks of others change beside their work, in sentences: the first of each kind.

    ``drawn``: by attack and generator, in which state of global random numbers it began and ended.
    """

    said: dict[tuple[str, str], str] = field(default_factory=dict)
    drawn: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(self.said.values())

    def say(self, attack: str, kind: str, what: str) -> None:
        if (attack, kind) not in self.said:
            self.said[attack, kind] = f"the attack {attack} {what}"
            _logger.warning(self.said[attack, kind])

    def note_parts(self, attack: str, parts: Sequence[str]) -> None:
        """``parts`` of the model were not as before and were put back."""
        if parts:
            what = f"changes the model ({len(parts)} of its parts, as {parts[0]}), which was put "
            self.say(attack, "model", what + "back: attack a copy of the model, in eval mode")

    def note_draws(self, attack: str, before: Mapping[str, int], seed: int) -> None:
        """Since ``before``, where torch had this ``seed``, all draws were to follow from both."""
        for kind, ended in global_states().items():
            began, other = self.drawn.setdefault((attack, kind), (before[kind], ended))
            is_seeded = kind == "torch" and torch.initial_seed() != seed
            if is_seeded or (began != before[kind] and other == ended):
                what = f"seeds the random numbers of {kind} itself, so that what it draws does not "
                self.say(attack, kind, what + "follow from the seed of the run: leave that out")


_changes: ContextVar[Changes] = ContextVar("changes")
_outside = Changes()
"""Of attacks that are called directly."""


@contextmanager
def noting_changes() -> Iterator[Changes]:
    """Inside, what attacks of others change is gathered for the notes of a result."""
    token = _changes.set(Changes())
    try:
        yield _changes.get()
    finally:
        _changes.reset(token)


@contextmanager
def protected(model: nn.Module, name: str) -> Iterator[None]:
    """``model`` in the hands of code that is not ours, the attack ``name``, which may call
    ``backward``, freeze parameters, or train the model: parameters, buffers, modes and gradients
    come back as they were, and the model is handed copies of what it is called with."""
    found, states, seed = _changes.get(_outside), global_states(), torch.initial_seed()
    with evaluating(model), handing_copies(model), tensors_kept(model) as changed:
        modes = _modes(model)
        yield
        others = _modes(model).items() - modes.items()
        switched = [f"the mode of {where or 'the whole'}" for where, _ in sorted(others)]
    found.note_parts(name, [*changed, *switched])
    found.note_draws(name, states, seed)


def _modes(model: nn.Module) -> dict[str, bool]:
    return {
        where: part.training for where, part in model.named_modules() if hasattr(part, "training")
    }


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """Any callable ``(model, images, labels) -> images`` as an attack.

    The callable sees the model in eval mode and global random states (Python, numpy, torch) seeded
    from ``noise``; modes, weights, buffers, gradients and random states come back as they were.
    With ``threat`` given, a result outside it raises ``RegionViolationError``; what the callable
    raises becomes a ``SettingError`` that names it.
    """

    function: Callable[[nn.Module, Tensor, Tensor], Tensor]
    threat: Region | None = None
    provides: ClassVar[frozenset[str]] = frozenset()
    needs_clean: ClassVar[bool] = False

    @property
    def _name(self) -> str:
        return getattr(self.function, "__name__", repr(self.function))

    def __call__(
        self,
        model: nn.Module,
        images: Images,
        labels: Labels,
        *,
        noise: NoiseLike = None,
        clean_logits: Logits | None = None,
    ) -> Variant:
        check_module(model)
        images, labels, _ = entering(images, labels)
        own = as_noise(noise, len(images), images.device)
        seed = int(own.integers(2**31, (len(images),), "foreign-seed")[0])
        with (
            seeded_randomness(seed),
            torch.inference_mode(False),
            outside_autocast(images.device.type),
            recordable(model),
            evaluating(model),
            protected(model, self._name),
            differentiable(model),
            torch.enable_grad(),
        ):
            result = self._called(model, images.clone(), labels.clone())
        result = returned_images(self._name, result, images)
        if self.threat is not None:
            excess = float(self.threat.violation(result, images).amax())
            if not excess <= self.threat.tolerance:
                raise RegionViolationError(
                    f"{self._name} left {self.threat} by {excess:.2e}: "
                    "check its epsilon and that it works on images in [0, 1]"
                )
        return Variant(images=result)

    def _called(self, model: nn.Module, images: Tensor, labels: Tensor) -> Any:
        try:
            return self.function(model, images, labels)
        except LratError:
            raise
        except Exception as error:
            raise SettingError(
                f"the attack {self._name} failed on images {list(images.shape)} "
                f"({in_one_line(error)}): it is called with (model, images, labels) and must "
                "return images"
            ) from error


def returned_images(name: str, result: Any, images: Tensor) -> Tensor:
    """What the attack ``name`` returned for ``images`` as a tensor like them; ``SettingError`` for
    anything that is none."""
    found = "no tensor" if isinstance(result, Tensor) else type(result).__name__
    if isinstance(result, Tensor):
        is_plain = result.layout == torch.strided and not (result.is_meta or result.is_complex())
        if result.shape == images.shape and is_plain:
            return result.detach().to(images)
        found = f"{tuple(result.shape)}"
        found += "" if is_plain else f" ({result.dtype}, {result.layout}, on {result.device})"
    raise SettingError(
        f"{name} returned {found}, an attack must return images of shape {tuple(images.shape)}, "
        "dense real numbers"
    )


def protected_from(attack: Attack, model: nn.Module) -> AbstractContextManager[None]:
    """``protected`` around a call of an attack that is not ours."""
    return (
        nullcontext()
        if isinstance(attack, GradientAttack | Foreign)
        else protected(model, type(attack).__name__)
    )


def as_attack(attack: Any, *, threat: Region | None = None) -> Attack:
    """An ``Attack`` as it is; any callable ``(model, images, labels) -> images`` adapted."""
    if isinstance(attack, Attack) and not isinstance(attack, type):
        return attack
    if callable(attack) and not isinstance(attack, type):
        return Foreign(function=attack, threat=threat)
    raise SettingError(
        f"attack={shown(attack)}: pass an Attack or a function (model, images, labels) -> images"
    )

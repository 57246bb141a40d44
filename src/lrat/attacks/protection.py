"""Attacks of users and of other libraries: the model is protected from them, and they are named."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lrat.errors import LratError, RegionViolationError, SettingError
from lrat.modes import evaluating, tensors_kept
from lrat.outputs import handing_copies
from lrat.randomness import Noise, global_states, seeded_randomness
from lrat.text import in_one_line
from lrat.threat import Region

_logger = logging.getLogger(__name__)


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


@contextmanager
def users_attack(
    name: str, model: nn.Module, images: Tensor, noise: Noise, contract: str
) -> Iterator[None]:
    """Around a call of the attack ``name`` on ``images``: ``protected``, with global random states
    seeded from ``noise``, and one line with the ``contract`` for whatever it raises."""
    seed = int(noise.integers(2**31, (len(images),), "foreign-seed")[0])
    with seeded_randomness(seed), protected(model, name):
        try:
            yield
        except LratError:
            raise
        except Exception as error:
            raise SettingError(
                f"the attack {name} failed on images {list(images.shape)} ({in_one_line(error)}): "
                f"{contract}"
            ) from error


def checked_images(name: str, result: Any, images: Tensor, threat: Region | None) -> Tensor:
    """``returned_images`` inside ``threat`` around ``images``, else ``RegionViolationError``."""
    found = returned_images(name, result, images)
    if threat is not None:
        excess = float(threat.violation(found, images).amax())
        if not excess <= threat.tolerance:
            raise RegionViolationError(
                f"{name} left {threat} by {excess:.2e}: check its epsilon and that it works on "
                "images in [0, 1]"
            )
    return found


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

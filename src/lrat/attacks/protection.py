"""Protection of a model from attacks of users and other libraries, and checks of their results."""

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
    """The side effects of user attacks, in sentences: the first of each attack and kind.

    ``states``: by attack and generator, the global random state at its first start and end.
    """

    sentences: dict[tuple[str, str], str] = field(default_factory=dict)
    states: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(self.sentences.values())

    def _note(self, attack: str, kind: str, effect: str) -> None:
        if (attack, kind) not in self.sentences:
            self.sentences[attack, kind] = f"the attack {attack} {effect}"
            _logger.warning(self.sentences[attack, kind])

    def note_parts(self, attack: str, parts: Sequence[str]) -> None:
        """Note that the attack changed ``parts`` of the model, which were restored."""
        if parts:
            effect = f"changes the model ({len(parts)} of its parts, as {parts[0]}), which was put "
            self._note(attack, "model", effect + "back: attack a copy of the model, in eval mode")

    def note_draws(self, attack: str, before: Mapping[str, int], seed: int) -> None:
        """Note that the attack seeds a generator: torch's seed is no longer ``seed``, or another
        state ``before`` than at its first call led to the same state."""
        for kind, end in global_states().items():
            first_start, first_end = self.states.setdefault((attack, kind), (before[kind], end))
            is_seeded = kind == "torch" and torch.initial_seed() != seed
            if is_seeded or (first_start != before[kind] and first_end == end):
                effect = f"seeds the random numbers of {kind}, so that its draws do not follow from"
                self._note(attack, kind, effect + " the seed of the run: remove the seeding")


_changes: ContextVar[Changes] = ContextVar("changes")
_direct_calls = Changes()
"""The side effects of attacks that are called directly."""


@contextmanager
def noting_changes() -> Iterator[Changes]:
    """Inside, side effects of user attacks are collected for the notes of a result."""
    token = _changes.set(Changes())
    try:
        yield _changes.get()
    finally:
        _changes.reset(token)


@contextmanager
def protected(model: nn.Module, name: str) -> Iterator[None]:
    """Protects ``model`` from the user attack ``name``, which may call ``backward``, freeze
    parameters, or train the model: parameters, buffers, modes and gradients are restored, and the
    model gets copies of its arguments."""
    changes, states, seed = _changes.get(_direct_calls), global_states(), torch.initial_seed()
    with evaluating(model), handing_copies(model), tensors_kept(model) as changed:
        modes = _modes(model)
        yield
        others = _modes(model).items() - modes.items()
        switched = [f"the mode of {path or 'the whole'}" for path, _ in sorted(others)]
    changes.note_parts(name, [*changed, *switched])
    changes.note_draws(name, states, seed)


def _modes(model: nn.Module) -> dict[str, bool]:
    return {
        path: part.training for path, part in model.named_modules() if hasattr(part, "training")
    }


@contextmanager
def users_attack(
    name: str, model: nn.Module, images: Tensor, noise: Noise, contract: str
) -> Iterator[None]:
    """Around a call of the attack ``name`` on ``images``: the model is ``protected``, global random
    states are seeded from ``noise``, and exceptions become one line with the ``contract``."""
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
    returned = returned_images(name, result, images)
    if threat is not None:
        excess = float(threat.violation(returned, images).amax())
        if not excess <= threat.tolerance:
            raise RegionViolationError(
                f"{name} left {threat} by {excess:.2e}: check its epsilon and that it works on "
                "images in [0, 1]"
            )
    return returned


def returned_images(name: str, result: Any, images: Tensor) -> Tensor:
    """The ``result`` of the attack ``name`` as a tensor of the type, device and shape of
    ``images``; ``SettingError`` where it cannot be one."""
    text = type(result).__name__
    if isinstance(result, Tensor):
        is_plain = result.layout == torch.strided and not (result.is_meta or result.is_complex())
        if result.shape == images.shape and is_plain:
            return result.detach().to(images)
        text = f"{tuple(result.shape)}"
        text += "" if is_plain else f" ({result.dtype}, {result.layout}, on {result.device})"
    raise SettingError(
        f"{name} returned {text}, an attack must return images of shape {tuple(images.shape)}, "
        "dense real numbers"
    )

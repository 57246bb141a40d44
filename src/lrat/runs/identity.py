"""Whether a folder's results were measured with the loaded model (see ``storage.fingerprint``)."""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import nn

from lrat.config.model_code import program_of
from lrat.data import ImageData
from lrat.errors import RunFolderError
from lrat.evaluation.storage.fingerprint import (
    PROBE_IMAGES,
    Fingerprint,
    answers,
    read_fingerprint,
    sketches,
    write_fingerprint,
)
from lrat.files.names import FINGERPRINT

_LEARNING = "the part of the parameters that learns"

Weights: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True)
class Reading:
    """A model to be read: with its first ``images``, and with ``parts`` that the user made beside
    it (attacks, an objective). ``trains``: its weights are those that a training begins with."""

    model: nn.Module
    images: ImageData
    device: torch.device
    parts: Mapping[str, Any] = field(default_factory=dict)
    trains: bool = False

    def fingerprint(self) -> Fingerprint:
        """What a forward changes (counters, caches) is left out."""
        first = torch.arange(min(PROBE_IMAGES, len(self.images)))
        before = program_of(self.model)
        probe = answers(self.model, self.images.batch(first).to(self.device).images)
        program = program_of(self.model)
        named = list(self.model.named_parameters())
        learning = [name for name, value in named if value.requires_grad]
        learns = f"{len(learning)} of {len(named)}, {_digest(learning)}"
        parts = {name: program_of(part) for name, part in self.parts.items()}
        return Fingerprint(
            versions=program.versions,
            code=program.code,
            values={
                name: text
                for name, text in program.values.items()
                if before.values.get(name) == text
            }
            | ({_LEARNING: learns} if self.trains else {}),
            parts={name: part.digest() for name, part in parts.items() if part.code},
            weights=sketches(self.model.state_dict()) if self.trains else {},
            **probe,
        )

    def begin(self, folder: Path) -> None:
        """Keep the fingerprint in a folder that holds nothing yet."""
        write_fingerprint(folder, self.fingerprint())

    def is_same_code(self, folder: Path) -> bool:
        """Whether only the numbers in the model are others than those in ``folder``."""
        stored = read_fingerprint(folder)
        same = stored and replace(
            self.fingerprint(),
            **{name: getattr(stored, name) for name in ("weights", "logits", "gradients")},
        )
        return same is None or stored is None or stored.differs(same) is None

    def check(self, folder: Path, trained: Callable[[], Iterable[Weights]] = tuple) -> None:
        """Refuse a folder of another model; one whose fingerprint was removed is not refused.
        ``RunFolderError`` with what differs.

        ``trained``: weights that a training in this folder came to; it raises what is to be said
        first. A model that holds some of them is the one that was trained: of it the code is
        compared alone.
        """
        stored = read_fingerprint(folder)
        if stored is None:
            return
        now = self.fingerprint()
        reason = stored.differs(now)
        if reason is not None and any(now.has_weights(sketches(each)) for each in [*trained()]):
            now = replace(now, weights=stored.weights, logits=stored.logits)
            reason = stored.differs(replace(now, gradients=stored.gradients))
        if reason is not None:
            raise RunFolderError(
                f"{folder} is of another model ({reason}): choose a new folder, or bring back what "
                f"changed; without its {FINGERPRINT} it is taken as it is"
            )


def _digest(names: Iterable[str]) -> str:
    return hashlib.sha256(repr(list(names)).encode()).hexdigest()[:8]

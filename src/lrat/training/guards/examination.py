"""Does the training attack do anything? Looked at on the first batch of each epoch."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lrat.attacks.base import Variant
from lrat.distributed.group import Alone, Crew
from lrat.modes import evaluating
from lrat.outputs import forward_logits
from lrat.randomness import Keyed, keys
from lrat.types import Batch, Images

LEAST_GAIN = 0.02
"""An attack does something if it fools this share of images that random noise does not."""
SURE = 2.0
"""So many standard errors make a count evidence."""
_COUNTS = ("images", "right", "fooled", "only_attack", "only_noise", "changed")


@dataclass(frozen=True, kw_only=True)
class Examined:
    """Counts of images over the examined batches of one term, and the range of their pixels.

    ``right``: classified correctly when clean. Of these, ``fooled`` by the variant;
    ``only_attack`` by the variant and not by its noise, ``only_noise`` the other way round.
    ``changed``: whose variant differs from the image.
    """

    images: int
    right: int
    fooled: int
    only_attack: int
    only_noise: int
    changed: int
    darkest: float
    brightest: float

    def gain(self, deviations: float = 0.0) -> float:
        """The share of the ``right`` images that the attack fools beyond what its noise does, so
        many standard errors (McNemar's, one image more) above or below what was counted."""
        if not self.right:
            return deviations * math.inf if deviations else 0.0
        counted = self.only_attack - self.only_noise
        error = math.sqrt(self.only_attack + self.only_noise + 1)
        return (counted + deviations * error) / self.right


class Examination:
    """Holds a batch's variants against the images and against random noise of the same size.

    The noise of a variant has its changes pixel by pixel with their signs drawn at random, so a
    step that looks for nothing (size 0, gradients that are 0) shows no difference to it, however it
    starts. Each call costs one forward of the images and two per variant, in eval mode with the
    attacks' view; the counts stay on the device until they are read.
    """

    def __init__(self) -> None:
        self._counts: dict[str, Tensor] = {}
        self._ranges: dict[str, Tensor] = {}

    def __call__(
        self,
        view: nn.Module,
        batch: Batch,
        variants: Mapping[str, Variant],
        *,
        crew: Crew | None = None,
        counts: bool = True,
    ) -> None:
        """Count what ``variants`` of ``batch`` do to ``view``, which no update has changed since
        they were made. The processes of ``crew`` add up their counts, of those that ``counts``."""
        if not variants:
            return
        with evaluating(view), torch.no_grad():
            right = _right(view, batch.images, batch)
            for term, variant in variants.items():
                attacked = _right(view, variant.images, batch)
                noisy = _right(view, _scrambled(batch, variant, term), batch)
                differs = (variant.images != batch.images).flatten(1).any(1)
                self._add(
                    term,
                    [
                        torch.ones_like(right),
                        right,
                        right & ~attacked,
                        right & ~attacked & noisy,
                        right & attacked & ~noisy,
                        differs,
                    ],
                    batch.images,
                    Alone() if crew is None else crew,
                    counts,
                )

    def _add(
        self, term: str, flags: list[Tensor], images: Images, crew: Crew, counting: bool
    ) -> None:
        own = torch.stack([flag.sum() for flag in flags])
        darkest, brightest = images.aminmax()
        told = torch.stack([*(own * counting), darkest, brightest])
        everybody = crew.gather(told.float())
        counts = everybody[:, :-2].sum(0).long()
        darkest, brightest = everybody[:, -2].amin().float(), everybody[:, -1].amax().float()
        span = torch.stack([darkest, brightest])
        if term in self._counts:
            before = self._ranges[term].to(span.device)
            counts = counts + self._counts[term].to(counts.device)
            span = torch.stack([torch.minimum(before[0], darkest), before[1].maximum(brightest)])
        self._counts[term] = counts
        self._ranges[term] = span

    def read(self) -> dict[str, Examined]:
        """By term; waits for the device."""
        found = {}
        for term, counts in self._counts.items():
            darkest, brightest = self._ranges[term].tolist()
            values = dict(zip(_COUNTS, counts.tolist(), strict=True))
            found[term] = Examined(**values, darkest=darkest, brightest=brightest)
        return found

    def state_dict(self) -> dict[str, Any]:
        return {term: dict(vars(counts)) for term, counts in self.read().items()}

    def load_state_dict(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        self._counts = {
            term: torch.tensor([values[name] for name in _COUNTS]) for term, values in state.items()
        }
        self._ranges = {
            term: torch.tensor([values["darkest"], values["brightest"]])
            for term, values in state.items()
        }


def _right(view: nn.Module, images: Images, batch: Batch) -> Tensor:
    return forward_logits(view, images).argmax(1) == batch.labels


def _scrambled(batch: Batch, variant: Variant, term: str) -> Images:
    """The images with the variant's changes, each pixel's sign drawn anew."""
    drawn = Keyed(keys(0, batch.index)).child("guards").uniform(batch.images.shape, term)
    changes = variant.images - batch.images
    return (batch.images + torch.where(drawn < 0.5, changes, -changes)).clamp(0, 1)

"""Attacks that are made on the model of another run and carried over."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lrat.acceleration import View
from lrat.attacks import Attack, Transfer, Variant
from lrat.config import build
from lrat.data import ImageData
from lrat.errors import LratError, ModelError, NonFiniteError
from lrat.evaluation import Suite
from lrat.evaluation.watching import GradientWatch
from lrat.hardware import move
from lrat.randomness import NoiseLike
from lrat.runs.sources import Source
from lrat.runs.weights import weights_digest
from lrat.types import Images, Labels, Logits

_DIGITS = 16


class Carried(Transfer):
    """``Transfer`` that refuses a source whose gradient is NaN: the attack would stand still there,
    and its images would be as harmless as the clean ones."""

    def __call__(
        self,
        model: nn.Module,
        images: Images,
        labels: Labels,
        *,
        noise: NoiseLike = None,
        clean_logits: Logits | None = None,
    ) -> Variant:
        with GradientWatch(self.source) as watch:
            variant = super().__call__(
                model, images, labels, noise=noise, clean_logits=clean_logits
            )
        if watch.found:
            raise NonFiniteError(
                f"the gradient of the source of transferred attacks (model {self.name}) is NaN, so "
                "gradient attacks stand still on it: carry attacks over from another run"
            )
        return variant


@dataclass(frozen=True, kw_only=True)
class Origin:
    """A model that attacks are made on; ``digest`` stands for its weights."""

    network: nn.Module
    digest: str

    @staticmethod
    def of(run: Path | str) -> "Origin":
        """The selected model of a run."""
        network = Source(run=Path(run)).open().network.eval()
        return Origin(network=network, digest=weights_digest(network.state_dict())[:_DIGITS])

    def makes(self, attack: Attack) -> Transfer:
        """``attack`` made on this model, which its digest names."""
        return Carried(attack=attack, source=self.network, name=self.digest)


def transferred(attack: Attack, run: Path | str) -> Transfer:
    """``attack`` made on the selected model of another run, whose weights' digest names it."""
    return Origin.of(run).makes(attack)


def prepare_sources(suite: Suite, images: ImageData, device: torch.device) -> None:
    """Put the models that attacks of ``suite`` are made on onto ``device``.

    ``ModelError`` that names the attack where its source does not fit ``images``.
    """
    for step in suite.steps:
        if isinstance(step.attack, Transfer):
            move(step.attack.source, device)
            try:
                build.check_fit(step.attack.source, images)
            except LratError as error:
                raise ModelError(f"{step.name}, made on another run's model: {error}") from None


def seen_alike(suite: Suite, view: nn.Module, images: ImageData) -> Suite:
    """``suite`` whose attacks see the models that they are made on as ``view`` shows theirs: as
    fast, checked on ``images`` too. What an evaluation records about its view holds for them."""
    if not isinstance(view, View):
        return suite
    views: dict[nn.Module, nn.Module] = {}
    members = []
    for member in suite.members:
        attack: Any = member.attack
        if isinstance(attack, Transfer):
            source = attack.source
            if source not in views:
                views[source] = build.view("auto", source, images, view.choices)
            attack = replace(attack, source=views[source])
        members.append(replace(member, attack=attack))
    return replace(suite, members=tuple(members))

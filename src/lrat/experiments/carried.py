"""Attacks that are made on the model of another run and carried over."""

from pathlib import Path

import torch

from lrat.attacks import Attack, Transfer
from lrat.data import ImageData
from lrat.errors import LratError, ModelError
from lrat.evaluation import Suite
from lrat.experiments import build
from lrat.experiments.subjects import Source, weights_digest

_DIGITS = 16


def transferred(attack: Attack, run: Path | str) -> Transfer:
    """``attack`` made on the selected model of another run, whose weights' digest names it."""
    source = Source(run=Path(run)).open()
    digest = weights_digest(source.network.state_dict())
    return Transfer(attack=attack, source=source.network.eval(), name=digest[:_DIGITS])


def prepare_sources(suite: Suite, images: ImageData, device: torch.device) -> None:
    """Put the models that attacks of ``suite`` are made on onto ``device``.

    ``ModelError`` that names the attack where its source does not fit ``images``.
    """
    for step in suite.steps:
        if isinstance(step.attack, Transfer):
            step.attack.source.to(device)
            try:
                build.check_fit(step.attack.source, images)
            except LratError as error:
                raise ModelError(f"{step.name}, made on another run's model: {error}") from None

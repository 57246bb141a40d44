"""The masking panel of a run's model, or of somebody's."""

import json
from collections.abc import Callable
from pathlib import Path

import torch

from lrat.acceleration import View
from lrat.data import stratified_subset
from lrat.errors import RunFolderError
from lrat.evaluation import Check, EvaluationResult, Panel, masking_panel
from lrat.experiments import build
from lrat.experiments.folder import evaluated, evaluated_choices
from lrat.experiments.request import EvaluationRequest
from lrat.experiments.subjects import Subject, weights_digest
from lrat.files import write_json

IMAGES = 256
"""How many images the panel looks at: enough for its limits, a minute of one core at most on a
small network."""
PANEL = "masking.json"


def examine(
    subject: Subject,
    request: EvaluationRequest,
    *,
    folder: Path | None = None,
    result: EvaluationResult | None = None,
    on_progress: Callable[[Check], None] | None = None,
) -> Panel:
    """The checks on a fixed part of the subject's images, written into ``folder`` if there is one.

    ``result``: the evaluation in that folder, whose attacks the panel compares too. A panel that
    was made for the same weights and seed is read back.
    """
    digest = weights_digest(subject.network.state_dict())
    known = _stored(folder, digest, request.seed)
    if known is not None:
        return known
    place = build.device(request.device)
    images = stratified_subset(subject.test, min(IMAGES, request.limit or IMAGES), seed=0)
    network = subject.network.to(place)
    with subject.threads():
        view = build.view(request.acceleration, network, images, evaluated_choices(folder))
        panel = masking_panel(
            network,
            images.batch(torch.arange(len(images))).to(place),
            build.threat(subject.threat),
            view=view if isinstance(view, View) else None,
            seed=request.seed,
            result=result,
            on_progress=on_progress,
        )
    if folder is not None:
        write_json(folder / PANEL, {"model": digest, "seed": request.seed, **panel.as_dict()})
    return panel


def _stored(folder: Path | None, digest: str, seed: int) -> Panel | None:
    if folder is None or not (folder / PANEL).is_file():
        return None
    if evaluated(folder, "model") != digest:
        return None
    try:
        stored = json.loads((folder / PANEL).read_text(encoding="utf-8"))
        is_same = (stored.pop("model"), stored.pop("seed")) == (digest, seed)
        return Panel.from_dict(stored) if is_same else None
    except (OSError, ValueError, KeyError, TypeError):
        raise RunFolderError(
            f"{folder / PANEL} is damaged: delete it, and it is made anew"
        ) from None

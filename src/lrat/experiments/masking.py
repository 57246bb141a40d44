"""The masking panel of a run's model, or of somebody's."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from lrat import hardware
from lrat.acceleration import View
from lrat.config import build
from lrat.data import ImageData, stratified_subset
from lrat.evaluation import Check, EvaluationResult, Panel, masking_panel
from lrat.evaluation.storage.store import SUMMARY, digest_of
from lrat.experiments.evaluation_request import EvaluationRequest
from lrat.files.read import read_record, read_whole
from lrat.files.write import write_json
from lrat.hardware import move
from lrat.runs.folder import PANEL
from lrat.runs.sources import LoadedModel, evaluated_choices

IMAGES = 256
"""How many images the panel looks at: enough for its limits, a minute of one core at most on a
small network."""
_VERSION = 3
"""Of the checks: what an earlier version said is not repeated."""


def examine(
    subject: LoadedModel,
    request: EvaluationRequest,
    *,
    folder: Path | None = None,
    result: EvaluationResult | None = None,
    on_progress: Callable[[Check], None] | None = None,
) -> Panel:
    """The checks on a fixed part of the subject's images, written into ``folder`` if there is one.

    ``result``: the evaluation in that folder, whose attacks the panel compares too. A panel that
    was made of the same is read back. Of an unfinished evaluation none is kept: what it says would
    not be of the images that the finished one has.
    """
    images = stratified_subset(subject.test, min(IMAGES, request.limit or IMAGES), seed=0)
    made_of = _made_of(subject, request, images, result)
    is_kept = folder is not None and (folder / SUMMARY).is_file()
    known = _stored(folder / PANEL, made_of) if folder is not None and is_kept else None
    if known is not None:
        return known
    place = hardware.device(request.device)
    network = move(subject.network, place)
    with subject.threads():
        view = build.view(request.acceleration, network, images, evaluated_choices(folder))
        panel = masking_panel(
            network,
            images.batch(torch.arange(len(images))).to(place),
            subject.threat,
            view=view if isinstance(view, View) else None,
            seed=request.seed,
            result=result,
            on_progress=on_progress,
        )
    if folder is not None and is_kept:
        write_json(folder / PANEL, {"made_of": made_of, **panel.as_dict()})
    return panel


def _made_of(
    subject: LoadedModel,
    request: EvaluationRequest,
    images: ImageData,
    result: EvaluationResult | None,
) -> dict[str, Any]:
    """Everything that a panel's numbers depend on, but for the device, as JSON reads it back."""
    evaluation = None
    if result is not None:
        index = result.index
        evaluation = {
            "images": len(index),
            "digest": digest_of(index),
            "identity": result.identity,
        }
    made_of = {
        "version": _VERSION,
        **subject.identity,
        "threat": subject.threat.text,
        "seed": request.seed,
        "acceleration": request.acceleration,
        "images": images.digest(),
        "evaluation": evaluation,
    }
    return dict(json.loads(json.dumps(made_of)))


def _stored(path: Path, made_of: Mapping[str, Any]) -> Panel | None:
    """The panel that was kept, if it was made of the same."""
    cure = "delete it, and it is made anew"
    stored = read_record(path, cure, may_lack=True)
    if stored.get("made_of") != made_of:
        return None
    return read_whole(path, lambda _: Panel.from_dict(stored), cure)

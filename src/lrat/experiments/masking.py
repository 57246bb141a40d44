"""The masking panel of a run's model, or of a user's."""

from pathlib import Path
from typing import Any

from lrat import hardware
from lrat.acceleration import View
from lrat.config import build
from lrat.data import ImageData, stratified_subset
from lrat.evaluation import EvaluationResult, Panel, masking_panel
from lrat.evaluation.storage.store import digest_of
from lrat.experiments.evaluation_request import EvaluationRequest
from lrat.files.names import PANEL, SUMMARY
from lrat.hardware import move
from lrat.runs.kept import KeptResult
from lrat.runs.sources import LoadedModel, evaluated_choices

IMAGES = 256
"""How many images the panel looks at: enough for its limits, a minute of one core at most on a
small network."""
_VERSION = 3
"""Of the checks: what an earlier version said is not repeated."""
_MADE_OF = "made_of"
_AGAIN = "delete it, and it is measured again"


def examine(
    subject: LoadedModel,
    request: EvaluationRequest,
    *,
    folder: Path | None = None,
    result: EvaluationResult | None = None,
) -> Panel:
    """The checks on a fixed part of the subject's images, written into ``folder`` if there is one.

    ``result``: the evaluation in that folder, whose attacks the panel compares too. A panel that
    is there is read back; ``RunFolderError`` with the difference where it belongs to something
    else. Of an unfinished evaluation none is kept: what it says would not be of the images that the
    finished one has.
    """
    images = stratified_subset(subject.images, min(IMAGES, request.limit or IMAGES), seed=0)
    kept = None
    if folder is not None and (folder / SUMMARY).is_file():
        made_of = _made_of(subject, request, images, result)
        kept = KeptResult(folder=folder, identity=made_of, what="masking panel", again=_AGAIN)
        known = kept.json(PANEL, Panel.from_dict, under=_MADE_OF)
        if known is not None:
            return known
    device = hardware.device(request.device)
    network = move(subject.network, device)
    with subject.threads():
        view = build.view(request.acceleration, network, images, evaluated_choices(folder))
        panel = masking_panel(
            network,
            images.batch(slice(None)).to(device),
            subject.threat,
            view=view if isinstance(view, View) else None,
            seed=request.seed,
            result=result,
        )
    if kept is not None:
        kept.finish(PANEL, panel.as_dict(), under=_MADE_OF)
    return panel


def _made_of(
    subject: LoadedModel,
    request: EvaluationRequest,
    images: ImageData,
    result: EvaluationResult | None,
) -> dict[str, Any]:
    """Everything that a panel's numbers depend on, but for the device."""
    evaluation = None
    if result is not None:
        index = result.index
        evaluation = {
            "images": len(index),
            "digest": digest_of(index),
            "identity": result.identity,
        }
    return {
        "version": _VERSION,
        **subject.identity,
        "threat": subject.threat.text,
        "seed": request.seed,
        "acceleration": request.acceleration,
        "images": images.digest(),
        "evaluation": evaluation,
    }

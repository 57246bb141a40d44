"""Evaluation of a run or of somebody's model.

Which images of an evaluation are kept for reports.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import nn

from lrat import hardware
from lrat.acceleration import View
from lrat.config import build
from lrat.config.fingerprints import own_functions
from lrat.data import ImageData, in_order, stratified_subset
from lrat.errors import ConfigurationError, SettingError
from lrat.evaluation import EvaluationResult, Progress, Suite, evaluate_suite
from lrat.evaluation.evaluate import begin
from lrat.evaluation.forward import check_answers, stored_clean
from lrat.evaluation.storage.gallery import Gallery
from lrat.evaluation.storage.store import IDENTITY, PARTS
from lrat.experiments.evaluation_request import EvaluationRequest, descriptions, digest_of_attacks
from lrat.files.read import is_there
from lrat.hardware import move, processors
from lrat.randomness import Keyed, keys, random_state_kept
from lrat.runs.folder import OFF, evaluated, keep_command
from lrat.runs.identity import Reading
from lrat.runs.sources import (
    LoadedModel,
    ModelSource,
    evaluated_choices,
    model_identity,
    own_folder,
)
from lrat.runs.suites import prepare_sources, seen_alike, suite
from lrat.threat import Ball

__all__ = [
    "EvaluationRequest",
    "begin_evaluation",
    "evaluate_network",
    "evaluate_run",
    "evaluate_subject",
    "evaluation_folder",
    "processors",
]

_LIMIT_SEED = 0
_CHUNKS_PER_BLOCK = 4
"""So many chunks of images are gathered: what a stage of a cascade leaves of them fills the chunks
of the next one."""

ProgressCallback: TypeAlias = Callable[[Progress], None]

IMAGES = 32
"""So many where nobody says how many."""
_SEED = 0


def evaluate_subject(
    subject: LoadedModel, request: EvaluationRequest, progress: ProgressCallback | None = None
) -> tuple[Path | None, EvaluationResult]:
    """Attack a subject; the evidence goes into a folder of its own among its evaluations.

    The same request continues an evaluation that was broken off and reads a finished one back; for
    weights that changed since (a run that trains on) it begins another.
    """
    request.check()
    if request.devices is not None:
        raise ConfigurationError(
            "an open model stays in this process: evaluate_in_processes takes its source"
        )
    attacks = _attacks(subject, request)
    folder = evaluation_folder(subject, request, attacks)
    with subject.threads():
        result = evaluate_network(
            subject.network,
            subject.images,
            threat=subject.threat,
            request=request,
            attacks=attacks,
            folder=folder,
            device=hardware.device(request.device),
            progress=progress,
            identity=subject.identity,
        )
    return folder, result


def evaluation_folder(
    subject: LoadedModel, request: EvaluationRequest, attacks: Suite | None = None
) -> Path | None:
    """Where the evidence goes: a folder that nothing else has taken, be it other weights, data or
    attacks, or another way of seeing the model; None for nowhere. ``attacks``: the suite, if it is
    there already."""
    if subject.evaluations is None:
        return None
    attacks = attacks or _attacks(subject, request)
    name = request.folder_name(subject.label, subject.threat.text, subject.images, attacks)
    identity = {**subject.identity, "data": subject.images.digest()}
    folder = own_folder(subject.evaluations / name, identity, subject.program)
    if evaluated(folder, "attacks") not in (None, descriptions(attacks)):
        # Of a suite of ours, by an earlier version.
        folder = folder.with_name(f"{folder.name}-{digest_of_attacks(attacks)}")
    seen = evaluated(folder, "acceleration")
    if seen is not None and (seen == OFF) != (request.acceleration == OFF):
        folder = folder.with_name(f"{folder.name}-acceleration-{request.acceleration}")
    return folder


def _attacks(subject: LoadedModel, request: EvaluationRequest) -> Suite:
    """The suite that ``request`` asks for, with the attacks that it adds."""
    return suite(
        request.suite,
        subject.threat,
        subject.classes,
        loss=request.loss,
        transfer=request.transfer,
    )


@random_state_kept()
def evaluate_run(
    run: Path,
    request: EvaluationRequest,
    *,
    checkpoint: str = "selected",
    data: str | None = None,
    data_root: str | None = None,
    progress: ProgressCallback | None = None,
) -> tuple[Path, EvaluationResult]:
    """Attack a run's weights on its test images; the evidence goes into the run's folder.

    ``data`` and ``data_root``: where the run's data lie now, if they were moved. Continues and
    reuses as ``evaluate_subject`` does.
    """
    request.check()
    source = ModelSource(run=run, checkpoint=checkpoint, data=data, data_root=data_root)
    folder, result = evaluate_subject(source.load(request.threat), request, progress)
    if folder is None:
        raise ConfigurationError(f"{run} has no place for evaluations")
    return folder, result


def evaluate_network(
    network: nn.Module,
    test: ImageData,
    *,
    threat: Ball,
    request: EvaluationRequest | None = None,
    attacks: Suite | None = None,
    folder: Path | None = None,
    device: torch.device,
    progress: ProgressCallback | None = None,
    identity: Mapping[str, str] | None = None,
) -> EvaluationResult:
    """Attack ``network`` on ``test`` or a fixed part of it: what every evaluation here comes to.

    ``attacks``: a suite in place of the one that ``request`` names. ``identity``: the network's
    ``model_identity``, where it is known already.
    """
    request = request or EvaluationRequest()
    plan = _planned(network, test, threat, request, attacks, folder, device, identity)
    _check_stored(network, plan, folder, request, device)
    per_block = request.batch_size * (1 if request.seconds else _CHUNKS_PER_BLOCK)
    result = evaluate_suite(
        network,
        in_order(_taken(plan.images, request), batch_size=per_block, device=device),
        plan.suite,
        view=plan.view,
        on_progress=progress,
        device=device,
        seconds=request.seconds,
        is_part=request.part is not None,
        **plan.settings,
    )
    if request.part is None:
        return result
    number, of = request.part
    note = (
        f"part {number} of {of}: when the others are done too, the same command without the part "
        "joins them; those of other machines, `lrat merge`"
    )
    return replace(result, notes=(*result.notes, note))


def _check_stored(
    network: nn.Module,
    plan: "_Plan",
    folder: Path | None,
    request: EvaluationRequest,
    device: torch.device,
) -> None:
    """Refuse to continue or read back what this very model would not have answered.

    Folders of another identity are left to those who name the difference.
    """
    if folder is None:
        return
    if not (is_there(folder / IDENTITY) or is_there(folder / PARTS)):
        plan.reading.begin(folder)
        keep_command(folder, request.typed)
        return
    identity = {"functions": None, **plan.settings["identity"], "attacks": descriptions(plan.suite)}
    if any(evaluated(folder, key) != value for key, value in identity.items()):
        return
    stored = stored_clean(folder, request.batch_size)
    if stored is not None:
        here = torch.isin(plan.images.index.cpu(), torch.from_numpy(stored.index))
        if bool(here.any()):
            batch = plan.images.batch(here.nonzero().flatten(), device)
            check_answers(network, batch, stored, folder)
    plan.reading.check(folder)


def begin_evaluation(
    network: nn.Module,
    test: ImageData,
    *,
    threat: Ball,
    request: EvaluationRequest,
    folder: Path,
    device: torch.device,
) -> int:
    """Give ``folder`` its identity, as ``evaluate_network`` would, and attack nothing.

    Whoever evaluates into it afterwards sees the model in the same way. Returns the number of
    images that the evaluation is of.
    """
    plan = _planned(network, test, threat, request, None, folder, device)
    _check_stored(network, plan, folder, request, device)
    begin(plan.suite, **plan.settings)
    return len(plan.images)


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """A request with everything in it chosen; ``settings`` are those that make the identity."""

    suite: Suite
    images: ImageData
    view: nn.Module
    settings: dict[str, Any]
    reading: Reading


def _planned(
    network: nn.Module,
    test: ImageData,
    threat: Ball,
    request: EvaluationRequest,
    attacks: Suite | None,
    folder: Path | None,
    device: torch.device,
    identity: Mapping[str, str] | None = None,
) -> _Plan:
    classes = build.check_fit(network, test)
    chosen = attacks or suite(
        request.suite, threat, classes, loss=request.loss, transfer=request.transfer
    )
    if chosen.threat != threat:
        raise SettingError(f"the suite attacks inside {chosen.threat}, but threat is {threat}")
    prepare_sources(chosen, test, device)
    images = stratified_subset(test, request.limit, seed=_LIMIT_SEED)
    move(network, device)
    view = build.view(request.acceleration, network, images, evaluated_choices(folder))
    own = own_functions(chosen)
    settings = {
        "seed": request.seed,
        "folder": folder,
        "identity": {
            **(identity or model_identity(network)),
            "data": test.digest(),
            "acceleration": str(view.choices) if isinstance(view, View) else OFF,
            **({"functions": own} if own else {}),
        },
        "noise": request.noise,
        "chunk": request.batch_size,
        "keep_images": request.keep_images,
        "gallery": chosen_gallery(request.gallery, images, test),
        "whole": images.index.cpu().numpy(),
    }
    return _Plan(
        suite=seen_alike(chosen, view, images),
        images=images,
        view=view,
        settings=settings,
        reading=Reading(network, test, device, {step.name: step.attack for step in chosen.steps}),
    )


def _taken(images: ImageData, request: EvaluationRequest) -> ImageData:
    """This part's images; in random order where the time may end before they do."""
    if request.part is not None:
        number, of = request.part
        if number > len(images):
            raise ConfigurationError(
                f"part {number}/{of}: there are {len(images)} images, divide them by fewer"
            )
        images = images.select(torch.arange(number - 1, len(images), of))
    if request.seconds is not None:
        drawn = Keyed(keys(_LIMIT_SEED, images.index)).uniform((len(images),), "order")
        images = images.select(drawn.argsort(stable=True))
    return images


def chosen_gallery(wanted: int | None, images: ImageData, test: ImageData) -> Gallery | None:
    """A fixed, seeded, class-stratified part of ``images``, of ``test``, that are attacked.

    ``wanted``: how many; these are then attacked again where their outcomes are known already. None
    is the usual number, of images that are attacked anyway; 0 is no gallery.
    """
    count = IMAGES if wanted is None else wanted
    if count == 0:
        return None
    some = stratified_subset(images, count, seed=_SEED)
    about = {
        "of": len(images),
        "test_images": len(test),
        "seed": _SEED,
        "class_names": list(test.class_names),
    }
    return Gallery(index=some.index.cpu().numpy(), about=about, fill=wanted is not None)

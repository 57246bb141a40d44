"""Evaluation of a run or of a user's model.

Suite, folder and view are chosen once, in an ``EvaluationPlan``, which one process or several run.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import nn

from lrat import hardware
from lrat.config import build
from lrat.config.fingerprints import own_functions
from lrat.data import ImageData, in_order, stratified_subset
from lrat.errors import ConfigurationError
from lrat.evaluation import EvaluationResult, Progress, Suite, evaluate_suite
from lrat.evaluation.evaluate import begin
from lrat.evaluation.forward import check_answers, stored_clean
from lrat.evaluation.storage.gallery import Gallery
from lrat.experiments.evaluation_request import EvaluationRequest, descriptions, digest_of_attacks
from lrat.files.names import IDENTITY, PARTS
from lrat.files.read import is_there
from lrat.hardware import move
from lrat.randomness import Keyed, keys, random_state_kept
from lrat.runs.folder import OFF, evaluated, keep_command
from lrat.runs.identity import Reading
from lrat.runs.sources import (
    LoadedModel,
    ModelSource,
    choices_in,
    evaluated_choices,
    own_folder,
)
from lrat.runs.suites import prepare_sources, seen_alike, suite

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
    """Attack a loaded model; the evidence goes into a folder of its own among its evaluations.

    The same request continues an evaluation that was broken off and reads a finished one back; for
    weights that changed since (a run that trains on) it begins another.
    """
    request.check()
    if request.devices is not None:
        raise ConfigurationError(
            "an open model stays in this process: evaluate_in_processes takes its source"
        )
    attacks = attacks_of(subject, request)
    folder = evaluation_folder(subject, request, attacks)
    with subject.threads():
        plan = plan_of(subject, request, attacks, folder, hardware.device(request.device))
        return folder, plan.run(progress)


def attacks_of(subject: LoadedModel, request: EvaluationRequest) -> Suite:
    """The suite of ``request``, with the attacks that it adds and the models of transfer attacks:
    nothing else in an evaluation of a loaded model makes them."""
    return suite(
        request.suite,
        subject.threat,
        subject.classes,
        loss=request.loss,
        transfer=request.transfer,
    )


def evaluation_folder(
    subject: LoadedModel, request: EvaluationRequest, attacks: Suite
) -> Path | None:
    """Where the evidence goes: a folder that nothing else has taken, be it other weights, data or
    attacks, or another way of seeing the model; None for nowhere."""
    if subject.evaluations is None:
        return None
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
        raise ConfigurationError(f"{run} has no folder for evaluations")
    return folder, result


@dataclass(frozen=True, kw_only=True)
class EvaluationPlan:
    """An evaluation with everything in it chosen: its ``images``, and the ``suite`` whose attacks
    see the model as ``view``. ``settings`` are those that make its identity."""

    network: nn.Module
    images: ImageData
    suite: Suite
    view: nn.Module
    request: EvaluationRequest
    folder: Path | None
    device: torch.device
    settings: Mapping[str, Any]
    reading: Reading

    def begin(self) -> None:
        """Give the folder its identity, as ``run`` does, and attack nothing: another process that
        plans afterwards sees the model in the same way."""
        self._check_stored()
        begin(self.suite, **self.settings)

    def run(
        self, progress: ProgressCallback | None = None, *, part: tuple[int, int] | None = None
    ) -> EvaluationResult:
        """Attack the images, or only a ``part`` (i, n) of them, by default the request's."""
        self._check_stored()
        request, part = self.request, part or self.request.part
        per_block = request.batch_size * (1 if request.seconds else _CHUNKS_PER_BLOCK)
        images = _taken(self.images, part, in_random_order=request.seconds is not None)
        result = evaluate_suite(
            self.network,
            in_order(images, batch_size=per_block, device=self.device),
            self.suite,
            view=self.view,
            on_progress=progress,
            device=self.device,
            seconds=request.seconds,
            is_part=part is not None,
            **self.settings,
        )
        if part is None:
            return result
        number, of = part
        note = (
            f"part {number} of {of}: when the others are done too, the same command without the "
            "part joins them; those of other machines, `lrat merge`"
        )
        return replace(result, notes=(*result.notes, note))

    def _check_stored(self) -> None:
        """Refuse to continue or read back what this very model would not have answered.

        A folder of another identity is left to ``begin``, which names the difference.
        """
        folder = self.folder
        if folder is None:
            return
        if not (is_there(folder / IDENTITY) or is_there(folder / PARTS)):
            self.reading.begin(folder)
            keep_command(folder, self.request.typed)
            return
        attacks = descriptions(self.suite)
        identity = {"functions": None, **self.settings["identity"], "attacks": attacks}
        if any(evaluated(folder, key) != value for key, value in identity.items()):
            return
        stored = stored_clean(folder, self.request.batch_size)
        if stored is not None:
            here = torch.isin(self.images.index.cpu(), torch.from_numpy(stored.index))
            if bool(here.any()):
                batch = self.images.batch(here.nonzero().flatten(), self.device)
                check_answers(self.network, batch, stored, folder)
        self.reading.check(folder)


def plan_of(
    subject: LoadedModel,
    request: EvaluationRequest,
    attacks: Suite,
    folder: Path | None,
    device: torch.device,
) -> EvaluationPlan:
    """The plan of an evaluation of a loaded model."""
    return plan_evaluation(
        subject.network,
        subject.images,
        attacks,
        request,
        folder=folder,
        device=device,
        identity=subject.identity,
    )


def plan_evaluation(
    network: nn.Module,
    test: ImageData,
    attacks: Suite,
    request: EvaluationRequest,
    *,
    folder: Path | None,
    device: torch.device,
    identity: Mapping[str, str],
) -> EvaluationPlan:
    """Choose the images and the view of a network that was checked to fit ``test``.

    ``identity``: the network's ``model_identity``.
    """
    prepare_sources(attacks, test, device)
    images = stratified_subset(test, request.limit, seed=_LIMIT_SEED)
    move(network, device)
    view = build.view(request.acceleration, network, images, evaluated_choices(folder))
    functions = own_functions(attacks)
    settings = {
        "seed": request.seed,
        "folder": folder,
        "identity": {
            **identity,
            "data": test.digest(),
            "acceleration": choices_in(view),
            **({"functions": functions} if functions else {}),
        },
        "noise": request.noise,
        "chunk": request.batch_size,
        "keep_images": request.keep_images,
        "gallery": chosen_gallery(request.gallery, images, test),
        "whole": images.index.cpu().numpy(),
    }
    return EvaluationPlan(
        network=network,
        images=images,
        suite=seen_alike(attacks, view, images),
        view=view,
        request=request,
        folder=folder,
        device=device,
        settings=settings,
        reading=Reading(network, test, device, {step.name: step.attack for step in attacks.steps}),
    )


def _taken(images: ImageData, part: tuple[int, int] | None, *, in_random_order: bool) -> ImageData:
    """This part's images; in random order where the time may end before they do."""
    if part is not None:
        number, of = part
        if number > len(images):
            raise ConfigurationError(
                f"part {number}/{of}: there are {len(images)} images, divide them by fewer"
            )
        images = images.select(torch.arange(number - 1, len(images), of))
    if in_random_order:
        drawn = Keyed(keys(_LIMIT_SEED, images.index)).uniform((len(images),), "order")
        images = images.select(drawn.argsort(stable=True))
    return images


def chosen_gallery(number: int | None, images: ImageData, test: ImageData) -> Gallery | None:
    """A fixed, seeded, class-stratified part of ``images``, of ``test``, that are attacked.

    ``number``: how many; these are then attacked again where their outcomes are known already. None
    is the usual number, of images that are attacked anyway; 0 is no gallery.
    """
    count = IMAGES if number is None else number
    if count == 0:
        return None
    some = stratified_subset(images, count, seed=_SEED)
    about = {
        "of": len(images),
        "test_images": len(test),
        "seed": _SEED,
        "class_names": list(test.class_names),
    }
    return Gallery(index=some.index.cpu().numpy(), about=about, fill=number is not None)

"""Evaluation of a run or of somebody's model."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import nn

from lrat.acceleration import View
from lrat.data import ImageData, in_order, stratified_subset
from lrat.errors import ConfigurationError, SettingError
from lrat.evaluation import EvaluationResult, Progress, Suite, evaluate_suite
from lrat.evaluation.evaluate import begin
from lrat.evaluation.running import NoiseKind
from lrat.experiments import build
from lrat.experiments.carried import prepare_sources
from lrat.experiments.folder import OFF, evaluated, evaluated_choices, threat_slug
from lrat.experiments.subjects import Source, Subject, weights_digest
from lrat.experiments.suites import check_suite, run_name, slug, suite
from lrat.experiments.users_code import code_of, file_digest
from lrat.randomness import Keyed, keys
from lrat.threat import Ball

_LIMIT_SEED = 0
_CHUNKS_PER_BLOCK = 4
"""So many chunks of images are gathered: what a stage of a cascade leaves of them fills the chunks
of the next one."""

ProgressCallback: TypeAlias = Callable[[Progress], None]


@dataclass(frozen=True, kw_only=True)
class EvaluationRequest:
    """What to attack with; ``threat`` None is the one trained for, ``limit`` None all images.

    ``suite``: a name or a YAML file. ``loss`` (``FILE.py:NAME``) adds adaptive attacks on it,
    ``transfer`` (run folders) attacks made on those models. ``seconds``: stop after so long.
    ``part`` = (i, n): only every n-th image, from the i-th of 1 ... n, as one of several processes
    or machines. ``noise``: ``sequential`` draws as AutoAttack's original does. ``devices``: so many
    processes on each of ``nodes`` machines (see ``processes.py``), None for this process alone.
    """

    suite: str = "quick"
    threat: str | None = None
    limit: int | None = None
    seed: int = 0
    batch_size: int = 256
    acceleration: Literal["auto", "off"] = "auto"
    device: str = "auto"
    loss: str | None = None
    transfer: tuple[Path, ...] = ()
    seconds: float | None = None
    keep_images: bool = False
    noise: NoiseKind = "keyed"
    part: tuple[int, int] | None = None
    devices: int | None = None
    nodes: int = 1

    def check(self) -> None:
        """Refuse what cannot be meant before anything is loaded."""
        check_suite(self.suite)
        self._check_devices(build.device(self.device))
        if self.part is not None and not 1 <= self.part[0] <= self.part[1]:
            raise ConfigurationError(
                f"part {self.part[0]}/{self.part[1]}: write i/n with i from 1 to n, as 2/4"
            )
        if self.part is not None and self.devices is not None:
            raise ConfigurationError(
                "part and devices both divide the images: give each machine a part, or spread all "
                "over processes"
            )
        if self.noise == "sequential" and (self.part or self.seconds or self.devices):
            raise ConfigurationError(
                "sequential noise depends on all images at once: leave out the part, the devices "
                "and the time"
            )

    def _check_devices(self, device: torch.device) -> None:
        if self.nodes < 1 or (self.nodes > 1 and self.devices is None):
            raise ConfigurationError(
                f"nodes {self.nodes}: at least one, and say with devices how many processes on each"
            )
        if self.devices is None:
            count = os.environ.get("WORLD_SIZE", "1")
            if "TORCHELASTIC_RUN_ID" in os.environ and count != "1" and not self.part:
                raise ConfigurationError(
                    f"torchrun started {count} processes that would all do the same: say with "
                    "devices how many there are on each machine"
                )
            return
        there = {"cpu": processors(), "cuda": torch.cuda.device_count()}.get(device.type, 1)
        what = "processors" if device.type == "cpu" else f"{device.type} devices"
        if not 1 <= self.devices <= there:
            raise ConfigurationError(
                f"devices {self.devices}: choose from 1 to {there}, the {what} that are here"
            )
        if device.index is not None:
            raise ConfigurationError(
                f"device {device} is one of them and devices takes {self.devices}: leave out the "
                "number, or the devices"
            )

    def folder_name(self, checkpoint: str, threat: str, test: ImageData) -> str:
        """``selected-quick-linf-8-255-10000``; what else was asked for is told where it was.

        A loss of one's own is worked on, so each version of its file has a folder of its own.
        """
        images = len(test) if self.limit is None else min(self.limit, len(test))
        name = f"{checkpoint}-{slug(self.suite)}-{threat_slug(threat)}-{images}"
        name += f"-seed-{self.seed}" if self.seed else ""
        name += f"-adaptive-{file_digest(self.loss)[:8]}" if self.loss else ""
        name += "".join(f"-from-{run_name(run)}" for run in self.transfer)
        name += "-images" if self.keep_images else ""
        return name if self.noise == "keyed" else f"{name}-{self.noise}"


def processors() -> int:
    """Those that this process may use: in a container or under a scheduler not all there are."""
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed is not None else os.cpu_count() or 1


def evaluate_subject(
    subject: Subject, request: EvaluationRequest, progress: ProgressCallback | None = None
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
    folder = evaluation_folder(subject, request)
    with subject.threads():
        result = evaluate_network(
            subject.network,
            subject.test,
            threat=build.threat(subject.threat),
            request=request,
            folder=folder,
            device=build.device(request.device),
            progress=progress,
        )
    return folder, result


def evaluation_folder(subject: Subject, request: EvaluationRequest) -> Path | None:
    """Where the evidence goes: a folder that no other weights (nor another version of a user's own
    model file) have taken; None for nowhere."""
    if subject.evaluations is None:
        return None
    name = request.folder_name(subject.label, subject.threat, subject.test)
    folder = subject.evaluations / name
    for key, own in _of_model(subject.network).items():
        if evaluated(folder, key) not in (None, own):
            folder = folder.with_name(f"{folder.name}-{own[:8]}")
    return folder


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
    source = Source(run=run, checkpoint=checkpoint, data=data, data_root=data_root)
    folder, result = evaluate_subject(source.open(request.threat), request, progress)
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
) -> EvaluationResult:
    """Attack ``network`` on ``test`` or a fixed part of it: what every evaluation here comes to.

    ``attacks``: a suite in place of the one that ``request`` names.
    """
    request = request or EvaluationRequest()
    plan = _planned(network, test, threat, request, attacks, folder, device)
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
    begin(plan.suite, **plan.settings)
    return len(plan.images)


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """A request with everything in it chosen; ``settings`` are those that make the identity."""

    suite: Suite
    images: ImageData
    view: nn.Module
    settings: dict[str, Any]


def _planned(
    network: nn.Module,
    test: ImageData,
    threat: Ball,
    request: EvaluationRequest,
    attacks: Suite | None,
    folder: Path | None,
    device: torch.device,
) -> _Plan:
    classes = build.check_fit(network, test)
    chosen = attacks or suite(
        request.suite, threat, classes, loss=request.loss, transfer=request.transfer
    )
    if chosen.threat != threat:
        raise SettingError(f"the suite attacks inside {chosen.threat}, but threat is {threat}")
    prepare_sources(chosen, test, device)
    images = stratified_subset(test, request.limit, seed=_LIMIT_SEED)
    network.to(device)
    view = build.view(request.acceleration, network, images, evaluated_choices(folder))
    settings = {
        "seed": request.seed,
        "folder": folder,
        "identity": _identity(network, test, view),
        "noise": request.noise,
        "chunk": request.batch_size,
        "keep_images": request.keep_images,
        "whole": images.index.cpu().numpy(),
    }
    return _Plan(suite=chosen, images=images, view=view, settings=settings)


def _identity(network: nn.Module, test: ImageData, view: nn.Module) -> Mapping[str, str]:
    return {
        **_of_model(network),
        "data": test.digest(),
        "acceleration": str(view.choices) if isinstance(view, View) else OFF,
    }


def _of_model(network: nn.Module) -> dict[str, str]:
    """What tells a model from others: its weights, and the code of a user's own file."""
    code = code_of(network)
    weights = {"model": weights_digest(network.state_dict())}
    return weights if code is None else {**weights, "code": code}


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

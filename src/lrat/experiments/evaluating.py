"""Evaluation of a run or of somebody's model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

import torch
from torch import nn

from lrat.acceleration import View
from lrat.data import ImageData, in_order, stratified_subset
from lrat.errors import ConfigurationError, SettingError
from lrat.evaluation import EvaluationResult, Progress, Suite, evaluate_suite
from lrat.evaluation.running import NoiseKind
from lrat.experiments import build
from lrat.experiments.folder import OFF, evaluated, evaluated_choices, threat_slug
from lrat.experiments.subjects import Source, Subject, weights_digest
from lrat.experiments.suites import check_suite, slug, suite
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
    or machines. ``noise``: ``sequential`` draws as AutoAttack's original does.
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

    def check(self) -> None:
        """Refuse what cannot be meant before anything is loaded."""
        check_suite(self.suite)
        build.device(self.device)
        if self.part is not None and not 1 <= self.part[0] <= self.part[1]:
            raise ConfigurationError(
                f"part {self.part[0]}/{self.part[1]}: write i/n with i from 1 to n, as 2/4"
            )
        if self.noise == "sequential" and (self.part or self.seconds):
            raise ConfigurationError(
                "sequential noise depends on all images at once: leave out the part and the time"
            )

    def folder_name(self, checkpoint: str, threat: str, test: ImageData) -> str:
        """``selected-quick-linf-8-255-10000``; what else was asked for is told where it was."""
        images = len(test) if self.limit is None else min(self.limit, len(test))
        name = f"{checkpoint}-{slug(self.suite)}-{threat_slug(threat)}-{images}"
        name += f"-seed-{self.seed}" if self.seed else ""
        name += "-adaptive" if self.loss else ""
        name += "".join(f"-from-{Path(run).name}" for run in self.transfer)
        name += "-images" if self.keep_images else ""
        return name if self.noise == "keyed" else f"{name}-{self.noise}"


def evaluate_subject(
    subject: Subject, request: EvaluationRequest, progress: ProgressCallback | None = None
) -> tuple[Path | None, EvaluationResult]:
    """Attack a subject; the evidence goes into a folder of its own among its evaluations.

    The same request continues an evaluation that was broken off and reads a finished one back; for
    weights that changed since (a run that trains on) it begins another.
    """
    request.check()
    folder = None
    if subject.evaluations is not None:
        name = request.folder_name(subject.label, subject.threat, subject.test)
        folder = subject.evaluations / name
        digest = weights_digest(subject.network.state_dict())
        if evaluated(folder, "model") not in (None, digest):
            folder = folder.with_name(f"{folder.name}-{digest[:8]}")
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
    classes = build.check_fit(network, test)
    chosen = attacks or suite(
        request.suite, threat, classes, loss=request.loss, transfer=request.transfer
    )
    if chosen.threat != threat:
        raise SettingError(f"the suite attacks inside {chosen.threat}, but threat is {threat}")
    images = stratified_subset(test, request.limit, seed=_LIMIT_SEED)
    network.to(device)
    view = build.view(request.acceleration, network, images, evaluated_choices(folder))
    per_block = request.batch_size * (1 if request.seconds else _CHUNKS_PER_BLOCK)
    result = evaluate_suite(
        network,
        in_order(_taken(images, request), batch_size=per_block, device=device),
        chosen,
        seed=request.seed,
        view=view,
        folder=folder,
        identity=_identity(network, test, view),
        on_progress=progress,
        device=device,
        chunk=request.batch_size,
        noise=request.noise,
        seconds=request.seconds,
        keep_images=request.keep_images,
        is_part=request.part is not None,
    )
    if request.part is None:
        return result
    number, of = request.part
    note = (
        f"part {number} of {of}: when the others are done too, the same command without the part "
        "joins them"
    )
    return replace(result, notes=(*result.notes, note))


def _identity(network: nn.Module, test: ImageData, view: nn.Module) -> Mapping[str, str]:
    return {
        "model": weights_digest(network.state_dict()),
        "data": test.digest(),
        "acceleration": str(view.choices) if isinstance(view, View) else OFF,
    }


def _taken(images: ImageData, request: EvaluationRequest) -> ImageData:
    """This part's images; in random order where the time may end before they do."""
    if request.part is not None:
        number, of = request.part
        images = images.select(torch.arange(number - 1, len(images), of))
    if request.seconds is not None:
        drawn = Keyed(keys(_LIMIT_SEED, images.index)).uniform((len(images),), "order")
        images = images.select(drawn.argsort(stable=True))
    return images

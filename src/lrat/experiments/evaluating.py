"""Evaluation of a run or of somebody's model, and comparison of two."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from lrat.acceleration import View
from lrat.data import ImageData, in_order, stratified_subset
from lrat.errors import ConfigurationError, RunFolderError, SettingError
from lrat.evaluation import (
    Comparison,
    EvaluationResult,
    Progress,
    Suite,
    compare,
    evaluate_suite,
)
from lrat.experiments import build, catalogue
from lrat.experiments.config import DataSettings, load_config
from lrat.experiments.folder import (
    EVALUATIONS,
    OFF,
    evaluated,
    evaluated_choices,
    read_config,
    threat_slug,
)
from lrat.experiments.run import fill, load_weights, read_safetensors
from lrat.experiments.users_code import model_from_file
from lrat.threat import Ball

_LIMIT_SEED = 0

ProgressCallback: TypeAlias = Callable[[Progress], None]


@dataclass(frozen=True, kw_only=True)
class EvaluationRequest:
    """What to attack with; ``threat`` None is the one trained for, ``limit`` None all images."""

    suite: str = "quick"
    threat: str | None = None
    limit: int | None = None
    seed: int = 0
    batch_size: int = 256
    acceleration: Literal["auto", "off"] = "auto"
    device: str = "auto"

    def folder_name(self, checkpoint: str, threat: str, test: ImageData) -> str:
        """``selected-quick-linf-8-255-10000``; the seed is told where it is not 0."""
        images = len(test) if self.limit is None else min(self.limit, len(test))
        name = f"{checkpoint}-{self.suite}-{threat_slug(threat)}-{images}"
        return name if self.seed == 0 else f"{name}-seed-{self.seed}"


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

    The same request continues an evaluation that was broken off and reads a finished one back; for
    weights that changed since (a run that trains on) it begins another. ``data`` and ``data_root``:
    where the run's data lie now, if they were moved.
    """
    config = read_config(run)
    moved = {"name": data, "root": data_root}
    place = config.data.model_copy(update={k: v for k, v in moved.items() if v is not None})
    config = config.model_copy(update={"data": place})
    catalogue.check_suite_name(request.suite)
    build.device(request.device)  # refused before anything is loaded
    splits = build.data(config.data, config.seed)
    network = build.model(config, splits.test.shape, splits.test.classes)
    weights = load_weights(run, config, checkpoint)
    fill(network, weights, f"{run} ({checkpoint})")
    threat = catalogue.canonical_threat(request.threat or config.threat)
    folder = run / EVALUATIONS / request.folder_name(checkpoint, threat, splits.test)
    digest = weights_digest(network.state_dict())
    if evaluated(folder, "model") not in (None, digest):
        folder = folder.with_name(f"{folder.name}-{digest[:8]}")
    with build.threads(config):
        result = _answer(request, network, splits.test, threat, folder, progress)
    return folder, result


def evaluate_file(
    request: EvaluationRequest,
    *,
    model_file: str | None,
    run: Path | None = None,
    weights: Path | None = None,
    data: str | None = None,
    data_root: str | None = None,
    out: Path | None = None,
    progress: ProgressCallback | None = None,
) -> tuple[Path | None, EvaluationResult]:
    """Attack somebody's model: ``FILE.py:FUNCTION``, its weights, and data by name."""
    if model_file is None or run is not None:
        raise ConfigurationError(
            "name either a run folder, whose model and data are known, or --model-file "
            "FILE.py:FUNCTION with --data, --weights and --out"
        )
    if data is None:
        raise ConfigurationError("--model-file needs --data, as npz:test.npz or cifar10")
    config = load_config(
        {"data": {"name": data, "root": data_root}, "model": {"name": model_file}},
        {} if request.threat is None else {"threat": request.threat},
    )
    catalogue.check_suite_name(request.suite)
    build.device(request.device)  # refused before anything is loaded
    settings = DataSettings(name=data, root=data_root, validation=0)
    splits = build.data(settings, seed=0)
    network = model_from_file(model_file, seed=0)
    if weights is not None:
        fill(network, read_safetensors(weights), str(weights))
    folder = None
    if out is not None:
        folder = out / request.folder_name("model", config.threat, splits.test)
    result = _answer(request, network, splits.test, config.threat, folder, progress)
    return folder, result


def _answer(
    request: EvaluationRequest,
    network: nn.Module,
    test: ImageData,
    threat: str,
    folder: Path | None,
    progress: ProgressCallback | None,
) -> EvaluationResult:
    return evaluate_network(
        network,
        test,
        threat=build.threat(threat),
        suite=request.suite,
        limit=request.limit,
        seed=request.seed,
        batch_size=request.batch_size,
        acceleration=request.acceleration,
        folder=folder,
        device=build.device(request.device),
        progress=progress,
    )


def compare_runs(first: Path, second: Path, *, suite: str | None = None) -> Comparison:
    """Paired tests of two runs (or two evaluation folders) on the images both were attacked on."""
    return compare(_finished(first, suite), _finished(second, suite))


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes and bytes: the identity of a model's weights."""
    sha = hashlib.sha256()
    for name in sorted(weights):
        value = weights[name].detach().cpu().contiguous()
        sha.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        sha.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def evaluate_network(
    network: nn.Module,
    test: ImageData,
    *,
    threat: Ball,
    suite: str | Suite,
    limit: int | None = None,
    seed: int = 0,
    batch_size: int = 256,
    acceleration: str = "auto",
    folder: Path | None = None,
    device: torch.device,
    progress: ProgressCallback | None = None,
) -> EvaluationResult:
    """Attack ``network`` on ``test`` or a fixed part of it: what every evaluation here comes to."""
    classes = build.check_fit(network, test)
    chosen = build.suite(suite, threat, classes) if isinstance(suite, str) else suite
    if chosen.threat != threat:
        raise SettingError(f"the suite attacks inside {chosen.threat}, but threat is {threat}")
    images = stratified_subset(test, limit, seed=_LIMIT_SEED)
    network.to(device)
    view = build.view(acceleration, network, images, evaluated_choices(folder))
    return evaluate_suite(
        network,
        in_order(images, batch_size=batch_size, device=device),
        chosen,
        seed=seed,
        view=view,
        folder=folder,
        identity={
            "model": weights_digest(network.state_dict()),
            "data": test.digest(),
            "acceleration": str(view.choices) if isinstance(view, View) else OFF,
        },
        on_progress=progress,
        device=device,
    )


def _finished(place: Path, suite: str | None) -> EvaluationResult:
    """The evaluation at ``place``: the folder itself, or the one in a run's folder."""
    if (place / "summary.json").is_file():
        return EvaluationResult.from_folder(place)
    parent = place / EVALUATIONS
    places = [*parent.glob("*/summary.json"), *place.glob("*/summary.json")]
    found = sorted(path.parent for path in places)
    if suite is not None:
        catalogue.check_suite_name(suite)
        found = [path for path in found if f"-{suite}-" in path.name]
    if not place.is_dir():
        raise RunFolderError(f"{place} is no folder: name a run or one of its evaluations")
    if not found:
        what, how = (f"{suite} evaluation", f" --suite {suite}") if suite else ("evaluation", "")
        raise RunFolderError(f"{place} holds no finished {what}: run `lrat evaluate {place}{how}`")
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        how = "its path" if suite else "--suite or its path"
        raise RunFolderError(f"{place} holds several evaluations: choose one by {how}: {names}")
    return EvaluationResult.from_folder(found[0])

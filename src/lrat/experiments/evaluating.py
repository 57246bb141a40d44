"""Evaluation of a run or of somebody's model, and comparison of two."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor, nn

from lrat.data import ImageData, in_order, stratified_subset
from lrat.errors import ConfigurationError, RunFolderError
from lrat.evaluation import (
    Comparison,
    EvaluationResult,
    Progress,
    compare,
    evaluate_suite,
)
from lrat.experiments import build, catalogue
from lrat.experiments.config import DataSettings, load_config
from lrat.experiments.folder import EVALUATIONS, read_config, threat_slug
from lrat.experiments.run import fill, load_weights, read_safetensors

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
    device: str = "auto"

    def folder_name(self, checkpoint: str, threat: str, images: int) -> str:
        """``selected-quick-linf-8-255-10000``; the seed is told where it is not 0."""
        name = f"{checkpoint}-{self.suite}-{threat_slug(threat)}-{images}"
        return name if self.seed == 0 else f"{name}-seed-{self.seed}"


def evaluate_run(
    run: Path,
    request: EvaluationRequest,
    *,
    checkpoint: str = "selected",
    progress: ProgressCallback | None = None,
) -> tuple[Path, EvaluationResult]:
    """Attack a run's weights on its test images; the evidence goes into the run's folder.

    The same request continues an evaluation that was broken off and reads a finished one back.
    """
    config = read_config(run)
    catalogue.check_suite_name(request.suite)
    place = build.device(request.device)
    splits = build.data(config.data, config.seed)
    network = build.model(config, splits.test.shape, splits.test.classes)
    weights = load_weights(run, config, checkpoint)
    fill(network, weights, f"{run} ({checkpoint})")
    threat = request.threat or config.threat
    images = stratified_subset(splits.test, request.limit, seed=_LIMIT_SEED)
    folder = run / EVALUATIONS / request.folder_name(checkpoint, threat, len(images))
    with build.threads(config):
        result = _evaluate(
            network.to(place),
            weights,
            splits.test,
            images,
            request,
            threat,
            folder,
            place,
            progress,
        )
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
    place = build.device(request.device)
    settings = DataSettings(name=data, root=data_root, validation=0)
    splits = build.data(settings, request.seed)
    network = build.from_file(model_file, request.seed)
    if weights is not None:
        fill(network, read_safetensors(weights), str(weights))
    images = stratified_subset(splits.test, request.limit, seed=_LIMIT_SEED)
    folder = None
    if out is not None:
        folder = out / request.folder_name("model", config.threat, len(images))
    state = network.state_dict()
    result = _evaluate(
        network.to(place),
        state,
        splits.test,
        images,
        request,
        config.threat,
        folder,
        place,
        progress,
    )
    return folder, result


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


def _evaluate(
    network: nn.Module,
    weights: Mapping[str, Tensor],
    test: ImageData,
    images: ImageData,
    request: EvaluationRequest,
    threat: str,
    folder: Path | None,
    device: torch.device,
    progress: ProgressCallback | None,
) -> EvaluationResult:
    classes = build.check_fit(network, images)
    return evaluate_suite(
        network,
        in_order(images, batch_size=request.batch_size, device=device),
        build.suite(request.suite, build.threat(threat), classes),
        seed=request.seed,
        folder=folder,
        identity={"model": weights_digest(weights), "data": test.digest()},
        on_progress=progress,
        device=device,
    )


def _finished(place: Path, suite: str | None) -> EvaluationResult:
    """The evaluation at ``place``: the folder itself, or the one in a run's folder."""
    if (place / "summary.json").is_file():
        return EvaluationResult.from_folder(place)
    parent = place / EVALUATIONS
    found = sorted(path.parent for path in parent.glob("*/summary.json"))
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

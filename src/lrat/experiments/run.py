"""One training run: configuration in, a folder with everything about it out."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lrat.acceleration import View, describe
from lrat.data import ImageData, InMemory, Splits, in_order, stratified_subset
from lrat.errors import CheckpointError, ConfigurationError, ModelError
from lrat.evaluation import Suite, evaluate_suite
from lrat.experiments import build
from lrat.experiments.config import RunConfig
from lrat.experiments.environment import environment
from lrat.experiments.folder import (
    CONFIG,
    CONTENTS,
    ENVIRONMENT,
    MODEL,
    WEIGHTS,
    check_contents,
    claim,
    has_begun,
    record_choices,
    recorded_choices,
)
from lrat.experiments.lock import locked
from lrat.experiments.users_code import file_digest, names_a_file
from lrat.files import write_atomically, write_json, write_text
from lrat.training import Progress, Storage, TrainingResult, Watch, train
from lrat.training.state import reported
from lrat.training.watch import Silent, tell

CLEAN_SUBSET = 512
_EVALUATION_BATCH = 256


@dataclass(frozen=True, kw_only=True)
class TrainedRun:
    """A finished run: its folder, its epochs, and which of them it reports."""

    config: RunConfig
    folder: Path
    result: TrainingResult

    def __str__(self) -> str:
        """Two lines: what was reported and where it lies."""
        result = self.result
        if result.selected_value is None:
            chosen = f"the last of {len(result.records)} epochs"
        else:
            chosen = (
                f"epoch {result.selected_epoch} of {len(result.records)}, selected by "
                f"{_selection_key(self.config)} on held-out images: "
                f"{100 * result.selected_value:.2f} %"
            )
        return f"{self.config.method.name} on {self.config.data.name}: {chosen}\n{self.folder}"


def storage(config: RunConfig, folder: Path) -> Storage:
    """Where the run's metrics, checkpoints and recorded weights lie."""
    return Storage(
        folder=folder,
        identity=config.digest(),
        keep_epochs=config.training.keep_epochs,
        record_epochs=config.training.record_weights,
    )


def train_run(config: RunConfig, folder: Path, *, progress: Progress | None = None) -> TrainedRun:
    """Train what ``config`` says into ``folder``, or continue what is there.

    Everything that can be refused is refused before the first file is written. Raises the errors of
    ``lrat.errors``; ``Interrupted`` after SIGINT or SIGTERM, when the run has saved itself.
    """
    with build.threads(config), locked(folder):
        return _train_run(config, folder, progress)


def _train_run(config: RunConfig, folder: Path, progress: Progress | None) -> TrainedRun:
    claim(folder, config)
    place = build.device(config.device)
    splits = build.data(config.data, config.seed)
    images = splits.training()
    network = build.model(config, images.shape, images.classes)
    build.check_fit(network, images)
    build.check_training(network, images, config.training.batch_size)
    objective = build.objective(config)
    source = InMemory(
        images,
        batch_size=config.training.batch_size,
        seed=config.seed,
        augmentation=build.augmentation(config.data),
        device=place,
    )
    optimisation = build.optimisation(config)
    optimisation.optimizer(network)  # refuses a network without anything to train
    view = build.view(config.acceleration, network.to(place), images, recorded_choices(folder))
    watch = _watch(config, splits, view, place, progress)
    check_contents(folder, contents(config, splits))
    if not has_begun(folder):
        write_json(folder / ENVIRONMENT, environment(place))
        write_json(folder / CONTENTS, contents(config, splits))
        record_choices(folder, view)
        write_text(folder / CONFIG, config.to_yaml())
        if isinstance(view, View):
            seen = f"attacks see the model in {describe(view)}"
            tell(watch.progress, seen, level=logging.INFO)
    result = train(
        network,
        source,
        objective,
        optimisation,
        watch=watch,
        storage=storage(config, folder),
        view=lambda model: view,
        device=place,
    )
    _save_model(folder, result, images)
    return TrainedRun(config=config, folder=folder, result=result)


def contents(config: RunConfig, splits: Splits) -> dict[str, str]:
    """Digests of what the configuration only names: the images, and the file of a user's model."""
    found = {
        part: data.digest()
        for part in ("train", "validation", "test")
        if (data := getattr(splits, part)) is not None
    }
    if names_a_file(config.model.name):
        found["model file"] = file_digest(config.model.name)
    return found


def accuracy_measure(
    data: ImageData, suite: Suite, *, seed: int, view: nn.Module, device: torch.device
) -> Callable[[nn.Module], Mapping[str, float]]:
    """A measure for training to call: accuracy on ``data``, natural and under each attack.

    ``view``: what attacks see, refreshed from the model at each call.
    """

    def measure(model: nn.Module) -> Mapping[str, float]:
        if isinstance(view, View):
            view.refresh()
        batches = in_order(data, batch_size=_EVALUATION_BATCH, device=device)
        result = evaluate_suite(model, batches, suite, seed=seed, view=view, device=device)
        return {name: share.value for name, share in result.accuracy.items()}

    return measure


def load_weights(folder: Path, config: RunConfig, checkpoint: str) -> dict[str, Tensor]:
    """The weights called ``selected``, ``last`` or ``epoch-N``, on the CPU."""
    if checkpoint == "selected" and (folder / WEIGHTS).is_file():
        try:
            return read_safetensors(folder / WEIGHTS)
        except CheckpointError as error:
            raise CheckpointError(
                f"{error}; remove it and give the run's `lrat train` command again, which writes "
                "it anew"
            ) from None
    return reported(storage(config, folder).checkpoints().load(checkpoint))


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Tensors by name; CheckpointError for a file that is missing or not what its name says."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise CheckpointError(f"{path} does not exist")
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is no safetensors file: {error}") from None


def fill(network: nn.Module, weights: Mapping[str, Tensor], origin: str) -> None:
    """Load weights; ModelError in one line where they do not fit the network."""
    own = network.state_dict()
    kind = type(network).__name__
    for what, names in (
        ("lacks", [name for name in own if name not in weights]),
        ("holds unknown", [name for name in weights if name not in own]),
    ):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ModelError(f"{origin} does not fit {kind}: it {what} {names[0]}{more}")
    for name, value in own.items():
        if value.shape != weights[name].shape:
            raise ModelError(
                f"{origin} does not fit {kind}: {name} is {list(weights[name].shape)} there and "
                f"{list(value.shape)} in the model"
            )
    network.load_state_dict(weights)


def _selection_key(config: RunConfig) -> str:
    return f"pgd-{config.training.validation_steps}"


def _watch(
    config: RunConfig,
    splits: Splits,
    view: nn.Module,
    device: torch.device,
    progress: Progress | None,
) -> Watch:
    """What the run looks at while it trains."""
    ball = build.threat(config.threat)
    training, validation = config.training, splits.validation
    if training.selection == "robust" and validation is None:
        raise ConfigurationError(
            "training.selection=robust needs held-out images: set data.validation above 0, or "
            "training.selection=last"
        )
    subset = stratified_subset(splits.training(), CLEAN_SUBSET, seed=0)
    validate = monitor = None
    if validation is not None:
        suite = build.attacks_as_suite((_selection_key(config),), ball)
        validate = accuracy_measure(validation, suite, seed=config.seed, view=view, device=device)
    if training.monitor.attacks:
        watched = splits.test if training.monitor.split == "test" else validation
        if watched is None:
            raise ConfigurationError("training.monitor.split=validation: data.validation is 0")
        watched = stratified_subset(watched, training.monitor.limit, seed=0)
        suite = build.attacks_as_suite(training.monitor.attacks, ball)
        monitor = accuracy_measure(watched, suite, seed=config.seed, view=view, device=device)
    return Watch(
        clean=tuple(in_order(subset, batch_size=_EVALUATION_BATCH, device=device)),
        validate=validate,
        select_by=_selection_key(config) if training.selection == "robust" else None,
        monitor=monitor,
        monitor_every=training.monitor.every,
        progress=progress or Silent(),
    )


def _save_model(folder: Path, result: TrainingResult, images: ImageData) -> None:
    from safetensors.torch import save

    # Copies: tied weights share memory, which the format refuses.
    tensors = {name: value.clone().contiguous() for name, value in result.weights.items()}
    write_atomically(folder / WEIGHTS, lambda stream: stream.write(save(tensors)))
    about: dict[str, Any] = {
        "selected_epoch": result.selected_epoch,
        "selected_value": result.selected_value,
        "epochs": len(result.records),
        "shape": list(images.shape),
        "class_names": list(images.class_names),
        "parameters": sum(value.numel() for value in tensors.values()),
    }
    write_json(folder / MODEL, about)

"""Configuration to objects: the only place where names become threats, methods, data and models."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lrat import methods
from lrat.acceleration import Choices, accelerate
from lrat.config import catalogue
from lrat.config.catalogue import names_users_code
from lrat.config.settings import DataSettings, MethodSettings, RunConfig
from lrat.config.user_code import model_from_file
from lrat.data import CropAndFlip, ImageData, Splits
from lrat.errors import (
    ConfigurationError,
    ModelError,
    NonFiniteError,
    SettingError,
)
from lrat.evaluation import acceptance, examination
from lrat.hardware import device_of
from lrat.methods import Simulated
from lrat.objectives import Objective, Phases
from lrat.randomness import seeded_randomness
from lrat.text import in_one_line, shown
from lrat.threat import as_ball
from lrat.training import Optimisation
from lrat.training.schedules import Piecewise, Schedule, paper_drops
from lrat.training.schedules import schedule as named_schedule
from lrat.types import Batch

_PROBE_IMAGES = 128
_NEAR = 8
"""How far from a batch size that fails others are looked for, and how often it is halved."""


_ARGUMENTS = {"gairat_lambda": "lambda_", "gairat_begin": "begin", "trades_beta": "beta"}
"""Settings of methods that their functions call otherwise; the others are ``LocalSettings``."""


def method(name: str, simulated: Simulated, settings: MethodSettings) -> Objective:
    """The objective of the method called ``name``, with those of the ``settings`` that it takes."""
    row = catalogue.METHODS[name]
    taken = {key: getattr(settings, key) for key in row.takes}
    named = {name: taken.pop(key) for key, name in _ARGUMENTS.items() if key in taken}
    if taken:
        named["settings"] = methods.LocalSettings(**taken)
    made: Objective = row.build(simulated, **named)
    return made


def objective(config: RunConfig) -> Objective:
    """The method's objective under the run's threat."""
    simulated = Simulated(threat=as_ball(config.threat), **config.attack.model_dump())
    takes = set(catalogue.METHODS[config.method.name].takes)
    changed = config.method.model_dump(exclude_defaults=True).keys() - {"name"}
    idle = sorted(changed - takes)
    if idle:
        used = ", ".join(sorted(takes)) or "no setting"
        raise ConfigurationError(
            f"method.{idle[0]} does nothing in {config.method.name!r}, which uses {used}: leave it "
            "out or choose another method"
        )
    plain = method(config.method.name, simulated, config.method)
    return methods.smoothed(plain, config.training.label_smoothing)


def data(settings: DataSettings, seed: int) -> Splits:
    """The data set, split: ``seed`` decides the held-out images and, for digits, the test fold."""
    row = catalogue.data_row(settings.name)
    places = {"root": settings.root, "path": settings.name.removeprefix("npz:")}
    splits: Splits = row.build(
        seed=seed,
        validation=settings.validation,
        train_limit=settings.train_limit,
        **{name: places[name] for name in row.takes},
    )
    return splits


def augmentation(settings: DataSettings) -> CropAndFlip | None:
    """Crop and flip where asked for, by default for CIFAR-10 alone."""
    by_default = catalogue.data_row(settings.name).augment
    return CropAndFlip() if (by_default if settings.augment is None else settings.augment) else None


def model(config: RunConfig, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """A freshly initialised network for images (C, H, W), its weights drawn from the run's seed."""
    name = config.model.name
    if names_users_code(name):
        return model_from_file(name, config.seed)
    row = catalogue.MODELS[name]
    channels, height, width = shape
    chosen: dict[str, int] = {"channels": channels, "classes": classes}
    if config.model.width is not None:
        chosen["width"] = config.model.width
    if "size" in row.takes:
        if height != width:
            raise ConfigurationError(
                f"model {name!r} needs square images, {config.data.name!r} has {height}x{width}: "
                "use resnet-18 or a model of your own"
            )
        chosen["size"] = height
    with seeded_randomness(config.seed):
        try:
            network: nn.Module = row.build(**chosen)
        except (OverflowError, RuntimeError, TypeError) as error:
            # Of a width beyond what a tensor or the memory holds.
            raise ConfigurationError(
                f"model {name} of width {config.model.width} cannot be made: {in_one_line(error)}"
            ) from None
    return network


def check_fit(network: nn.Module, images: ImageData) -> int:
    """Two images and one through the network before anything is written; its number of classes.

    ``ModelError`` as ``evaluation.acceptance.check_forward`` says.
    """
    two = _first(network, images, 2).images
    smallest = int(images.labels.min())
    return acceptance.check_forward(
        network, two, classes=images.classes, data=images.name, smallest=smallest
    )


def check_training(
    network: nn.Module,
    images: ImageData,
    batch_size: int,
    *,
    classes: int,
    processes: int = 1,
    objective: Objective | None = None,
) -> None:
    """The smallest batch of an epoch, or the smallest share that one of several ``processes`` has
    of it, through the network in train mode; it is as before afterwards.

    ``classes``: what ``check_fit`` found. ``objective``: what is trained with; one that is not ours
    may read in train mode whatever the network answers. ``ModelError`` as
    ``evaluation.acceptance.check_training`` says.
    """

    def batches(size: int) -> list[Tensor]:
        """The smallest and the largest of an epoch."""
        last = min(len(images) % size or size, len(images))
        counts = (last, min(size, len(images)))
        return [_first(network, images, max(1, count // processes)).images for count in counts]

    smallest = batches(batch_size)[0]
    nearest = sorted(range(1, 2 * batch_size), key=lambda size: abs(size - batch_size))
    tried = [*nearest[1 : 2 * _NEAR], *(batch_size >> power for power in range(1, _NEAR))]
    share = "a process's share of " if processes > 1 else ""
    try:
        acceptance.check_training(
            network,
            smallest,
            ((size, batches(size)) for size in tried if size),
            classes=classes,
            what=f"{share}the last batch of an epoch, {len(smallest)} of {len(images)} images",
            reads_logits=_is_ours(objective),
        )
    except ModelError:
        examined(network, images)  # where it takes few images in eval mode too, this says so
        raise


def _is_ours(objective: Objective | None) -> bool:
    """Whether it is, in all its phases: then it takes the logits out of what a model answers."""
    if isinstance(objective, Phases):
        return all(_is_ours(part) for _, part in objective.starts)
    return objective is None or type(objective).__module__.startswith("lrat.")


def examined(network: nn.Module, images: ImageData) -> tuple[str, ...]:
    """What is odd about the network on the first of these images, in sentences.

    Nothing where its logits are NaN or infinite: whoever trains or attacks it says where.
    """
    batch = _first(network, images, _PROBE_IMAGES)
    try:
        with acceptance.limit_said(network, batch.images):
            return examination.examine(network, batch.images, batch.index.cpu().numpy())
    except NonFiniteError:
        return ()


def _first(network: nn.Module, images: ImageData, count: int) -> Batch:
    """So many of the first images, where the network lies."""
    device = device_of(network) or torch.device("cpu")
    return images.batch(slice(count)).to(device)


def optimisation(config: RunConfig) -> Optimisation:
    """The schedule and the optimiser's settings."""
    training = config.training
    if not training.ema_warm_up and training.ema is None:
        raise ConfigurationError(
            "training.ema_warm_up does nothing without training.ema: set that too, as "
            "training.ema=0.999, or leave it out"
        )
    for name in ("keep_epochs", "record_weights"):
        epochs = getattr(training, name)
        if never := [epoch for epoch in epochs if not 1 <= epoch <= training.epochs]:
            raise ConfigurationError(
                f"training.{name}={list(epochs)}: {training.epochs} epochs are trained, so there "
                f"will be no epoch {never[0]}: name epochs from 1 to {training.epochs}"
            )
    drops = training.drops if training.drops != paper_drops() else None
    chosen = schedule(training.schedule.model_dump(exclude_none=True), drops)
    return Optimisation(
        epochs=training.epochs,
        schedule_epochs=training.schedule_epochs,
        lr=training.lr,
        momentum=training.momentum,
        nesterov=training.nesterov,
        weight_decay=training.weight_decay,
        drops=training.drops if chosen is None else paper_drops(),
        schedule=chosen,
        decay=training.decay,
        ema=training.ema,
        ema_warm_up=training.ema_warm_up,
        precision=training.precision,
        non_finite=training.non_finite,
        clip=training.clip,
        accumulate=training.accumulate,
        seed=config.seed,
    )


def schedule(
    wanted: Schedule | str | Mapping[str, Any] | None, drops: Mapping[float, float] | None
) -> Schedule | None:
    """A schedule from what a user may write; None for the plain drops.

    ``wanted``: a name, ``{"name": ..., setting: value}``, or a schedule itself. ``drops`` as they
    were given, None where they were not. SettingError for settings that are unknown or do nothing.
    """
    if isinstance(wanted, str):
        wanted = {"name": wanted}
    if isinstance(wanted, Mapping):
        settings = dict(wanted)
        name = settings.pop("name", None)
        if not isinstance(name, str):
            raise SettingError(f"schedule={shown(wanted)}: give its name, as {{'name': 'cosine'}}")
        made = named_schedule(name, settings, drops)
        return None if isinstance(made, Piecewise) else made
    if wanted is not None and drops is not None:
        raise SettingError(f"drops={shown(drops)} do nothing beside a schedule: leave them out")
    return wanted


def view(
    acceleration: str, network: nn.Module, images: ImageData, choices: Choices | None = None
) -> nn.Module:
    """What attacks see: the accelerated view, checked on some of ``images``, or the model itself.

    ``choices``: those of an earlier view of the same run, None to choose for this device.
    """
    if acceleration == "off":
        return network
    return accelerate(network, _first(network, images, _PROBE_IMAGES).images, choices=choices)


@contextmanager
def threads(config: RunConfig) -> Iterator[None]:
    """The run's number of processor threads inside, the former number back afterwards."""
    before = torch.get_num_threads()
    row = catalogue.MODELS.get(config.model.name)
    torch.set_num_threads(config.threads or (row and row.threads) or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)

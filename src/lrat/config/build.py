"""Configuration to objects: only here do names become threats, methods, data and models."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lrat import methods
from lrat.acceleration import Choices, accelerate
from lrat.attacks import Attack
from lrat.attacks.presets import MOST_TARGETS
from lrat.config import catalogue
from lrat.config.catalogue import ATTACK_KINDS, names_users_code
from lrat.config.method import PARTS, MethodSettings, MethodValue, ObjectiveSettings, part_of
from lrat.config.sections import name_and_options
from lrat.config.settings import DataSettings, RunConfig
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
from lrat.losses import Loss, cross_entropy
from lrat.methods import Simulated
from lrat.models import Normalize, Normalized, with_normalization
from lrat.objectives import Objective, Phases, Reweighted, Term, phases
from lrat.objectives.criterion import as_criterion
from lrat.randomness import seeded_randomness
from lrat.text import in_one_line, shown
from lrat.threat import BallLike, as_ball
from lrat.training import Optimisation
from lrat.training.schedules import Piecewise, Schedule, paper_drops
from lrat.training.schedules import schedule as named_schedule
from lrat.types import Batch

_PROBE_IMAGES = 128
_NEAR = 8
"""How far from a batch size that fails others are looked for, and how often it is halved."""


def objective(config: RunConfig) -> Objective:
    """The method's objective under the run's threat."""
    simulated = Simulated(threat=as_ball(config.threat), **config.attack.model_dump())
    return methods.smoothed(method(config.method, simulated), config.training.label_smoothing)


def method(settings: MethodSettings | MethodValue, simulated: Simulated) -> Objective:
    """The objective that ``settings`` name or write out, with these attacks simulated in training.

    ``SettingError`` in one line that names the key, as ``method.terms[1].weighting``.
    """
    if isinstance(settings, MethodSettings):
        changed = settings.model_dump(exclude_defaults=True).keys() - {"name"}
        if idle := sorted(changed - {*settings.takes}):
            used = ", ".join(settings.takes) or "no setting"
            raise ConfigurationError(
                f"method.{idle[0]} does nothing in {settings.name!r}, which uses {used}: leave it "
                "out or choose another method"
            )
    value = settings.value
    if value.phases is None:
        return _objective(value, simulated, "method")
    return phases(
        {
            phase.begin: _objective(phase, simulated, f"method.phases[{number}]")
            for number, phase in enumerate(value.phases)
        }
    )


def _objective(value: ObjectiveSettings, simulated: Simulated, where: str) -> Objective:
    if value.objective is not None:
        other: Objective = _part("objective", value.objective, simulated, f"{where}.objective")
        return other
    terms = []
    for number, term in enumerate(value.terms or ()):
        at = f"{where}.terms[{number}]"
        attack = _part("attack", term.attack, simulated, f"{at}.attack")
        weighting = _part("weighting", term.weighting, simulated, f"{at}.weighting")
        loss = _criterion(term.loss, simulated, f"{at}.loss")
        with _named(f"{at}.weighting.name"):
            terms.append(Term(name=term.label, attack=attack, weighting=weighting, criterion=loss))
    anchor: Any = value.anchor
    if isinstance(anchor, dict):
        anchor = _part("attack", anchor, simulated, f"{where}.anchor")
    loss = _criterion(value.loss, simulated, f"{where}.loss")
    with _named(where):
        return Reweighted(
            terms=terms,
            min_weight=value.min_weight,
            normalization=value.normalization,
            anchor=anchor,
            criterion=loss or cross_entropy,
        )


def _criterion(part: Any, simulated: Simulated, where: str) -> Loss | None:
    """The loss that training descends, refused where attacks alone can use it."""
    if part is None:
        return None
    with _named(where):
        return as_criterion(_part("loss", part, simulated, where))


def _part(key: str, part: Any, simulated: Simulated, where: str) -> Any:
    """The object of a part of a method: ``key`` says of what kind it is."""
    name, given = part_of(part)
    settings = {
        setting: _part(setting, value, simulated, f"{where}.{setting}")
        if setting in PARTS
        else value
        for setting, value in given.items()
    }
    row = PARTS[key][name]
    with _named(where):
        if PARTS[key] is ATTACK_KINDS:
            return attack(name, simulated.threat, {**simulated.settings(name), **settings})
        return row.target if key == "loss" and not row.takes else row.build(**settings)


@contextmanager
def _named(where: str) -> Iterator[None]:
    """What a part refuses, or lacks, is said with the path of its key."""
    try:
        yield
    except SettingError as error:
        raise SettingError(f"{where}: {str(error).removeprefix(f'{where}: ')}") from None
    except TypeError as error:  # an argument without a default
        raise SettingError(f"{where}: {error}: set it") from None


def attack(kind: str, ball: BallLike, given: Mapping[str, Any]) -> Attack:
    """The attack of this kind (``catalogue.ATTACKS``) inside ``ball``, with the settings that are
    ``given``: their names and values are the arguments of its class."""
    row = catalogue.ATTACKS[kind]
    settings = dict(given)
    if kind == "apgd" and "loss" in settings and settings["loss"].targeted:
        settings.setdefault("targets", MOST_TARGETS)
    if row.by_steps:
        settings = {"steps": 20, "step_size": ball.epsilon / 4, **settings}
    built: Any = row.build(threat=ball, **({} if row.member else settings))
    chosen: Attack = replace(built.members[row.member], **settings) if row.member else built
    return chosen


def data(settings: DataSettings, seed: int) -> Splits:
    """The data set, split: ``seed`` decides the held-out images and, for digits, the test fold."""
    row = catalogue.data_row(settings.name)
    chosen = {
        "root": settings.root,
        "path": catalogue.place_in(settings.name),
        "size": settings.size,
        "channels": settings.channels,
    }
    for name in ("size", "channels"):
        if chosen[name] is not None and name not in row.takes:
            raise ConfigurationError(
                f"data.{name} does nothing for {settings.name!r}, whose images are as they are: "
                "leave it out"
            )
    splits: Splits = row.build(
        seed=seed,
        validation=settings.validation,
        train_limit=settings.train_limit,
        **{name: chosen[name] for name in row.takes if name == "root" or chosen[name] is not None},
    )
    return splits


def augmentation(settings: DataSettings) -> CropAndFlip | None:
    """Crop and flip by ``data.augment``, by default for CIFAR-10 alone."""
    by_default = catalogue.data_row(settings.name).augment
    return CropAndFlip() if (by_default if settings.augment is None else settings.augment) else None


def model(config: RunConfig, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """A freshly initialised network for images (C, H, W), its weights drawn from the run's seed.

    Behind its normalisation where it has one. Of ``hf:FOLDER`` the weights are the folder's.
    """
    settings, channels = config.model, shape[0]
    if names_users_code(settings.name):
        network = model_from_file(settings.name, config.seed)
        layers = [name for name, part in network.named_modules() if isinstance(part, Normalize)]
        if layers and settings.normalize not in (None, "none"):
            raise ConfigurationError(
                f"model {settings.name!r} normalises its images itself ({layers[0]}): leave "
                "--normalize (model.normalize) out"
            )
        if isinstance(network, Normalized) and not layers:
            chosen = with_normalization(network.network, settings.normalize, channels)
            network.normalize = chosen.normalize
    else:
        with seeded_randomness(config.seed):
            network = _of_catalogue(config, shape, classes)
    if settings.normalize is None or isinstance(network, Normalized):
        return network
    return with_normalization(network, settings.normalize, channels)


def _of_catalogue(config: RunConfig, shape: tuple[int, int, int], classes: int) -> nn.Module:
    name, row = config.model.name, catalogue.model_row(config.model.name)
    channels, height, width = shape
    chosen: dict[str, Any] = {"classes": classes}
    if "folder" in row.takes:
        chosen["folder"] = catalogue.place_in(name)
    else:
        chosen["channels"] = channels
    if "name" in row.takes:
        chosen |= name_and_options(name)
    if "normalize" in row.takes:
        chosen["normalize"] = config.model.normalize
    if config.model.width is not None:
        chosen["width"] = config.model.width
    if "size" in row.takes and height == width:
        chosen["size"] = height
    elif "size" in row.takes and "name" not in row.takes:
        raise ConfigurationError(
            f"model {name!r} needs square images, {config.data.name!r} has {height}x{width}: "
            "use resnet-18 or a model of your own"
        )
    try:
        network: nn.Module = row.build(**chosen)
    except (OverflowError, RuntimeError, TypeError) as error:
        # Of a width that it does not take, or beyond what a tensor or the memory holds.
        raise ConfigurationError(
            f"model {name} of width {config.model.width} cannot be built: {in_one_line(error)}"
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

    ``classes``: of ``check_fit``. ``objective``: that of the training; a user's may accept any
    output in train mode. ``ModelError`` as
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

    Nothing where its logits are NaN or infinite: the training or the attack says where.
    """
    batch = _first(network, images, _PROBE_IMAGES)
    try:
        with acceptance.explaining_limit(network, batch.images):
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
    given: Schedule | str | Mapping[str, Any] | None, drops: Mapping[float, float] | None
) -> Schedule | None:
    """A schedule from what a user may write; None for the plain drops.

    ``given``: a name, ``{"name": ..., setting: value}``, or a schedule itself. ``drops`` as they
    were given, None where they were not. SettingError for settings that are unknown or do nothing.
    """
    if isinstance(given, str):
        given = {"name": given}
    if isinstance(given, Mapping):
        settings = dict(given)
        name = settings.pop("name", None)
        if not isinstance(name, str):
            raise SettingError(f"schedule={shown(given)}: give its name, as {{'name': 'cosine'}}")
        named = named_schedule(name, settings, drops)
        return None if isinstance(named, Piecewise) else named
    if given is not None and drops is not None:
        raise SettingError(f"drops={shown(drops)} do nothing beside a schedule: leave them out")
    return given


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

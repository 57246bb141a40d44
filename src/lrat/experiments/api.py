"""``lrat.fit`` and ``lrat.evaluate``: a model and data of one's own, in a line each."""

import logging
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import nn

from lrat import hardware
from lrat.acceleration import View
from lrat.checks import FUNCTION, MODULE, Rule, checked, instance, one_of
from lrat.config import build, catalogue
from lrat.config.catalogue import check_suite
from lrat.config.fingerprints import own_names, without_addresses
from lrat.config.method import MethodSettings
from lrat.config.settings import TrainingSettings, load_config
from lrat.data import (
    VALIDATION_FRACTION,
    ImageData,
    hold_out,
    image_data,
    stratified_subset,
)
from lrat.errors import RunFolderError, SettingError
from lrat.evaluation import EvaluationResult, Panel, Suite, adaptive, masking_panel
from lrat.evaluation.runner import NoiseKind
from lrat.experiments.evaluate import plan_evaluation
from lrat.experiments.evaluation_request import EvaluationRequest
from lrat.experiments.masking import IMAGES as PANEL_IMAGES
from lrat.experiments.monitoring import Monitoring
from lrat.experiments.train import train_network
from lrat.files.names import IDENTITY
from lrat.hardware import device_of, move
from lrat.losses import LossLike, as_loss
from lrat.methods import Simulated, smoothed
from lrat.models.wrappers import hookable
from lrat.modes import ordinary, replace_inference_tensors, tensors_kept, usual_autograd
from lrat.objectives import Objective
from lrat.randomness import random_state_kept
from lrat.runs.folder import has_begun
from lrat.runs.identity import Reading
from lrat.runs.lock import locked
from lrat.runs.sources import model_identity
from lrat.runs.suites import suite as suite_named
from lrat.text import shown
from lrat.threat import BALL, Ball, as_ball
from lrat.training import EpochRecord, Optimisation, Progress, Storage, Watch
from lrat.training.precision import Precision
from lrat.training.schedules import Schedule, paper_drops
from lrat.training.state import reported

Acceleration: TypeAlias = Literal["auto", "off"]
Data: TypeAlias = "tuple[Any, Any] | ImageData"
Method: TypeAlias = str | Mapping[str, Any] | Objective
_logger = logging.getLogger(__name__)
_BATCH = 256


def _images(data: Any) -> ImageData:
    if isinstance(data, ImageData):
        tensors = {name: getattr(data, name) for name in ("images", "labels", "index")}
        if any(value.is_inference() for value in tensors.values()):
            return replace(data, **{name: ordinary(value) for name, value in tensors.items()})
        return data
    if not isinstance(data, tuple) or len(data) != 2:
        raise SettingError(f"data={shown(data)}: pass (images, labels) or an ImageData")
    return image_data(*map(ordinary, data))


_checked = checked(
    model=replace(MODULE, take=lambda given: hookable(MODULE.take(given))),
    data=Rule(_images, "images and labels, or an ImageData", "(images, labels)"),
    threat=BALL,
    method=instance(
        *(str, Mapping, Objective),
        need="a method's name, its value as a configuration writes it, or an Objective",
        example="'sat'",
    ),
    suite=instance(
        *(str, Suite), need="a suite's name, the path of a YAML file or a Suite", example="'tier'"
    ),
    schedule=instance(
        *(str, Mapping, Schedule),
        need="a name, a mapping of its settings or a function (lr, position, length) -> rate",
        example="'cosine'",
    ),
    augmentation=replace(
        FUNCTION, need="a function (images, noise) -> images", example="CropAndFlip()"
    ),
    loss=Rule(as_loss, "a Loss or a function (logits, labels) -> [B]", "cross_entropy"),
    progress=instance(Progress, need="an object with on_step and on_epoch", example="MyProgress()"),
    precision=one_of(get_args(Precision)),
    noise=one_of(get_args(NoiseKind)),
)
"""The rules of the functions below, besides those of ``lrat.checks.ARGUMENTS``."""


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """What ``fit`` did; the model itself holds the selected weights and is in eval mode."""

    records: tuple[EpochRecord, ...]
    selected_epoch: int
    validation_accuracy: float | None
    """Accuracy under PGD-10 on the held-out images, a fraction; None without held-out images."""
    notes: tuple[str, ...] = ()
    """Sentences from the checks before the run, and from the attacks in it."""


@usual_autograd()
@random_state_kept()
@_checked
def fit(
    model: nn.Module,
    data: Data,
    *,
    threat: Ball | str,
    method: Method = "lrat-saa+cw",
    epochs: int = 20,
    batch_size: int = 128,
    lr: float = 0.1,
    weight_decay: float = 2e-4,
    drops: Mapping[float, float] | None = None,
    schedule: Schedule | str | Mapping[str, Any] | None = None,
    accumulate: int = 1,
    label_smoothing: float = 0.0,
    ema: float | None = None,
    precision: Precision = "float32",
    validation: float = VALIDATION_FRACTION,
    augmentation: Any = None,
    seed: int = 0,
    out: Path | str | None = None,
    acceleration: Acceleration = "auto",
    device: torch.device | str | None = None,
    progress: Progress | None = None,
) -> FitResult:
    """Train ``model`` in place so that it withstands attacks inside ``threat``.

    ``threat``: a ball, as ``Linf(epsilon=8/255)``, or ``"linf:8/255"``.

    ``data``: (images, labels) as arrays or tensors, float in [0, 1] or uint8, or an ``ImageData``.
    ``method``: a name of ``lrat list methods``, a mapping as the section ``method`` of a
    configuration (``docs/methods.md``), or an ``Objective``. ``drops``: fraction of
    training -> factor on the learning rate; None is the paper's. ``schedule``: another course of
    the learning rate, as ``"cosine"``, ``{"name": "one-cycle", "peak": 0.4}`` or a function (lr,
    position, length) -> rate. ``accumulate``: batches that make one step. ``label_smoothing`` of
    the loss that is descended, never of attacks. ``ema``: decay of a moving average of the weights,
    as 0.999; it is then what is selected. ``precision``: ``"bf16-mixed"`` for the update in
    bfloat16. ``docs/training.md`` says more of each. The share ``validation`` is held
    out and picks the epoch with the best accuracy under PGD-10; 0 keeps the last epoch. With
    ``out`` the run is kept in that folder and the same call continues it: functions and objects of
    your own are the same where their names are, without a name where their code is.

    Raises ``LratError`` in one line for data, settings or a model that do not fit.
    """
    replace_inference_tensors(model)
    folder, images, ball = _folder(out), _images(data), as_ball(threat)
    if folder is not None and (folder / IDENTITY).exists():
        raise SettingError(f"out={str(folder)!r} holds an evaluation: name another folder")
    objective, name = _objective(method, ball)
    objective = smoothed(objective, label_smoothing)
    train_part, held = hold_out(images, validation, seed) if validation else (images, None)
    chosen_device = _device(model, device)
    chosen = build.schedule(schedule, drops)
    optimisation = Optimisation(
        epochs=epochs,
        lr=lr,
        weight_decay=weight_decay,
        drops=paper_drops() if drops is None or chosen is not None else drops,
        schedule=chosen,
        accumulate=accumulate,
        ema=ema,
        precision=precision,
        seed=seed,
    )
    settings = f"{name} {ball!r} {optimisation!r} {augmentation!r} {batch_size} {validation}"
    settings += f" {label_smoothing}" if label_smoothing else ""
    functions = own_names(objective, optimisation, augmentation)
    settings += f" {functions}" if functions else ""
    identity = f"{without_addresses(settings)} {images.digest()}"
    monitoring = Monitoring(threat=ball, seed=seed, held=held, selects=held is not None)
    continued: list[str] = []

    def prepare(network: nn.Module, notes: tuple[str, ...]) -> tuple[nn.Module, Watch]:
        view = build.view(acceleration, network, train_part)
        if folder is not None:
            parts = {"method": objective, "schedule": chosen, "augmentation": augmentation}
            reading = Reading(network, images, chosen_device, parts, trains=True)
            continued.extend(_hold(folder, identity, reading, epochs))
        return view, monitoring.watch(
            train_part, view, chosen_device, progress=progress, notes=notes
        )

    with nullcontext() if folder is None else locked(folder):
        result = train_network(
            model,
            train_part,
            objective,
            optimisation,
            batch_size=batch_size,
            device=chosen_device,
            prepare=prepare,
            augmentation=augmentation,
            storage=None if folder is None else _storage(folder, identity),
        )
    model.load_state_dict(result.weights)
    model.eval()
    return FitResult(
        records=result.records,
        selected_epoch=result.selected_epoch,
        validation_accuracy=result.selected_value,
        notes=(*result.notes, *continued),
    )


@usual_autograd()
@random_state_kept()
@_checked
def evaluate(
    model: nn.Module,
    data: Data,
    *,
    threat: Ball | str,
    suite: str | Suite = "quick",
    limit: int | None = None,
    seed: int = 0,
    batch_size: int = _BATCH,
    folder: Path | str | None = None,
    acceleration: Acceleration = "auto",
    device: torch.device | str | None = None,
    loss: LossLike | None = None,
    seconds: float | None = None,
    keep_images: bool = False,
    noise: NoiseKind = "keyed",
) -> EvaluationResult:
    """Attack ``model`` on ``data`` inside ``threat``; ``print(result)`` is the table.

    ``data`` as for ``fit``; ``suite``: a name of ``lrat list suites``, a YAML file or a ``Suite``
    of one's own; ``limit``: a fixed, stratified part of the images. With ``folder`` the evidence
    per image is kept there (with ``keep_images`` also what the attacks returned) and the same call
    continues it. ``loss``: one's own, (logits, labels) -> [B] or a ``Loss``; adaptive attacks that
    ascend it join the suite. ``seconds``: stop after so long; the numbers are then of the images
    that were finished, taken in random order. ``noise="sequential"`` draws as AutoAttack's original
    does; by default an image's noise depends on that image alone.
    ``result.accuracy["pgd-20"]`` and ``result.worst_case`` have ``.value``, ``.low`` and ``.high``,
    fractions with Wilson 95 % intervals.

    Raises ``LratError`` in one line for data, settings or a model that do not fit.
    """
    path, images, ball = _folder(folder), _images(data), as_ball(threat)
    if path is not None and has_begun(path):
        raise SettingError(
            f"folder={str(path)!r} holds a training: name another one, as {str(path / 'quick')!r}"
        )
    name = "custom" if isinstance(suite, Suite) else check_suite(suite)
    request = EvaluationRequest(
        suite=name,
        limit=limit,
        seed=seed,
        batch_size=batch_size,
        acceleration=acceleration,
        seconds=seconds,
        keep_images=keep_images,
        noise=noise,
    )
    device = _device(model, device)
    with tensors_kept(model, buffers_only=True):
        classes = build.check_fit(model, images)
        attacks = suite if isinstance(suite, Suite) else suite_named(name, ball, classes)
        if attacks.threat != ball:
            raise SettingError(f"the suite attacks inside {attacks.threat}, but threat is {ball}")
        if loss is not None:
            attacks = attacks.with_members(*adaptive(ball, loss))
        identity = model_identity(model)
        plan = plan_evaluation(
            model, images, attacks, request, folder=path, device=device, identity=identity
        )
        return plan.run()


@usual_autograd()
@random_state_kept()
@_checked
def check_masking(
    model: nn.Module,
    data: Data,
    *,
    threat: Ball | str,
    seed: int = 0,
    acceleration: Acceleration = "auto",
    device: torch.device | str | None = None,
) -> Panel:
    """Is the model's accuracy under attack real, or do the attacks fail? ``print(panel)``.

    Twelve checks on up to 256 of the images (a fixed, stratified part), each passed, suspicious or
    failed with its number and a sentence; see ``evaluation.masking``. ``data`` as for ``fit``.

    Raises ``LratError`` in one line for data, settings or a model that do not fit.
    """
    images = stratified_subset(_images(data), PANEL_IMAGES, seed=0)
    build.check_fit(model, images)
    chosen_device = _device(model, device)
    move(model, chosen_device)
    with tensors_kept(model, buffers_only=True):
        view = build.view(acceleration, model, images)
        batch = images.batch(slice(None)).to(chosen_device)
        seen = view if isinstance(view, View) else None
        return masking_panel(model, batch, as_ball(threat), view=seen, seed=seed)


def _storage(folder: Path, identity: str) -> Storage:
    """Checkpoints as often as the command writes them."""
    minutes = TrainingSettings().checkpoint_every_minutes
    return Storage(folder=folder, identity=identity, every_minutes=minutes)


def _hold(folder: Path, identity: str, reading: Reading, epochs: int) -> tuple[str, ...]:
    """Keep in a new folder which model is trained there; refuse another one in a folder that has
    begun. A note where an interrupted training is continued from its checkpoint by a model with
    other weights, as a script makes that seeds nothing."""
    if not has_begun(folder):
        reading.begin(folder)
        return ()
    checkpoints = _storage(folder, identity).checkpoints()
    try:
        reading.check(
            folder,
            lambda: (reported(checkpoints.load("selected")), checkpoints.load("last")["model"]),
        )
    except RunFolderError:
        if checkpoints.load("last")["epoch"] >= epochs or not reading.is_same_code(folder):
            raise
        note = (
            f"the training in {folder} began with other weights than the model has: it was "
            "interrupted and goes on from its checkpoint; to begin with these, choose a new folder"
        )
        _logger.warning(note)
        return (note,)
    return ()


def _folder(path: Path | str | None) -> Path | None:
    """The folder of results, which may not exist yet."""
    if path is None:
        return None
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise SettingError(f"{folder} is a file: name a folder, new or of the same call before")
    return folder


def _objective(method: Method, threat: Ball) -> tuple[Objective, str]:
    simulated = Simulated(threat=threat)
    if isinstance(method, str):
        name = catalogue.resolve_method(method)
        return build.method(MethodSettings(name=name), simulated), name
    if isinstance(method, Mapping):
        method = build.method(load_config({"method": method}).method, simulated)
    return method, repr(method)


def _device(model: nn.Module, device: torch.device | str | None) -> torch.device:
    if device is not None:
        return hardware.device(str(device))
    return device_of(model) or torch.device("cpu")

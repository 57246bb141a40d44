"""One training run: configuration in, a folder with everything about it out.

``train_in_processes`` spreads it over processes (``distributed/launch.py``): each runs the same
training with its share of every batch; the first one alone claims the run's folder, writes into it
and reports progress. All stop after the same step, which is saved once.
"""

import hashlib
import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from lrat import hardware
from lrat.acceleration import View, describe
from lrat.config import build
from lrat.config.catalogue import names_users_code
from lrat.config.settings import RunConfig
from lrat.config.user_code import code_of
from lrat.data import Augmentation, ImageData, InMemory, Splits
from lrat.distributed.group import (
    FabricGroup,
    ProcessGroup,
    SingleProcess,
    check_synchronised,
    first_to_differ,
    synchronised,
    unused_parameters,
)
from lrat.distributed.launch import Spread, check_devices, in_processes, share_processors
from lrat.distributed.signals import check_minutes, holding
from lrat.errors import ConfigurationError, DataError, Interrupted, ModelError, RunFolderError
from lrat.experiments.monitoring import Monitoring, build_trackers, selection_key
from lrat.files.names import CONFIG, CONTENTS, ENVIRONMENT, MODEL, WEIGHTS
from lrat.files.write import appears, write_atomically, write_json, write_text
from lrat.hardware import device_for_others, environment, move
from lrat.objectives import Objective
from lrat.randomness import random_state_kept
from lrat.runs.folder import check_contents, claim, has_begun, keep_command
from lrat.runs.identity import Reading
from lrat.runs.lock import locked
from lrat.runs.sources import record_choices, recorded_choices, with_given_weights
from lrat.runs.weights import check_state, storage, write_safetensors
from lrat.training import Optimisation, Progress, Storage, TrainingResult, Watch, train
from lrat.training.watch import tell

Watcher: TypeAlias = Callable[[RunConfig], AbstractContextManager[Progress]]
Prepare: TypeAlias = Callable[[nn.Module, tuple[str, ...]], tuple[nn.Module, Watch]]
_PATIENCE = timedelta(hours=2)
"""How long one process waits for another one, whose machine may have died."""


@dataclass(frozen=True, kw_only=True)
class TrainedRun:
    """A finished run: its folder, its epochs, and which of them it reports."""

    config: RunConfig
    folder: Path
    result: TrainingResult

    def __str__(self) -> str:
        """What was reported, with its notes, and where it lies."""
        result = self.result
        if result.selected_value is None:
            chosen = f"the last of {len(result.records)} epochs"
        else:
            chosen = (
                f"epoch {result.selected_epoch} of {len(result.records)}, selected by "
                f"{selection_key(self.config)} on held-out images: "
                f"{100 * result.selected_value:.2f} %"
            )
        about = f"{self.config.method.name} on {self.config.data.name}: {chosen}"
        notes = [f"note: {note}" for note in result.notes]
        return "\n".join([about, *notes, str(self.folder)])


@random_state_kept()
def train_run(
    config: RunConfig,
    folder: Path,
    *,
    progress: Progress | None = None,
    group: ProcessGroup | None = None,
    device: torch.device | None = None,
    max_minutes: float | None = None,
    portable: bool = False,
    command: str | None = None,
) -> TrainedRun:
    """Train what ``config`` says into ``folder``, or continue what is there.

    Everything that can be refused is refused before the first file is written. ``group``: processes
    that train together, each of which calls this with its ``device`` (default: as configured); the
    first one claims the folder and writes. Raises the errors of ``lrat.errors``; ``Interrupted``
    after SIGINT or SIGTERM, ``Paused`` after ``max_minutes``, when the run has saved
    itself, as a small checkpoint if ``portable`` (``training.Storage``). ``command``: what the user
    typed, kept in a folder that is begun.
    """
    check_minutes(max_minutes)
    group = SingleProcess() if group is None else group
    device = hardware.device(config.device) if device is None else device
    training = _Training(config, folder, progress, group, device, max_minutes, portable, command)
    if group.rank > 0:
        return training.run()
    with build.threads(config) if group.size == 1 else nullcontext(), locked(folder):
        claim(folder, config)
        return training.run()


def train_network(
    network: nn.Module,
    images: ImageData,
    objective: Objective,
    optimisation: Optimisation,
    *,
    batch_size: int,
    device: torch.device,
    prepare: Prepare,
    augmentation: Augmentation | None = None,
    synchronise: bool = False,
    storage: Storage | None = None,
    group: ProcessGroup | None = None,
    max_minutes: float | None = None,
) -> TrainingResult:
    """Train ``network`` on ``images`` on ``device``, where everything fits.

    ``prepare`` is called when that is known, with the network as it is trained and what is odd
    about it, and returns the view that attacks see and the watch. ``synchronise``: BatchNorm over
    the images of all processes. The rest as for ``training.train``, whose errors this raises too;
    ``ModelError`` for a network that does not fit the images or cannot be trained on such batches.
    """
    group = SingleProcess() if group is None else group
    classes = build.check_fit(network, images)
    check_state(network)
    build.check_training(
        network, images, batch_size, classes=classes, processes=group.size, objective=objective
    )
    source = InMemory(
        images,
        batch_size=batch_size,
        seed=optimisation.seed,
        augmentation=augmentation,
        device=device,
    )
    optimisation.optimizer(network)  # refuses a network without anything to train
    move(network, device)
    if synchronise:
        network = synchronised(network, device, group.size)
    view, watched = prepare(network, build.examined(network, images))
    return train(
        network,
        source,
        objective,
        optimisation,
        watch=watched,
        storage=storage,
        view=lambda model: view,
        device=device,
        max_minutes=max_minutes,
        group=group,
    )


@dataclass
class _Training:
    """One process's part in a run. ``view`` is what attacks see, where this one has begun it."""

    config: RunConfig
    folder: Path
    progress: Progress | None
    group: ProcessGroup
    device: torch.device
    max_minutes: float | None
    portable: bool
    command: str | None
    view: nn.Module | None = None

    def run(self) -> TrainedRun:
        config = self.config
        splits = build.data(config.data, config.seed)
        images = splits.training()
        try:
            network = build.model(config, images.shape, images.classes)
            given = with_given_weights(network, config, images.class_names, new_head=True)
            digests = contents(splits, code_of(network))
            if given is not None:
                digests["weights"] = given
            result = train_network(
                network,
                images,
                build.objective(config),
                build.optimisation(config),
                batch_size=config.training.batch_size,
                device=self.device,
                prepare=partial(self._begin, digests, images, Monitoring.of(config, splits)),
                augmentation=build.augmentation(config.data),
                synchronise=config.training.sync_batch_norm,
                storage=storage(config, self.folder, portable=self.portable),
                group=self.group,
                max_minutes=self.max_minutes,
            )
        finally:
            if self.view is not None:
                record_choices(self.folder, self.view)  # which may have been left
        if self.group.rank == 0:
            _save_model(self.folder, config, result, images)
        return TrainedRun(config=config, folder=self.folder, result=result)

    def _begin(
        self,
        digests: Mapping[str, str],
        images: ImageData,
        monitoring: Monitoring,
        network: nn.Module,
        notes: tuple[str, ...],
    ) -> tuple[nn.Module, Watch]:
        """The view and the watch. The first process chooses the view and begins the folder; the
        others see it there."""
        write_safetensors(network.state_dict())  # what cannot be kept is not trained
        begun = has_begun(self.folder)
        if self.group.rank > 0:
            self.group.barrier()
            self._compare(digests)
        trackers = self.config.training.trackers if self.group.rank == 0 else ()
        view = self._view(network, images, chosen=begun or self.group.rank > 0)
        watched = monitoring.watch(
            images,
            view,
            self.device,
            group=self.group,
            progress=self.progress,
            trackers=build_trackers(trackers, self.folder),
            notes=notes,
        )
        if self.group.rank > 0:
            return view, watched
        folder = self.folder
        check_contents(folder, digests)
        if names_users_code(self.config.model.name):
            reading = Reading(network, images, self.device, trains=True)
            (reading.check if begun else reading.begin)(folder)
        if not begun:
            write_json(folder / ENVIRONMENT, environment(self.device))
            write_json(folder / CONTENTS, digests)
            record_choices(folder, view)
            write_text(folder / CONFIG, self.config.to_yaml())
            keep_command(folder, self.command)
            if isinstance(view, View):
                seen = f"attacks see the model in {describe(view)}"
                tell(watched.progress, seen, level=logging.INFO)
        self.group.barrier()
        self._compare(digests)
        self.view = view
        return view, watched

    def _compare(self, digests: Mapping[str, str]) -> None:
        """Refuse to train in another folder, on other images, or with another model file than the
        first process."""
        seen = appears(self.folder / CONFIG)
        astray = first_to_differ(self.group, seen, device=self.device)
        if astray is not None:
            raise RunFolderError(
                f"process {astray + 1} of {self.group.size} does not see {self.folder}, which the "
                "first one began: choose a folder that all machines share"
            )
        digest = int(hashlib.sha256(repr(sorted(digests.items())).encode()).hexdigest(), 16)
        astray = first_to_differ(self.group, digest, device=self.device)
        if astray is not None:
            raise DataError(
                f"process {astray + 1} of {self.group.size} sees other images, or another model "
                "file, than the first one: give all machines the same files"
            )

    def _view(self, network: nn.Module, images: ImageData, *, chosen: bool) -> nn.Module:
        """What attacks see; ``chosen``: as the folder says, the model itself where it says none."""
        choices = recorded_choices(self.folder) if chosen else None
        if chosen and choices is None:
            return network
        return build.view(self.config.acceleration, network, images, choices)


def contents(splits: Splits, code: str | None) -> dict[str, str]:
    """Digests of what the configuration only names: the images, and ``code``, that of the file of a
    user's model."""
    digests = {
        part: data.digest()
        for part in ("train", "validation", "test")
        if (data := getattr(splits, part)) is not None
    }
    return digests if code is None else {**digests, "model file": code}


def _save_model(folder: Path, config: RunConfig, result: TrainingResult, images: ImageData) -> None:
    content = write_safetensors(result.weights)
    write_atomically(folder / WEIGHTS, lambda stream: stream.write(content))
    about: dict[str, Any] = {
        "selected_epoch": result.selected_epoch,
        "selected_value": result.selected_value,
        "epochs": len(result.records),
        "shape": list(images.shape),
        "class_names": list(images.class_names),
        "parameters": sum(
            value.numel() for value in result.weights.values() if isinstance(value, Tensor)
        ),
        "configuration": config.digest(),
        "configuration_file": hashlib.sha256((folder / CONFIG).read_bytes()).hexdigest(),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    write_json(folder / MODEL, about)


def train_in_processes(
    config: RunConfig,
    folder: Path,
    *,
    devices: int,
    nodes: int = 1,
    watcher: Watcher | None = None,
    max_minutes: float | None = None,
    portable: bool = False,
    command: str | None = None,
) -> TrainedRun | None:
    """As ``train_run``, in ``devices`` processes on each of ``nodes`` machines: on CUDA one for
    each GPU, on the CPU of ``config.threads`` threads (default: one) each.

    ``training.batch_size`` is that of all processes together, which must divide it. ``watcher``
    gives the first process its ``Progress``; it must be picklable. None is returned in all
    but the first of processes that torchrun or SLURM started.

    Raises what the training raises in one of them, which ends the others; ``Interrupted`` after
    SIGINT or SIGTERM to this process or its whole group; ``LratError`` for one that was killed.
    """
    check_minutes(max_minutes)
    check_devices(config.device, devices, nodes)
    spread = Spread(
        device=config.device, devices=devices, nodes=nodes, patience=_PATIENCE, saves_itself=True
    )
    batch = config.training.batch_size
    if batch % spread.size:
        fitting = max(spread.size, batch // spread.size * spread.size)
        raise ConfigurationError(
            f"training.batch_size={batch} is the batch of all processes together, and {spread.size}"
            f" processes do not divide it: set training.batch_size={fitting}, or change devices"
        )
    if config.training.sync_batch_norm:
        check_synchronised(device_for_others(config.device))
    work = _TrainingWork(
        config=config,
        folder=folder,
        spread=spread,
        watcher=watcher,
        options={"max_minutes": max_minutes, "portable": portable, "command": command},
    )
    return in_processes(work, spread)


@dataclass(frozen=True, kw_only=True)
class _TrainingWork:
    """What each process does, ``options`` being ``train_run``'s; called with its Fabric.

    A signal is held from the start: a process that left while it sets up would leave the others
    waiting for it. All take one step and save it.
    """

    config: RunConfig
    folder: Path
    spread: Spread
    watcher: Watcher | None
    options: Mapping[str, Any]

    def __call__(self, fabric: Any) -> TrainedRun | None:
        group = FabricGroup(fabric)
        share_processors(fabric.device, self.spread, self.config.threads)
        first = group.rank == 0
        watched = self.watcher(self.config) if first and self.watcher else nullcontext()
        try:
            with holding(), watched as progress:
                trained = train_run(
                    self.config,
                    self.folder,
                    progress=progress,
                    group=group,
                    device=fabric.device,
                    **self.options,
                )
        except Interrupted:
            if first:
                raise
            return None  # the first one says it for all
        except (RuntimeError, ModelError) as error:
            raise unused_parameters(error) or error from None
        return trained if first else None

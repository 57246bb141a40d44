"""A training run spread over processes (``launching.py``).

Each process runs the same training with its share of every batch; the first one alone claims the
run's folder, writes into it and tells how far it is. All stop after the same step, saved once.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeAlias

from lrat.config.settings import RunConfig
from lrat.distributed.launch import Spread, check_devices, in_processes, share_processors
from lrat.distributed.signals import check_minutes, holding
from lrat.errors import ConfigurationError, Interrupted, ModelError
from lrat.experiments.crew import FabricCrew, check_synchronised, unused_parameters
from lrat.experiments.train import TrainedRun, train_run
from lrat.hardware import device_for_others
from lrat.training import Progress

Watcher: TypeAlias = Callable[[RunConfig], AbstractContextManager[Progress]]
_PATIENCE = timedelta(hours=2)
"""How long one process waits for another one, which takes as long for its share of a step. Whoever
started them notices at once when one dies; this is for a machine that does."""


def train_in_processes(
    config: RunConfig,
    folder: Path,
    *,
    devices: int,
    nodes: int = 1,
    watcher: Watcher | None = None,
    max_minutes: float | None = None,
    portable: bool = False,
) -> TrainedRun | None:
    """As ``train_run``, in ``devices`` processes on each of ``nodes`` machines: on CUDA one for
    each GPU, on the CPU of ``config.threads`` threads (default: one) each.

    ``training.batch_size`` is that of all processes together, which must divide it. ``watcher``
    makes what the first process tells its progress; it must be picklable. None is returned in all
    but the first of processes that torchrun or SLURM started.

    Raises what the training raises in one of them, which ends the others; ``Interrupted`` after
    SIGINT or SIGTERM to this process or its whole group; ``LratError`` for one that was killed.
    """
    check_minutes(max_minutes)
    check_devices(config.device, devices, nodes)
    spread = Spread(
        device=config.device,
        devices=devices,
        nodes=nodes,
        patience=_PATIENCE,
        saves_itself=True,
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
    work = _Work(
        config=config,
        folder=folder,
        spread=spread,
        watcher=watcher,
        max_minutes=max_minutes,
        portable=portable,
    )
    return in_processes(work, spread)


@dataclass(frozen=True, kw_only=True)
class _Work:
    """What each process does; called with its Fabric.

    A signal is held from the start: a process that left while it sets up would leave the others
    waiting for it. All take one step and save it.
    """

    config: RunConfig
    folder: Path
    spread: Spread
    watcher: Watcher | None
    max_minutes: float | None
    portable: bool

    def __call__(self, fabric: Any) -> TrainedRun | None:
        crew = FabricCrew(fabric)
        share_processors(fabric.device, self.spread, self.config.threads)
        first = crew.rank == 0
        told = self.watcher(self.config) if first and self.watcher else nullcontext()
        try:
            with holding(), told as progress:
                found = train_run(
                    self.config,
                    self.folder,
                    progress=progress,
                    crew=crew,
                    device=fabric.device,
                    max_minutes=self.max_minutes,
                    portable=self.portable,
                )
        except Interrupted:
            if first:
                raise
            return None  # the first one says it for all
        except (RuntimeError, ModelError) as error:
            raise unused_parameters(error) or error from None
        return found if first else None

"""Processes that share one task: those of a launcher, or children that this module starts.

Under torchrun or SLURM lightning-fabric connects the launcher's processes; otherwise as many are
started on this machine (``children.py``) with the address at which they connect.
"""

import inspect
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeAlias, TypeVar

import torch

from lrat.distributed.children import ConnectionLostError, supervise
from lrat.distributed.signals import left_at_the_second_signal
from lrat.errors import ConfigurationError
from lrat.hardware import device_for_others, float32_settings, processors, set_float32
from lrat.text import reason

_logger = logging.getLogger(__name__)
Result = TypeVar("Result")
Work: TypeAlias = Callable[[Any], Result]
"""What each process does, given its Fabric; picklable."""
_MEETING_PLACE = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK")
_SECONDS_TO_MEET = 60.0
_LOST = ("closed by peer", "reset by peer", "Broken pipe", "Timed out waiting", "remote worker")


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Over what: on CUDA one process per GPU, on the CPU of one thread each.

    ``devices`` processes on each of ``nodes`` machines. ``patience``: how long one process waits
    for what another one has not done yet. ``saves_itself``: the work answers a first SIGINT or
    SIGTERM by saving itself; otherwise both end it at once.
    """

    device: str
    devices: int
    nodes: int = 1
    patience: timedelta = timedelta(days=7)
    saves_itself: bool = False

    @property
    def size(self) -> int:
        """All processes."""
        return self.devices * self.nodes

    def __str__(self) -> str:
        return f"--devices {self.devices} --nodes {self.nodes}"


def check_devices(
    device: str, devices: int | None, nodes: int, *, others_expected: bool = False
) -> None:
    """Refuse a number of processes that cannot be meant; ``devices`` None is this one alone.

    ``others_expected``: processes of torchrun that do not know of each other are meant.
    """
    chosen = device_for_others(device)
    if nodes < 1 or (nodes > 1 and devices is None):
        raise ConfigurationError(
            f"nodes {nodes}: at least one, and say with devices how many processes on each"
        )
    if devices is None:
        count = os.environ.get("WORLD_SIZE", "1")
        if "TORCHELASTIC_RUN_ID" in os.environ and count != "1" and not others_expected:
            raise ConfigurationError(
                f"torchrun started {count} processes that would all do the same: say with "
                "devices how many there are on each machine"
            )
        return
    there = {"cpu": processors(), "cuda": torch.cuda.device_count()}.get(chosen.type, 1)
    what = "processors" if chosen.type == "cpu" else f"{chosen.type} devices"
    if not 1 <= devices <= there:
        raise ConfigurationError(
            f"devices {devices}: choose from 1 to {there}, the {what} that are here"
        )
    if chosen.index is not None:
        raise ConfigurationError(
            f"device {chosen} is one of them and devices takes {devices}: leave out the "
            "number, or the devices"
        )


def in_processes(work: "Work[Result]", spread: Spread) -> Result | None:
    """``work`` in all processes; what it returned in the first one, None in others that were there.

    Raises ``LratError`` that it raises in one of them, and for one that was killed. The first
    SIGINT or SIGTERM of a ``spread`` that saves itself is handed on to the work, which is to end by
    ``Interrupted``; a second one stops all at once.
    """
    with _environment_kept():
        fabric = _fabric(spread)
        environment = fabric.strategy.cluster_environment
        if environment.creates_processes_externally:
            return _joined(work, fabric, spread)
        member = _Member(
            work=work,
            spread=spread,
            address=str(environment.main_address),
            port=int(environment.main_port),
            node=int(environment.node_rank()),
            settings=_Settings.here(),
        )
        first: Result = supervise(member, spread.devices, saves_itself=spread.saves_itself)
        return first if member.node == 0 else None


def share_processors(device: torch.device, spread: Spread, threads: int | None = None) -> None:
    """Give this process its ``threads``: by default one on the CPU, its share beside a GPU."""
    fair = 1 if device.type == "cpu" else max(1, processors() // spread.devices)
    torch.set_num_threads(threads or fair)


def _fabric(spread: Spread) -> Any:
    """Raises ``ConfigurationError`` where the cluster was set up for something else."""
    from lightning_fabric import Fabric
    from lightning_fabric.strategies.ddp import DDPStrategy

    # After the import, which has it introduce itself.
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    strategy = DDPStrategy(timeout=spread.patience, **_buffers_left_alone())
    try:
        fabric = Fabric(
            accelerator=device_for_others(spread.device).type,
            devices=spread.devices,
            num_nodes=spread.nodes,
            strategy=strategy,
        )
        environment = strategy.cluster_environment
        if environment is None:
            raise ValueError("no cluster environment")
        environment.validate_settings(num_devices=spread.devices, num_nodes=spread.nodes)
    except (ValueError, RuntimeError) as error:
        raise ConfigurationError(f"{spread}: {reason(error)}") from None
    absent = [name for name in _MEETING_PLACE if name not in os.environ]
    if spread.nodes > 1 and absent and not environment.creates_processes_externally:
        raise ConfigurationError(
            f"--nodes {spread.nodes}: start it with torchrun or srun, or set {', '.join(absent)} "
            "on each machine"
        )
    return fabric


def _buffers_left_alone() -> dict[str, Any]:
    """DDP would overwrite buffers in each forward; PyTorch has renamed the setting."""
    known = inspect.signature(torch.nn.parallel.DistributedDataParallel).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    return {name: False}


def _joined(work: "Work[Result]", fabric: Any, spread: Spread) -> Result | None:
    """As one of the processes that are there."""
    missed = threading.Timer(_SECONDS_TO_MEET, _miss, (spread,))
    missed.daemon = True
    missed.start()

    def begin(fabric: Any) -> Result:
        missed.cancel()
        return work(fabric)

    try:
        with left_at_the_second_signal():
            result: Result = _launched(begin, fabric)
    except ConnectionLostError:
        if fabric.global_rank > 0:
            sys.exit(2)  # the first one reports; if it died, its parent does
        raise
    finally:
        missed.cancel()
    return result if fabric.global_rank == 0 else None


def _miss(spread: Spread) -> None:
    _logger.warning(
        "still waiting for the others of %d processes at %s: were all of them started, as srun and "
        "torchrun do?",
        spread.size,
        ":".join(os.environ.get(name, "?") for name in _MEETING_PLACE[:2]),
    )


def _launched(work: "Work[Result]", fabric: Any) -> Any:
    """``work`` in this process, connected to the others; the first one alone warns."""

    def begin(fabric: Any) -> Result:
        if fabric.global_rank > 0:
            logging.getLogger("lrat").setLevel(logging.ERROR)
        return work(fabric)

    try:
        return fabric.launch(begin)
    except RuntimeError as error:
        if not any(sign in str(error) for sign in _LOST):
            raise
        raise ConnectionLostError(
            f"process {fabric.global_rank + 1} of {fabric.world_size} lost its connection to "
            "another one, which tells why it ended; what is saved is kept, the same command "
            "continues"
        ) from error
    finally:
        # The threads of its connections must end before the process does: left to the end of the
        # interpreter they now and then abort it.
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


@dataclass(frozen=True, kw_only=True)
class _Settings:
    """Settings of a whole process that those started by it share."""

    level: int
    deterministic: bool
    only_warned: bool
    benchmark: bool
    deterministic_cudnn: bool
    float32: tuple[Any, ...]

    @classmethod
    def here(cls) -> "_Settings":
        return cls(
            level=logging.getLogger().getEffectiveLevel(),
            deterministic=torch.are_deterministic_algorithms_enabled(),
            only_warned=torch.is_deterministic_algorithms_warn_only_enabled(),
            benchmark=torch.backends.cudnn.benchmark,
            deterministic_cudnn=torch.backends.cudnn.deterministic,
            float32=float32_settings(),
        )

    def apply(self) -> None:
        logging.basicConfig(level=self.level, format="%(levelname)s: %(message)s")
        torch.use_deterministic_algorithms(self.deterministic, warn_only=self.only_warned)
        torch.backends.cudnn.benchmark = self.benchmark
        torch.backends.cudnn.deterministic = self.deterministic_cudnn
        set_float32(self.float32)


@dataclass(frozen=True, kw_only=True)
class _Member:
    """What a process that was started does."""

    work: Work[Any]
    spread: Spread
    address: str
    port: int
    node: int
    settings: _Settings

    def __call__(self, number: int) -> Any:
        self.settings.apply()
        # With these Fabric takes it for a process that was there.
        os.environ.update(
            MASTER_ADDR=self.address,
            MASTER_PORT=str(self.port),
            NODE_RANK=str(self.node),
            LOCAL_RANK=str(number),
        )
        return _launched(self.work, _fabric(self.spread))


@contextmanager
def _environment_kept() -> Iterator[None]:
    """Fabric writes the address of the processes into the environment, which later ones would
    use too."""
    before = {name: os.environ.get(name) for name in (*_MEETING_PLACE, "LOCAL_RANK", "WORLD_SIZE")}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

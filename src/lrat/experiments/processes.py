"""An evaluation spread over processes, which lightning-fabric starts or finds started.

Each process takes every n-th image and writes its outcomes into one folder. The first one begins
the folder, so that all see the model in the same way; in the end the parts are joined. Under
torchrun or SLURM the processes are those that are there; otherwise as many are started. What was
left undone is done by the next call, with any number of processes.
"""

import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from multiprocessing.connection import wait
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import torch
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from lrat.errors import ConfigurationError, LratError, RunFolderError
from lrat.evaluation import EvaluationResult, Progress
from lrat.evaluation.merging import complete
from lrat.evaluation.pacing import NothingFinishedError
from lrat.evaluation.storage import EXTENT, read_json
from lrat.experiments import build
from lrat.experiments.evaluating import (
    EvaluationRequest,
    ProgressCallback,
    begin_evaluation,
    evaluate_network,
    evaluation_folder,
    processors,
)
from lrat.experiments.subjects import Source

Watcher: TypeAlias = Callable[[], AbstractContextManager[ProgressCallback]]
_PATIENCE = timedelta(days=7)
"""How long one process waits for the others: its share may be done long before theirs. Whoever
started them notices when one dies."""
_GRACE_SECONDS = 10.0
_VISIBLE_WITHIN_SECONDS = 30.0
_MEETING_PLACE = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK")


def evaluate_in_processes(
    source: Source, request: EvaluationRequest, watcher: Watcher | None = None
) -> tuple[Path | None, EvaluationResult] | None:
    """As ``evaluate_subject``, in ``request.devices`` processes on each of ``request.nodes``
    machines: on CUDA one for each GPU, on the CPU of one thread each.

    ``watcher`` makes what is told about the progress of the first process; it must be picklable.
    The folder is None where the evidence was kept for this call alone. None is returned in all but
    the first of processes that torchrun or SLURM started.

    Raises what the evaluation raises in one of them, which ends the others; ``LratError`` for one
    that was killed.
    """
    request.check()
    if request.devices is None:
        raise ConfigurationError("devices: say in how many processes")
    kept = source.run is not None or source.out is not None
    place = nullcontext("") if kept else TemporaryDirectory(prefix="lrat-")
    with place as scratch, _environment_kept():
        work = _Work(source=source, request=request, scratch=scratch, watcher=watcher)
        fabric = _fabric(request, "popen")
        environment = fabric.strategy.cluster_environment
        if environment.creates_processes_externally:
            ended = fabric.launch(work)
            found = _joined(ended, request) if fabric.global_rank == 0 else None
            torch.distributed.destroy_process_group()
        else:
            found = _joined(_started(work, request), request)
    return None if found is None else (found[0] if kept else None, found[1])


def _fabric(request: EvaluationRequest, start: str) -> Any:
    """Raises ``ConfigurationError`` where the cluster was set up for something else."""
    from lightning_fabric import Fabric
    from lightning_fabric.strategies.ddp import DDPStrategy

    _quiet()
    devices, nodes = request.devices or 1, request.nodes
    strategy = DDPStrategy(start_method=start, timeout=_PATIENCE)  # type: ignore[arg-type]
    kind = build.device(request.device).type
    try:
        fabric = Fabric(accelerator=kind, devices=devices, num_nodes=nodes, strategy=strategy)
        environment = strategy.cluster_environment
        if environment is None:
            raise ValueError("no cluster environment")
        environment.validate_settings(num_devices=devices, num_nodes=nodes)
    except (ValueError, RuntimeError) as error:
        told = " ".join(str(error).split())
        raise ConfigurationError(f"--devices {devices} --nodes {nodes}: {told}") from None
    absent = [name for name in _MEETING_PLACE if name not in os.environ]
    if nodes > 1 and absent and not environment.creates_processes_externally:
        raise ConfigurationError(
            f"--nodes {nodes}: start it with torchrun or srun, or set {', '.join(absent)} on each "
            "machine"
        )
    return fabric


def _started(work: "_Work", request: EvaluationRequest) -> "_Ended":
    """Start the processes, wait for their ends."""
    fabric = _fabric(request, "spawn")
    errors = multiprocessing.get_context("spawn").SimpleQueue()
    others = set(multiprocessing.active_children())
    # It tells of every process that it ends because another one failed.
    launcher = logging.getLogger("torch.multiprocessing.spawn")
    before = launcher.level
    launcher.setLevel(logging.ERROR)
    try:
        ended: _Ended = fabric.launch(replace(work, errors=errors))
        return ended
    except (ProcessRaisedException, ProcessExitedException) as error:
        if not errors.empty():
            raise errors.get() from None
        if isinstance(error, ProcessRaisedException):
            raise
        how = error.signal_name or f"status {error.exit_code}"
        raise LratError(
            f"process {error.error_index + 1} of {request.devices} ended by {how}: out of memory, "
            "or killed? What is done is kept, the same command continues"
        ) from None
    finally:
        for child in set(multiprocessing.active_children()) - others:
            child.terminate()
            child.join()
        launcher.setLevel(before)


_Ended: TypeAlias = tuple[str, list[int]]
"""The folder, and the images of the blocks that the processes finished. Of rows alone nobody could
tell those: of a block that was stopped, the images that are done are mostly those fooled early."""


@dataclass(frozen=True, kw_only=True)
class _Work:
    """What each process does; called with its Fabric."""

    source: Source
    request: EvaluationRequest
    scratch: str
    watcher: Watcher | None
    errors: Any = None
    level: int = logging.WARNING

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"level": logging.getLogger().getEffectiveLevel()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # The first that happens in a process that was started: Fabric would introduce itself.
        self.__dict__.update(state)
        logging.basicConfig(level=self.level, format="%(levelname)s: %(message)s")
        _quiet()
        threading.Thread(target=_end_with_parent, daemon=True).start()

    def __call__(self, fabric: Any) -> _Ended:
        if fabric.global_rank > 0:
            logging.getLogger("lrat").setLevel(logging.ERROR)
        try:
            ended = self._evaluate(fabric)
        except LratError as error:
            if self.errors is not None:
                self.errors.put(error)
            raise
        if self.errors is not None:
            # The threads of its connections must end before the process does: left to the end of
            # the interpreter they now and then abort it.
            torch.distributed.destroy_process_group()
        return ended

    def _evaluate(self, fabric: Any) -> _Ended:
        rank, of = fabric.global_rank, fabric.world_size
        device: torch.device = fabric.device
        on_cpu = device.type == "cpu"
        torch.set_num_threads(1 if on_cpu else max(1, processors() // (self.request.devices or 1)))
        subject = self.source.open(self.request.threat)
        folder = evaluation_folder(subject, self.request) or Path(self.scratch)
        folder = Path(fabric.broadcast(str(folder)))
        ball = build.threat(subject.threat)
        alone = replace(self.request, devices=None, nodes=1)
        if rank == 0:
            begin_evaluation(
                subject.network,
                subject.test,
                threat=ball,
                request=alone,
                folder=folder,
                device=device,
            )
        _meet(fabric.barrier)
        finished: list[int] = []
        # A share without a finished block adds nothing; the others' shares count.
        with self._watched(rank, of) as progress, suppress(NothingFinishedError):
            if rank < _images_of(folder, rank):
                share = evaluate_network(
                    subject.network,
                    subject.test,
                    threat=ball,
                    request=replace(alone, part=(rank + 1, of)),
                    folder=folder,
                    device=device,
                    progress=progress,
                )
                finished = share.index.tolist()
        return str(folder), _gathered(finished, of)

    @contextmanager
    def _watched(self, rank: int, of: int) -> Iterator[ProgressCallback | None]:
        """The first process tells how far it is, and that this is a part."""
        with nullcontext() if rank or self.watcher is None else self.watcher() as tell:
            if tell is None:
                yield None
                return

            def told(progress: Progress) -> None:
                tell(replace(progress, attack=f"{progress.attack} (process 1 of {of})"))

            yield told


def _end_with_parent() -> None:
    """However the one who started us ends. What is half written is not there for readers."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _meet(exchange: Callable[[], object]) -> None:
    """Wait until all processes are here, by something that they do together."""
    try:
        exchange()
    except RuntimeError:
        # Another one died. Who started us sees which and ends us; its own end says more than ours.
        time.sleep(_GRACE_SECONDS)
        raise


def _gathered(finished: list[int], of: int) -> list[int]:
    """The finished images of all processes."""
    shares: list[list[int]] = [[] for _ in range(of)]
    _meet(lambda: torch.distributed.all_gather_object(shares, finished))
    return [image for share in shares for image in share]


def _images_of(folder: Path, rank: int) -> int:
    """How many images the evaluation that the first process began is of."""
    deadline = time.monotonic() + _VISIBLE_WITHIN_SECONDS
    while not (folder / EXTENT).is_file():  # network file systems show new files late
        if time.monotonic() > deadline:
            raise RunFolderError(
                f"process {rank + 1} does not see {folder}, which the first one began: choose a "
                "folder that all machines share"
            )
        time.sleep(0.5)
    return int(read_json(folder / EXTENT)["images"])


def _joined(ended: _Ended, request: EvaluationRequest) -> tuple[Path, EvaluationResult]:
    folder = Path(ended[0])
    joined = complete(folder, ended[1])
    if joined.result is None:
        if request.seconds is None:
            raise RunFolderError(f"{folder}: {joined}")
        raise NothingFinishedError.within(request.seconds)
    if joined.is_finished:
        return folder, joined.result
    if request.seconds is None:
        raise RunFolderError(f"{folder}: {joined}")
    note = (
        f"stopped after {request.seconds:g} s with {len(joined.result.index)} of {joined.images} "
        "images; intervals are for these, the same command continues"
    )
    return folder, replace(joined.result, notes=(*joined.result.notes, note))


def _quiet() -> None:
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)


@contextmanager
def _environment_kept() -> Iterator[None]:
    """Fabric tells the processes it starts where to meet by variables of the environment, which
    would decide the place for later ones too."""
    before = {name: os.environ.get(name) for name in (*_MEETING_PLACE, "LOCAL_RANK", "WORLD_SIZE")}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

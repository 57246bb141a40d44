"""An evaluation spread over processes (``launch.py``).

Each process takes every n-th image and writes its outcomes into one folder. The first one begins
the folder, so that all see the model in the same way; in the end the parts are joined. What was
left undone is done by the next call, with any number of processes.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import torch

from lrat.distributed.launch import Spread, in_processes, share_processors
from lrat.errors import ConfigurationError, RunFolderError
from lrat.evaluation import EvaluationResult, Progress
from lrat.evaluation.merge import complete
from lrat.evaluation.storage.store import read_extent
from lrat.evaluation.time_limit import NothingFinishedError
from lrat.experiments.evaluate import (
    EvaluationPlan,
    ProgressCallback,
    attacks_of,
    evaluation_folder,
    plan_of,
)
from lrat.experiments.evaluation_request import EvaluationRequest
from lrat.files.names import EXTENT
from lrat.files.write import appears
from lrat.runs.sources import ModelSource

Watcher: TypeAlias = Callable[[], AbstractContextManager[ProgressCallback]]


def evaluate_in_processes(
    source: ModelSource, request: EvaluationRequest, watcher: Watcher | None = None
) -> tuple[Path | None, EvaluationResult] | None:
    """As ``evaluate_subject``, in ``request.devices`` processes on each of ``request.nodes``
    machines: on CUDA one for each GPU, on the CPU of one thread each.

    ``watcher`` makes the callback for the first process's progress; it must be picklable.
    The folder is None where the evidence was kept for this call alone. None is returned in all but
    the first of processes that torchrun or SLURM started.

    Raises what the evaluation raises in one of them, which ends the others; ``LratError`` for one
    that was killed.
    """
    request.check()
    if request.devices is None:
        raise ConfigurationError("devices: say in how many processes")
    kept = source.run is not None or source.out is not None
    spread = Spread(device=request.device, devices=request.devices, nodes=request.nodes)
    temporary = nullcontext("") if kept else TemporaryDirectory(prefix="lrat-")
    with temporary as scratch:
        work = _EvaluationWork(
            source=source, request=request, spread=spread, scratch=scratch, watcher=watcher
        )
        ended = in_processes(work, spread)
        joined = None if ended is None else _joined(ended, request)
    return None if joined is None else (joined[0] if kept else None, joined[1])


_Ended: TypeAlias = tuple[str, list[int]]
"""The folder, and the images of the blocks that the processes finished. The rows do
not show which: in a block that was stopped, the finished images are mostly those fooled early."""


@dataclass(frozen=True, kw_only=True)
class _EvaluationWork:
    """What each process does; called with its Fabric."""

    source: ModelSource
    request: EvaluationRequest
    spread: Spread
    scratch: str
    watcher: Watcher | None

    def __call__(self, fabric: Any) -> _Ended:
        rank, of = fabric.global_rank, fabric.world_size
        device: torch.device = fabric.device
        share_processors(device, self.spread)
        subject = self.source.load(self.request.threat)
        attacks = attacks_of(subject, self.request)
        folder = evaluation_folder(subject, self.request, attacks) or Path(self.scratch)
        folder = Path(fabric.broadcast(str(folder)))
        alone = replace(self.request, devices=None, nodes=1)
        plan: EvaluationPlan | None = None
        if rank == 0:
            plan = plan_of(subject, alone, attacks, folder, device)
            plan.begin()
        fabric.barrier()
        finished: list[int] = []
        # A share without a finished block adds nothing; the others' shares count.
        with self._watched(rank, of) as progress, suppress(NothingFinishedError):
            if rank < _images_of(folder, rank):
                # The others plan once the first process has begun the folder, to see as it does.
                plan = plan or plan_of(subject, alone, attacks, folder, device)
                finished = plan.run(progress, part=(rank + 1, of)).index.tolist()
        return str(folder), _gathered(finished, of)

    @contextmanager
    def _watched(self, rank: int, of: int) -> Iterator[ProgressCallback | None]:
        """The first process tells how far it is, and that this is a part."""
        with nullcontext() if rank or self.watcher is None else self.watcher() as tell:
            if tell is None:
                yield None
                return

            def report(progress: Progress) -> None:
                tell(replace(progress, attack=f"{progress.attack} (process 1 of {of})"))

            yield report


def _gathered(finished: list[int], of: int) -> list[int]:
    """The finished images of all processes."""
    shares: list[list[int]] = [[] for _ in range(of)]
    torch.distributed.all_gather_object(shares, finished)
    return [image for share in shares for image in share]


def _images_of(folder: Path, rank: int) -> int:
    """How many images the evaluation that the first process began is of."""
    if not appears(folder / EXTENT):
        raise RunFolderError(
            f"process {rank + 1} does not see {folder}, which the first one began: choose a "
            "folder that all machines share"
        )
    return int(read_extent(folder)["images"])


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

"""The processes that train one model together: alone, or through lightning-fabric.

Each holds the whole model and the whole source and takes its share of every batch, so that the
images, their noise and the order are those of a single process; what differs is the order in which
numbers are added up.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from lrat.errors import ConfigurationError, ModelError
from lrat.modes import is_running_statistic
from lrat.types import Batch

_UNFINISHED = "Expected to have finished reduction in the prior iteration"


@runtime_checkable
class ProcessGroup(Protocol):
    """One process among those that train together. All call the same methods in the same order.

    ``rank`` counts from 0, the first one writes; ``size``: how many there are.
    """

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    def wrap(self, model: nn.Module) -> nn.Module:
        """What the loss calls: backward leaves gradients averaged over the processes, buffers
        as they are. The parameters are ``model``'s own."""
        ...

    def quiet(self, wrapped: nn.Module) -> AbstractContextManager[None]:
        """Inside, forward and backward of ``wrapped`` add up gradients without exchanging them."""
        ...

    def gather(self, values: Tensor) -> Tensor:
        """Everybody's ``values`` [N], of one length: [size, N] by rank."""
        ...

    def mean(self, values: Tensor) -> Tensor:
        """The mean of everybody's ``values``, of one shape."""
        ...

    def barrier(self) -> None:
        """Wait until all are here."""
        ...


@dataclass(frozen=True, kw_only=True)
class SingleProcess:
    """The process group of a single process."""

    rank: int = 0
    size: int = 1

    def wrap(self, model: nn.Module) -> nn.Module:
        return model

    def quiet(self, wrapped: nn.Module) -> AbstractContextManager[None]:
        return nullcontext()

    def gather(self, values: Tensor) -> Tensor:
        return values[None]

    def mean(self, values: Tensor) -> Tensor:
        return values

    def barrier(self) -> None:
        return


def first_to_differ(group: ProcessGroup, *numbers: int, device: torch.device) -> int | None:
    """The lowest rank whose ``numbers`` are not those of the first process; None if all agree.

    Of each number the lowest 52 bits are compared. The same answer in all processes.
    """
    exact = torch.tensor(
        [float(number % 2**52) for number in numbers], dtype=torch.float64, device="cpu"
    )
    gathered = group.gather(exact.to(device))
    differs = (gathered != gathered[0]).any(1).nonzero()
    return int(differs[0]) if len(differs) else None


def texts_of_all(group: ProcessGroup, text: str, device: torch.device) -> list[str]:
    """The ``text`` of each process, by rank."""
    content = list(text.encode())
    length = torch.tensor([float(len(content))], dtype=torch.float64, device=device)
    lengths = [int(number) for number in group.gather(length).flatten()]
    if not any(lengths):
        return [""] * group.size
    padded = content + [0] * (max(lengths) - len(content))
    rows = group.gather(torch.tensor(padded, dtype=torch.uint8, device=device)).tolist()
    return [bytes(row[:count]).decode() for row, count in zip(rows, lengths, strict=True)]


def shares(batch: Batch, size: int) -> list[Batch]:
    """The batch in ``size`` runs of neighbours that differ by at most one image; some may be empty.

    In the order of ranks they are the batch again.
    """
    parts = zip(
        batch.images.tensor_split(size),
        batch.labels.tensor_split(size),
        batch.index.tensor_split(size),
        strict=True,
    )
    return [Batch(images=images, labels=labels, index=index) for images, labels, index in parts]


def agree_on_buffers(model: nn.Module, group: ProcessGroup) -> None:
    """Give all processes the mean of BatchNorm's running statistics, and the first one's others.

    Each one's BatchNorm saw its own share. When they agree after every step the processes stay the
    same model, and a checkpoint of the first one is a checkpoint of all.
    """
    if group.size == 1:
        return
    averaged: list[Tensor] = []
    others: list[Tensor] = []
    for name, buffer in model.named_buffers():
        (averaged if is_running_statistic(name) else others).append(buffer)
    with torch.no_grad():
        if averaged:
            # In float64 the mean of equal numbers is that number.
            together = group.mean(torch.cat([buffer.flatten().double() for buffer in averaged]))
            sizes = [buffer.numel() for buffer in averaged]
            for buffer, value in zip(averaged, torch.split(together, sizes), strict=True):
                buffer.copy_(value.view_as(buffer))
        if others:
            as_bytes = [_bytes(buffer) for buffer in others]
            first = group.gather(torch.cat(as_bytes))[0]
            sizes = [len(part) for part in as_bytes]
            for buffer, part in zip(others, torch.split(first, sizes), strict=True):
                buffer.copy_(part.clone().view(buffer.dtype).view_as(buffer))


def _bytes(value: Tensor) -> Tensor:
    return value.detach().contiguous().flatten().view(torch.uint8)


class FabricGroup:
    """A ``ProcessGroup`` of the processes that a launched Fabric connects.

    Sums over three or more processes are added in the order of ranks: those of DDP's own exchange
    depend on where a gradient lies in a bucket, and buckets change after the first step, so that a
    continued run would differ in the last bits. (Two numbers have one order.)
    """

    def __init__(self, fabric: Any) -> None:
        self._fabric = fabric

    @property
    def rank(self) -> int:
        return int(self._fabric.global_rank)

    @property
    def size(self) -> int:
        return int(self._fabric.world_size)

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model in DDP; the first process's parameters and buffers for all."""
        if self.size == 1:
            return model
        wrapped: DistributedDataParallel = self._fabric.strategy.setup_module(model)
        if self.size > 2:
            wrapped.register_comm_hook(
                self.size, lambda size, bucket: _mean_by_rank(size, bucket.buffer())
            )
        return wrapped

    def quiet(self, wrapped: nn.Module) -> AbstractContextManager[None]:
        if not isinstance(wrapped, DistributedDataParallel):
            return nullcontext()
        context: AbstractContextManager[None] = wrapped.no_sync()
        return context

    def gather(self, values: Tensor) -> Tensor:
        if self.size == 1:
            return values[None]
        everybody = [torch.empty_like(values) for _ in range(self.size)]
        distributed.all_gather(everybody, values.contiguous())
        return torch.stack(everybody)

    def mean(self, values: Tensor) -> Tensor:
        return _added(list(self.gather(values.detach()))) / self.size

    def barrier(self) -> None:
        if self.size > 1:
            self._fabric.barrier()


def _mean_by_rank(size: int, values: Tensor) -> torch.futures.Future[Tensor]:
    """The mean of everybody's gradients."""
    everybody = [torch.empty_like(values) for _ in range(size)]
    gathered = distributed.all_gather(everybody, values, async_op=True)
    future: torch.futures.Future[Tensor] = gathered.get_future().then(
        lambda _: _added(everybody) / size
    )
    return future


def _added(values: list[Tensor]) -> Tensor:
    """From the first to the last: for each element in the same order, wherever it lies."""
    first, *others = values
    total = first.clone()
    for value in others:
        total += value
    return total


def unused_parameters(error: Exception) -> ModelError | None:
    """What DDP says of a model some of whose parameters take no part in its output, in a line."""
    if _UNFINISHED not in str(error):
        return None
    return ModelError(
        "some parameters of the model take no part in its logits, which several processes cannot "
        "train together: leave them out, or call requires_grad_(False) on them"
    )


def synchronised(network: nn.Module, device: torch.device, size: int) -> nn.Module:
    """The network with its BatchNorm over the images of all ``size`` processes.

    Parameters, buffers and their names stay. Raises ``ConfigurationError`` where PyTorch has no
    such layer: it is for CUDA alone.
    """
    check_synchronised(device)
    if size == 1:
        return network
    convert: Callable[[nn.Module], nn.Module] = nn.SyncBatchNorm.convert_sync_batchnorm
    return convert(network)


def check_synchronised(device: torch.device) -> None:
    """Refuse a device whose BatchNorm cannot be synchronised."""
    if device.type != "cuda":
        raise ConfigurationError(
            f"training.sync_batch_norm needs CUDA, PyTorch has it for nothing else, and this is "
            f"{device.type}: leave it out"
        )

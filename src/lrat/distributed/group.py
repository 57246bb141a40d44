"""The processes that train one model together, as the engine sees them.

Each holds the whole model and the whole source and takes its share of every batch, so that the
images, their noise and the order are those of a single process; what differs is the order in which
numbers are added up.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from lrat.modes import is_running_statistic
from lrat.types import Batch


@runtime_checkable
class Crew(Protocol):
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
class Alone:
    """The crew of a single process."""

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


def first_to_differ(crew: Crew, *numbers: int, device: torch.device) -> int | None:
    """The lowest rank whose ``numbers`` are not those of the first process; None if all agree.

    Of each number the lowest 52 bits are compared. The same answer in all processes.
    """
    own = torch.tensor(
        [float(number % 2**52) for number in numbers], dtype=torch.float64, device="cpu"
    )
    everybody = crew.gather(own.to(device))
    differs = (everybody != everybody[0]).any(1).nonzero()
    return int(differs[0]) if len(differs) else None


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


def agree_on_buffers(model: nn.Module, crew: Crew) -> None:
    """Give all processes the mean of BatchNorm's running statistics, and the first one's others.

    Each one's BatchNorm saw its own share. When they agree after every step the processes stay the
    same model, and a checkpoint of the first one is a checkpoint of all.
    """
    if crew.size == 1:
        return
    averaged: list[Tensor] = []
    others: list[Tensor] = []
    for name, buffer in model.named_buffers():
        (averaged if is_running_statistic(name) else others).append(buffer)
    with torch.no_grad():
        if averaged:
            # In float64 the mean of equal numbers is that number.
            together = crew.mean(torch.cat([buffer.flatten().double() for buffer in averaged]))
            sizes = [buffer.numel() for buffer in averaged]
            for buffer, value in zip(averaged, torch.split(together, sizes), strict=True):
                buffer.copy_(value.view_as(buffer))
        if others:
            as_bytes = [_bytes(buffer) for buffer in others]
            first = crew.gather(torch.cat(as_bytes))[0]
            sizes = [len(part) for part in as_bytes]
            for buffer, part in zip(others, torch.split(first, sizes), strict=True):
                buffer.copy_(part.clone().view(buffer.dtype).view_as(buffer))


def _bytes(value: Tensor) -> Tensor:
    return value.detach().contiguous().flatten().view(torch.uint8)

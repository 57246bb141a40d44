"""The processes that train together, through lightning-fabric."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from lrat.errors import ConfigurationError, ModelError

_UNFINISHED = "Expected to have finished reduction in the prior iteration"


class FabricCrew:
    """A ``Crew`` of the processes that a launched Fabric connects.

    Sums over three or more processes are made in the order of ranks: those of DDP's own exchange
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


def _mean_by_rank(size: int, own: Tensor) -> torch.futures.Future[Tensor]:
    """The mean of everybody's gradients."""
    everybody = [torch.empty_like(own) for _ in range(size)]
    gathered = distributed.all_gather(everybody, own, async_op=True)
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

"""CUDA graphs of a network: its forward and its image gradient, each replayed by one launch.

This was written from PyTorch's documentation and has not run on a GPU yet: it is off by default
(``Choices(graphs=True)`` turns it on), and ``benchmarks/gpu.py`` measures it.
"""

import logging
from typing import Any

import torch
from torch import Tensor, nn

from lrat.text import reason

_logger = logging.getLogger(__name__)
_SIGHTINGS = 2
"""A shape is captured in the third attack with it, since a capture costs more than an attack."""
_MOST_GRAPHS = 4


class GraphedNetwork:
    """Calls ``network``; on CUDA, frequent shapes of images are replayed from a graph.

    ``network`` is frozen and in eval mode; its weights may change in place. Outputs and gradients
    are copies, since the next replay overwrites the graph's buffers. A network that cannot be
    captured runs without graphs, with a warning.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._sent: set[tuple[Any, ...]] = set()
        self._largest: dict[tuple[Any, ...], int] = {}
        self._sightings: dict[tuple[Any, ...], int] = {}
        self._graphs: dict[tuple[Any, ...], Any] = {}
        self._broken = False

    def begin_attack(self) -> None:
        """The images of the next calls belong to another attack."""
        self._sent.clear()
        self._largest.clear()

    def __call__(self, images: Tensor) -> Any:
        if images.device.type != "cuda" or self._broken:
            return self._network(images)
        key = (tuple(images.shape), images.dtype, images.stride(), torch.is_grad_enabled())
        if key not in self._graphs:
            if not self._counts(key) or len(self._graphs) >= _MOST_GRAPHS:
                return self._network(images)
            if not self._capture(key, images):
                return self._network(images)
        output = self._graphs[key](_CopiedGradient.apply(images))
        return output.clone() if isinstance(output, Tensor) else output

    def _counts(self, key: tuple[Any, ...]) -> bool:
        """Whether enough attacks had images of this shape. Sizes of a batch that has shrunk because
        images retired do not count, since they are hardly repeated."""
        (size, *shape), *others = key
        kind = (tuple(shape), *others)
        largest = self._largest[kind] = max(size, self._largest.get(kind, 0))
        if key not in self._sent and size == largest:
            self._sightings[key] = self._sightings.get(key, 0) + 1
        self._sent.add(key)
        return size == largest and self._sightings.get(key, 0) > _SIGHTINGS

    def _capture(self, key: tuple[Any, ...], images: Tensor) -> bool:
        sample = images.detach().clone().requires_grad_(torch.is_grad_enabled())
        try:
            with torch.autocast("cuda", torch.bfloat16, enabled=torch.is_autocast_enabled("cuda")):
                graphed = torch.cuda.make_graphed_callables(self._network.forward, (sample,))
        except Exception as error:  # a user's forward may do things that a capture forbids
            self._broken = True
            _logger.warning("the network cannot be captured as a CUDA graph: %s", reason(error))
            return False
        self._graphs[key] = graphed
        return True


class _CopiedGradient(torch.autograd.Function):
    """The identity; its gradient is a copy."""

    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:
        return images.view_as(images)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0].clone()

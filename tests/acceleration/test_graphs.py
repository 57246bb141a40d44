"""Which shapes are captured as CUDA graphs, with a capture that only counts."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lrat.acceleration.graphs import GraphedNetwork


class OnCuda(torch.Tensor):
    """Images that say they are on CUDA."""

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return torch.device("cuda")


@pytest.fixture
def graphed(monkeypatch: pytest.MonkeyPatch) -> tuple[Any, list[int]]:
    captured: list[int] = []

    def capture(self: Any, key: Any, images: Any) -> bool:
        captured.append(key[0][0])
        self._graphs[key] = lambda given: torch.zeros(1)
        return True

    monkeypatch.setattr(GraphedNetwork, "_capture", capture)
    monkeypatch.setattr(
        "lrat.acceleration.graphs._CopiedGradient.apply", staticmethod(lambda images: images)
    )
    network: Any = GraphedNetwork(nn.Identity())
    network._network = lambda images: torch.zeros(1)
    return network, captured


def attack(network: Any, sizes: list[int]) -> None:
    network.begin_attack()
    for size in sizes:
        assert isinstance(network(torch.empty(size, 3, 2, 2).as_subclass(OnCuda)), Tensor)


def test_a_shape_counts_once_per_attack(graphed: tuple[Any, list[int]]) -> None:
    network, captured = graphed
    attack(network, [128] * 20)
    attack(network, [128] * 20)
    attack(network, [80] * 20)
    assert captured == []
    attack(network, [128] * 20)
    assert captured == [128]


def test_clean_images_and_stacked_tries_are_both_captured(graphed: tuple[Any, list[int]]) -> None:
    network, captured = graphed
    for _ in range(3):
        attack(network, [128, 384, 384])
    assert captured == [128, 384]


def test_nothing_is_captured_where_batches_retire(graphed: tuple[Any, list[int]]) -> None:
    network, captured = graphed
    for _ in range(5):
        attack(network, [128, 128, 90, 90, 90, 40, 40, 12])
    assert captured == [128]

"""The script that says where time goes counts every pass once, and its parts add up."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from builders import seeded
from experiments.commands import TINY
from lrat.config.settings import load_config, parse_assignments
from lrat.experiments.train import train_run

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def phases(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(FOLDER))
    import phases

    monkeypatch.setattr(phases, "_MATRIX", 64)
    yield phases
    sys.modules.pop("phases")


def rows(table: str) -> dict[str, list[str]]:
    lines = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")]
    return {name: cells for name, *cells in lines[2:]}


@pytest.mark.parametrize(
    ("method", "attack", "update"),
    [
        ("sat", "3.00 + 3.00", "1.00 + 1.00"),
        # A clean pass for both attacks, SAA's three targets with a last look each, CW.
        ("lrat-saa+cw", "16.00 + 12.00", "2.00 + 2.00"),
        ("trades", "4.00 + 3.00", "2.00 + 2.00"),
    ],
)
def test_every_pass_of_training_is_counted_once(
    phases: ModuleType, method: str, attack: str, update: str
) -> None:
    table = phases.training(method, [*TINY[1::2], "training.batch_size=10"], 3)
    assert "20 images" in table, "the warm-up does not count"
    found = rows(table)
    assert found["attack"][5] == attack
    assert found["update"][5] == update
    shares = [float(cells[0].rstrip(" %")) for cells in found.values()]
    assert sum(shares) == pytest.approx(100, abs=0.2)


def test_each_attack_of_an_evaluation_is_a_phase(phases: ModuleType, tmp_path: Path) -> None:
    epochs = "training.epochs=1"
    train_run(load_config({}, parse_assignments([*TINY[1::2], epochs])), tmp_path / "run")
    found = rows(phases.evaluation(tmp_path / "run", "quick", 20))
    assert {"pgd-20", "cw-20"} <= found.keys()


def test_hooks_are_gone_and_flop_are_those_by_hand(phases: ModuleType) -> None:
    model = seeded(
        0, lambda: nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Flatten(), nn.Linear(256, 10))
    )
    images = torch.full((5, 1, 8, 8), 0.5)
    with phases.Clock(torch.device("cpu")).watching(model, model):
        assert len(model._forward_hooks) == 1
    assert not model._forward_hooks
    convolution, linear = 2 * 64 * 9 * 4, 2 * 256 * 10
    forward = convolution + linear
    assert phases.pass_flop(model, images, None) == {"forward": forward, "backward": forward}
    # The gradient for weights needs no product back to the images.
    taken = phases.pass_flop(model, images, list(model.parameters()))
    assert taken["backward"] == convolution + 2 * linear

"""Modules that are not quite modules: TorchScript, exported, compiled, wrapped, quantised ones."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lrat
from lrat.attacks import FGSM, Square
from lrat.errors import LratError
from lrat.evaluation import custom
from lrat.threat import Linf

pytestmark = [
    pytest.mark.usefixtures("own_randomness"),
    pytest.mark.filterwarnings(
        "ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning"
    ),
]
BALL = Linf(epsilon=0.05)
LABELS = torch.arange(16) % 2
IMAGES = torch.rand(16, 1, 5, 5, generator=torch.Generator().manual_seed(0))
SUITE = custom(BALL, {"fgsm": FGSM(threat=BALL)})


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm, self.head = nn.Linear(25, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(torch.relu(self.norm(self.layer(images.flatten(1)))))


def exported() -> nn.Module:
    shapes = ({0: torch.export.Dim("count", min=1, max=64)},)
    return torch.export.export(Net().eval(), (IMAGES[:3],), dynamic_shapes=shapes).module()


def quantised() -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(Net().eval(), {nn.Linear}, dtype=torch.qint8)


KINDS: dict[str, Callable[[], Any]] = {
    "scripted": lambda: torch.jit.script(Net()),
    "frozen": lambda: torch.jit.freeze(torch.jit.script(Net().eval())),
    "traced": lambda: torch.jit.trace(Net().eval(), IMAGES[:3]),
    "exported": exported,
    "compiled": lambda: torch.compile(Net(), backend="eager"),
    "data-parallel": lambda: nn.DataParallel(Net()),
}


@pytest.mark.parametrize("kind", KINDS)
def test_they_are_evaluated_like_the_model_itself(kind: str) -> None:
    found = []
    for make, acceleration in ((Net, "auto"), (KINDS[kind], "auto"), (KINDS[kind], "off")):
        torch.manual_seed(0)
        options: dict[str, Any] = {"suite": SUITE, "acceleration": acceleration}
        result = lrat.evaluate(make(), (IMAGES, LABELS), threat=BALL, **options)
        found.append({name: share.value for name, share in result.accuracy.items()})
    assert found[1:] == [found[0], found[0]]


class Direct(Net):
    """Its own ``__call__`` runs no hooks."""

    def __call__(self, images: Tensor) -> Tensor:
        return self.forward(images)


class Polite(Net):
    """Its own ``__call__`` runs the hooks."""

    def __call__(self, images: Tensor) -> Tensor:
        return super().__call__(images)


@pytest.mark.parametrize("acceleration", ["auto", "off"])
def test_passes_of_a_class_with_a_call_of_its_own_are_counted(acceleration: str) -> None:
    def passes(make: type[nn.Module]) -> Mapping[str, int | None]:
        torch.manual_seed(0)
        (record,) = lrat.fit(
            *(make(), (IMAGES, LABELS)),
            threat=BALL,
            method="lrat-saa+cw",
            epochs=1,
            batch_size=8,
            validation=0,
            acceleration=acceleration,
        ).records
        return record.passes

    plain = passes(Net)
    assert plain["update_forwards"] == plain["update_backwards"] == 2
    assert plain["attack_forwards"] > 0
    assert passes(Direct) == passes(Polite) == plain


@pytest.mark.parametrize("kind", ["frozen", "exported"])
def test_the_panel_looks_at_them(kind: str) -> None:
    assert lrat.check_masking(KINDS[kind](), (IMAGES[:4], LABELS[:4]), threat=BALL).checks


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - {"frozen"}))
def test_they_are_trained_in_place(kind: str) -> None:
    model = KINDS[kind]()
    before = [value.detach().clone() for value in model.parameters()]
    options: dict[str, Any] = {"method": "sat", "epochs": 1, "lr": 0.1, "validation": 0}
    lrat.fit(model, (IMAGES, LABELS), threat=BALL, batch_size=8, **options)
    moved = [bool((a != b).any()) for a, b in zip(before, model.parameters(), strict=True)]
    assert any(moved)
    assert not model.training


@pytest.mark.parametrize("kind", [KINDS["frozen"], quantised])
def test_what_cannot_be_trained_is_one_line_before_training(kind: Callable[[], Any]) -> None:
    with pytest.raises(LratError) as refused:
        lrat.fit(kind(), (IMAGES, LABELS), threat=BALL, method="sat", epochs=1, validation=0)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("acceleration", ["auto", "off"])
def test_without_gradients_square_is_named_and_works(acceleration: Any) -> None:
    options: dict[str, Any] = {"threat": BALL, "acceleration": acceleration}
    with pytest.raises(LratError, match="Square"):
        lrat.evaluate(quantised(), (IMAGES, LABELS), suite=SUITE, **options)
    square = custom(BALL, {"square": Square(threat=BALL, queries=3)})
    assert len(lrat.evaluate(quantised(), (IMAGES, LABELS), suite=square, **options).index) == 16

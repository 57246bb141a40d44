"""What verdicts are computed with: full float32, whatever the user allowed and by which API."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lrat
from builders import random_images, seeded
from lrat.attacks import FAB, PGD
from lrat.evaluation import custom
from lrat.hardware import differentiable, full_float32
from lrat.threat import Linf

BACKENDS: Any = torch.backends
THREAT = Linf(epsilon=0.3)
IMAGES = random_images(6, 1, 5)
LABELS = torch.zeros(6, dtype=torch.long)
NEW = hasattr(BACKENDS.cuda.matmul, "fp32_precision")


def holders() -> list[Any]:
    return [
        *(BACKENDS, BACKENDS.cuda.matmul, BACKENDS.cudnn, BACKENDS.cudnn.conv, BACKENDS.cudnn.rnn),
        *(BACKENDS.mkldnn, BACKENDS.mkldnn.matmul, BACKENDS.mkldnn.conv, BACKENDS.mkldnn.rnn),
    ]


def state() -> list[str]:
    return [holder.fp32_precision for holder in holders()]


@pytest.fixture(autouse=True)
def settings_come_back() -> Iterator[None]:
    """To what a process begins with, by both of PyTorch's ways."""
    yield
    for holder in holders() if NEW else []:
        holder.fp32_precision = "none"
    BACKENDS.cudnn.allow_tf32 = True
    torch.set_float32_matmul_precision("highest")


def _set(holder: Any, value: str) -> Callable[[], None]:
    return lambda: setattr(holder, "fp32_precision", value)


WAYS: dict[str, Callable[[], object]] = {
    "nothing": lambda: None,
    "all backends": _set(BACKENDS, "tf32"),
    "cuDNN": _set(BACKENDS.cudnn, "tf32"),
    "matrix products": _set(BACKENDS.cuda.matmul, "tf32"),
    "medium": lambda: torch.set_float32_matmul_precision("medium"),
    "old flags": lambda: setattr(BACKENDS.cuda.matmul, "allow_tf32", True),
}


@pytest.mark.skipif(not NEW, reason="this PyTorch has the old flags alone")
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_float32_is_whole_inside_and_the_settings_are_as_before_after(
    way: Callable[[], object],
) -> None:
    way()
    before = state()
    with full_float32():
        assert all(holders()[number].fp32_precision == "ieee" for number in (1, 3, 4, 6, 7, 8))
        if way is not WAYS["cuDNN"]:
            assert BACKENDS.cudnn.allow_tf32 is False, "read by programs that torch.export made"
    assert state() == before


@pytest.mark.skipif(not NEW, reason="this PyTorch has the old flags alone")
def test_what_was_inherited_follows_the_setting_for_all_afterwards() -> None:
    BACKENDS.fp32_precision = "tf32"
    with full_float32():
        pass
    BACKENDS.fp32_precision = "ieee"
    assert BACKENDS.mkldnn.matmul.fp32_precision == "ieee"


def test_without_the_new_settings_the_old_flags_are_switched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lrat.hardware._holders", list)
    for allowed in (True, False):
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = allowed
        with full_float32():
            assert not torch.backends.cudnn.allow_tf32
            assert not torch.backends.cuda.matmul.allow_tf32
        assert torch.backends.cudnn.allow_tf32 is allowed
        assert torch.backends.cuda.matmul.allow_tf32 is allowed


def is_full() -> bool:
    if NEW:
        return bool(BACKENDS.cudnn.conv.fp32_precision == "ieee")
    return not torch.backends.cudnn.allow_tf32


class Rounding(nn.Module):
    """Its class depends on the settings: an image whose verdict is not whole float32 is wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(25, 3)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layer(images.flatten(1))
        if is_full() or torch.is_grad_enabled():
            return logits + torch.tensor([100, 0, 0])
        return logits


def test_verdicts_rest_on_full_float32() -> None:
    """No image is wrong in it; without it, an attack that gives up fooled images loses some."""
    members = {
        "pgd": PGD(threat=THREAT, steps=2, step_size=0.1),
        "fab": FAB(threat=THREAT, steps=2, targets=1, retire_every=1),
    }
    result = lrat.evaluate(
        seeded(0, Rounding), (IMAGES, LABELS), threat=THREAT, suite=custom(THREAT, members)
    )
    assert result.worst_case.value == 1


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rows, self.head = nn.LSTM(5, 8, batch_first=True), nn.Linear(8, 3)
        self.seen: list[bool] = []

    def forward(self, images: Tensor) -> Tensor:
        enabled = torch.backends.cudnn.enabled
        logits: Tensor = self.head(self.rows(images[:, 0])[0][:, -1])
        if logits.requires_grad:
            logits.register_hook(lambda gradient: self.seen.append(enabled))
        return logits


def steps(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    leaf = images.clone().requires_grad_()
    torch.autograd.grad(model(leaf).sum(), leaf)
    return images


def test_recurrent_layers_are_attacked_without_cudnn() -> None:
    """It refuses their backward in eval mode."""
    model = seeded(0, Recurrent)
    members = {"pgd": PGD(threat=THREAT, steps=2, step_size=0.1), "own": steps}
    suite = custom(THREAT, members)
    lrat.evaluate(model, (IMAGES, LABELS), threat=THREAT, suite=suite, acceleration="off")
    assert len(model.seen) == 3
    lrat.check_masking(model, (IMAGES[:2], LABELS[:2]), threat=THREAT, acceleration="off")
    assert len(model.seen) > 3
    assert not any(model.seen)
    assert torch.backends.cudnn.enabled
    with differentiable(nn.Flatten()):
        assert torch.backends.cudnn.enabled


@pytest.mark.parametrize(
    "setting", [full_float32, lambda: differentiable(nn.LSTM(2, 2, device="meta"))]
)
def test_threads_that_meet_inside_leave_the_settings_as_they_were(setting: Any) -> None:
    """The second one enters before the first leaves, and leaves after it."""

    def now() -> Any:
        return (state() if NEW else None, BACKENDS.cudnn.enabled)

    before = now()
    first, second = setting(), setting()
    first.__enter__()
    inside = now()
    second.__enter__()
    first.__exit__(None, None, None)
    assert now() == inside != before
    second.__exit__(None, None, None)
    assert now() == before

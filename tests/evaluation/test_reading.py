"""Stored answers held against the model that is to continue."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lrat
from builders import seeded
from lrat.attacks import FGSM
from lrat.errors import RunFolderError
from lrat.evaluation import custom
from lrat.evaluation.forward import check_answers, stored_clean
from lrat.threat import Linf
from lrat.types import Batch

BALL = Linf(epsilon=0.05)


def images_and_labels() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(40, 1, 5, 5, generator=generator), torch.arange(40) % 2


class Model(nn.Module):
    """Weights under a ``forward`` that may change without them."""

    def __init__(self, pixels: int, sign: float = 1.0, noise: float = 0.0) -> None:
        super().__init__()
        self.layer = nn.Linear(pixels, 2)
        self.sign, self.noise = sign, noise

    def forward(self, images: Tensor) -> Tensor:
        logits = self.sign * self.layer(images.flatten(1))
        return logits + self.noise * torch.rand(logits.shape) if self.noise else logits


def model(sign: float = 1.0, noise: float = 0.0) -> Model:
    images, _ = images_and_labels()
    return seeded(0, lambda: Model(images[0].numel(), sign, noise))


def evaluate(network: nn.Module, folder: Path, function=None, **settings):
    attacks = {"fgsm": FGSM(threat=BALL) if function is None else function}
    return lrat.evaluate(
        network,
        images_and_labels(),
        threat=BALL,
        suite=custom(BALL, attacks),
        folder=folder,
        acceleration="off",
        batch_size=8,
        **settings,
    )


def test_another_forward_with_the_same_weights_is_refused(tmp_path: Path) -> None:
    first = evaluate(model(), tmp_path)
    with pytest.raises(RunFolderError, match=r"answers otherwise: image \d+ had the margin"):
        evaluate(model(sign=-1.0), tmp_path)
    with pytest.raises(RunFolderError, match="its code changed"):
        evaluate(model(sign=1.01), tmp_path)
    assert evaluate(model(), tmp_path).accuracy == first.accuracy


def test_an_unfinished_folder_is_not_continued_by_it_either(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        evaluate(model(), tmp_path, function=_interrupted)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(RunFolderError, match="answers otherwise"):
        evaluate(model(sign=-1.0), tmp_path, function=_interrupted)
    assert sorted(tmp_path.rglob("*")) == before


def _interrupted(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    raise KeyboardInterrupt


def test_a_model_that_draws_is_not_held_to_its_answers(tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first = evaluate(model(noise=3.0), tmp_path)
        assert evaluate(model(noise=3.0), tmp_path).accuracy == first.accuracy


def test_rounding_is_no_difference_and_classes_are_compared(tmp_path: Path) -> None:
    network = model()
    evaluate(network, tmp_path)
    stored = stored_clean(tmp_path, 5)
    assert stored is not None
    assert len(stored) == 5
    images, labels = images_and_labels()
    index = torch.from_numpy(stored.index).flip(0)
    batch = Batch(images=images[index], labels=labels[index], index=index)
    network.layer.bias.data += 1e-5
    check_answers(network, batch, stored, tmp_path)
    rows = stored.columns() | {"prediction": 1 - stored.prediction}
    with pytest.raises(RunFolderError, match="5 of 5 images differ"):
        check_answers(network, batch, type(stored).from_columns(rows), tmp_path)


def test_a_folder_without_clean_images_has_nothing_to_compare(tmp_path: Path) -> None:
    assert stored_clean(None, 5) is None
    assert stored_clean(tmp_path, 5) is None


def test_another_attack_of_the_same_name_is_refused(tmp_path: Path) -> None:
    def brighter(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return (images + 0.02).clamp(0, 1)

    first = evaluate(model(), tmp_path, function=brighter)
    kept = brighter

    def brighter(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return (images + 0.03).clamp(0, 1)

    with pytest.raises(RunFolderError, match="functions: "):
        evaluate(model(), tmp_path, function=brighter)
    again = evaluate(model(), tmp_path, function=kept)
    np.testing.assert_array_equal(again.outcomes.margin, first.outcomes.margin)


def test_a_folder_where_no_attack_finished_may_be_deleted(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        evaluate(model(), tmp_path, function=_interrupted)
    with pytest.raises(RunFolderError, match="no attack has finished anything there, so delete it"):
        evaluate(model(), tmp_path)

"""Each guard speaks in a training that was made to show it, and none in a sound one."""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from builders import seeded
from lrat.training.guards import Notice
from lrat.types import PerExample
from lrat.weighting import Evidence
from trained import digits
from training.guards.runs import guarded, network, sat


def names(notices: list[Notice]) -> list[str]:
    return [notice.guard for notice in notices]


def test_sound_training_is_left_in_peace() -> None:
    assert guarded(sat(0.2, steps=3, step_size=0.1), epsilon=0.2, epochs=11) == []
    assert guarded(sat(0.2, steps=3, step_size=0.1), epsilon=0.2, epochs=6, probed=True) == []


class Enlarged(nn.Module):
    """A small convolutional network on digits of twice their size."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs, stride in ((1, 8, 1), (8, 16, 2), (16, 16, 2)):
            layers += [
                nn.Conv2d(inputs, outputs, 3, padding=1, stride=stride, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
            ]
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * 16, 10))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(F.interpolate(images, scale_factor=2))


def test_one_large_step_overfits_catastrophically() -> None:
    fgsm = sat(0.3, steps=1, step_size=0.3, start="none")
    (notice,) = guarded(fgsm, epsilon=0.3, epochs=6, images=1000, model=seeded(0, Enlarged))
    assert notice.guard == "catastrophic-overfitting"
    assert "collapsed from" in notice.text


def test_a_probe_that_is_never_withstood_is_catastrophic_as_well() -> None:
    fgsm = sat(0.3, steps=1, step_size=0.3, start="none")
    (notice,) = guarded(fgsm, epsilon=0.3, epochs=10, probed=True)
    assert notice.guard == "catastrophic-overfitting"
    assert "60 training images" in notice.text


def test_memorised_labels_are_robust_overfitting() -> None:
    generator = torch.Generator().manual_seed(1)
    labels = digits()[1].clone()
    wrong = torch.randperm(300, generator=generator)[:100]
    labels[wrong] = (labels[wrong] + torch.randint(1, 10, (100,), generator=generator)) % 10
    found = guarded(
        sat(0.06, steps=2, step_size=0.045), epsilon=0.06, epochs=20, images=300, labels=labels
    )
    assert names(found) == ["robust-overfitting"]
    assert "while that of training rose" in found[0].text


def test_steps_of_size_zero_attack_nobody() -> None:
    random = guarded(sat(0.2, steps=1, step_size=0.0), epsilon=0.2, epochs=12)
    assert names(random) == ["idle-attack"]
    assert "no more than random noise" in random[0].text
    still = guarded(sat(0.2, steps=1, step_size=0.0, start="none"), epsilon=0.2, epochs=4)
    assert names(still) == ["idle-attack"]
    assert "changes none" in still[0].text


class Quantised(nn.Module):
    """Rounds what it sees, so that its gradient is 0 everywhere."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model((images * 8).round() / 8)


def test_a_model_without_a_gradient_is_not_attacked() -> None:
    found = guarded(sat(0.1), epsilon=0.1, epochs=12, images=600, model=Quantised(network()))
    assert "idle-attack" in names(found)


class Hardest:
    """All weight on the few images with the smallest logit of their class."""

    needs: frozenset[str] = frozenset()

    def __init__(self, share: float) -> None:
        self.share = share

    def __call__(self, evidence: Evidence) -> PerExample:
        right = evidence.logits.gather(1, evidence.labels[:, None])[:, 0]
        count = int(self.share * len(right))
        return (right.argsort().argsort() < count).float()


def test_weight_on_few_images_and_on_none() -> None:
    few = guarded(sat(0.1, weighting=Hardest(0.07)), epsilon=0.1, epochs=3)
    assert names(few) == ["collapsed-weights"]
    assert "about 4 of the" in few[0].text
    none = guarded(sat(0.1, weighting=Hardest(0.0)), epsilon=0.1, epochs=2)
    assert names(none) == ["no-weights"]


def test_a_handful_of_images_selects_nothing() -> None:
    found = guarded(sat(0.2, steps=3, step_size=0.1), epsilon=0.2, epochs=8, held=20)
    assert names(found) == ["small-validation"]
    assert "20 held-out images" in found[0].text

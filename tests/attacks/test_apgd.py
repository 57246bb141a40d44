"""Auto-PGD beyond parity: checkpoints, candidates, tries, and settings that it refuses."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from builders import keyed
from lrat.attacks import APGD, SAA
from lrat.attacks.ascent import checkpoints
from lrat.errors import ModelError, SettingError
from lrat.hooks import PassCounter
from lrat.losses import cross_entropy, logit_margin, probability_margin, targeted_dlr
from lrat.randomness import Keyed
from lrat.threat import Linf
from trained import THREAT, held_out, trained


def margins(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    with torch.no_grad():
        return probability_margin(model(images), labels)


def test_checkpoints_by_hand() -> None:
    """Periods of .22 N, then .03 N shorter each time, never below .06 N (Croce & Hein 2020)."""
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert checkpoints(20) == [4, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20]
    assert checkpoints(1) == [1]


class Peak(nn.Module):
    """Right everywhere, least surely at x = 0.5 + 1e-4: a step of epsilon overshoots."""

    def forward(self, images: Tensor) -> Tensor:
        distance = (images.flatten(1)[:, 0] - 0.5001).abs()
        return torch.stack([1 + distance, torch.zeros_like(distance)], dim=1)


@pytest.mark.parametrize("settings", [{}, {"choice": "best-loss"}, {"stacked": True}], ids=str)
def test_from_the_clean_image_it_still_returns_a_variant(settings: dict[str, Any]) -> None:
    """Where no step raised the loss, the last iterate stands in for the clean image."""
    image, label = torch.full((1, 1, 1, 1), 0.5), torch.tensor([0])
    attack = APGD(threat=Linf(epsilon=0.1), steps=1, start="none", **settings)
    adversarial = attack(Peak(), image, label).images
    assert (adversarial - image).abs().item() == pytest.approx(0.1)


@pytest.mark.parametrize("choice", ["misclassified", "best-loss"])
def test_the_trace_describes_the_returned_image(choice: Any) -> None:
    model = trained("dense")
    images, labels = held_out(model, 60)
    for stacked in (False, True):
        attack = APGD(
            threat=THREAT,
            steps=10,
            loss=targeted_dlr,
            targets=3,
            choice=choice,
            stacked=stacked,
        )
        result = attack(model, images, labels, noise=keyed(60))
        trace: Any = result.trace
        torch.testing.assert_close(
            trace.margin, margins(model, result.images, labels), rtol=0, atol=1e-5
        )
        assert trace.step.min() >= 0
        assert trace.step.max() <= 10
        assert set(trace.source.tolist()) == {0, 1, 2}


def test_restarts_and_targets_only_make_it_stronger() -> None:
    """Every further try starts elsewhere, and the smallest margin is kept."""
    model = trained("dense")
    images, labels = held_out(model, 60)

    def reached(**settings: Any) -> Tensor:
        attack = APGD(threat=THREAT, steps=10, choice="best-loss", stacked=True, **settings)
        return margins(model, attack(model, images, labels, noise=keyed(60)).images, labels)

    once, twice = reached(restarts=1), reached(restarts=2)
    assert (twice <= once + 1e-6).all()
    assert (twice < once - 1e-6).any()
    one, three = (reached(loss=targeted_dlr, targets=count) for count in (1, 3))
    assert (three <= one + 1e-6).all()
    assert (three < one - 1e-6).any()


def test_tries_stop_at_images_that_are_fooled() -> None:
    model = trained("dense")
    images, labels = held_out(model, 60)
    attack = APGD(threat=THREAT, steps=10, loss=targeted_dlr, targets=9)
    result = attack(model, images, labels, noise=keyed(60))
    trace: Any = result.trace
    fooled = margins(model, result.images, labels) < 0
    assert fooled.any()
    assert not fooled.all()
    tries = trace.forwards / 11
    assert (tries[~fooled] == 9).all()
    assert torch.equal(tries[fooled], trace.source[fooled] + 1.0)


def test_stacked_and_one_by_one_agree_on_what_cannot_be_fooled() -> None:
    model = trained("dense")
    images, labels = held_out(model, 60)
    variants = []
    for stacked in (False, True):
        attack = APGD(threat=THREAT, steps=10, loss=targeted_dlr, targets=3, stacked=stacked)
        result = attack(model, images, labels, noise=keyed(60))
        variants.append(margins(model, result.images, labels))
    stuck = variants[0] >= 0
    assert stuck.any()
    assert torch.equal(stuck, variants[1] >= 0)
    torch.testing.assert_close(variants[0][stuck], variants[1][stuck], rtol=0, atol=1e-4)


def test_the_misclassified_choice_is_the_latest_misclassified_iterate() -> None:
    """It fools whatever the best-loss choice fools: with DLR the best loss may be no success."""
    model = trained("dense")
    images, labels = held_out(model, 60)
    wrong = []
    for choice in ("best-loss", "misclassified"):
        attack = APGD(threat=THREAT, steps=10, choice=choice)
        wrong.append(
            margins(model, attack(model, images, labels, noise=keyed(60)).images, labels) < 0
        )
    assert (wrong[1] | ~wrong[0]).all()


def test_targets_are_limited_to_the_wrong_classes() -> None:
    class Three(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            flat = images.flatten(1)
            return torch.stack([flat.sum(1) + 9, flat[:, 0], flat[:, 1]], dim=1)

    images, labels = torch.full((2, 1, 2, 2), 0.5), torch.zeros(2, dtype=torch.long)
    attack = APGD(threat=Linf(epsilon=0.1), steps=2, loss=targeted_dlr, targets=9)
    trace: Any = attack(Three(), images, labels).trace
    assert trace.forwards.tolist() == [2 * 3, 2 * 3]


@pytest.mark.parametrize("stacked", [False, True])
def test_a_model_with_a_single_class_is_named(stacked: bool) -> None:
    class One(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1).sum(1, keepdim=True)

    attack = APGD(threat=Linf(epsilon=0.1), steps=2, loss=targeted_dlr, targets=3, stacked=stacked)
    with pytest.raises(ModelError, match="K >= 2 classes"):
        attack(One(), torch.zeros(2, 1, 2, 2), torch.zeros(2, dtype=torch.long))


def test_saa_returns_the_worst_of_its_candidates() -> None:
    """The smallest probability margin among the targets' best-loss iterates."""
    model = trained("dense")
    images, labels = held_out(model, 60)
    saa = SAA(threat=THREAT, steps=10)(model, images, labels, noise=keyed(60))
    with torch.no_grad():
        clean = model(images)
    each = []
    for rank in (1, 2, 3):
        one = APGD(
            threat=THREAT,
            steps=10,
            loss=Ranked(rank),
            start="uniform",
            choice="best-loss",
            targets=1,
        )
        drawn = keyed(60).child(0).child(rank)
        variant = one(model, images, labels, noise=Fixed(drawn.keys), clean_logits=clean)
        each.append(margins(model, variant.images, labels))
    expected = torch.stack(each).amin(0)
    reached = margins(model, saa.images, labels)
    torch.testing.assert_close(reached, expected, rtol=0, atol=1e-4)


class Fixed(Keyed):
    """Noise whose children are itself: the start of a single try is the given one."""

    def child(self, name: str | int) -> "Fixed":
        return self

    def select(self, rows: Tensor) -> "Fixed":
        return Fixed(self.keys[rows])


class Ranked:
    """Targeted DLR towards the wrong class of this rank, for every rank of the caller."""

    needs_clean = targeted = True

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def prepare(self, labels: Tensor, clean_logits: Any = None, rank: Any = None) -> Any:
        return targeted_dlr.prepare(labels, clean_logits, torch.full_like(labels, self.rank))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": targeted_dlr}, "needs targets=T"),
        ({"loss": cross_entropy, "targets": 3}, "takes no targets"),
        ({"loss": logit_margin, "targets": 3}, "takes no targets"),
        ({"loss": targeted_dlr, "targets": 0}, "targets=0"),
        ({"restarts": 0}, "restarts=0"),
        ({"steps": 0}, "steps=0"),
    ],
)
def test_settings_that_contradict_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        APGD(threat=THREAT, **settings)


@pytest.mark.parametrize("every", [1, 7, 10])
@pytest.mark.parametrize("kind", ["ce", "targeted"])
def test_retiring_fools_the_same_images_with_fewer_passes(kind: str, every: int) -> None:
    model = trained()
    images, labels = held_out(model, 80)
    settings = {"threat": THREAT, "steps": 30}
    if kind == "targeted":
        settings |= {"loss": targeted_dlr, "targets": 3}
    whole = APGD(**settings)(model, images, labels, noise=5)
    retiring = APGD(**settings, retire_every=every)(model, images, labels, noise=5)
    with torch.no_grad():
        fooled = [model(each.images).argmax(1) != labels for each in (whole, retiring)]
    assert 0 < fooled[0].sum() < len(labels)
    assert torch.equal(*fooled)
    assert whole.trace is not None
    assert retiring.trace is not None
    standing = ~fooled[0]
    assert torch.equal(retiring.images[standing], whole.images[standing])
    assert torch.equal(retiring.trace.forwards[standing], whole.trace.forwards[standing])
    assert (retiring.trace.forwards <= whole.trace.forwards).all()
    assert retiring.trace.forwards[fooled[0]].sum() < whole.trace.forwards[fooled[0]].sum()
    assert float(THREAT.violation(retiring.images, images).max()) <= THREAT.tolerance


def test_retiring_counts_the_model_s_own_passes() -> None:
    model = trained()
    images, labels = held_out(model, 60)
    attack = APGD(threat=THREAT, steps=20, loss=targeted_dlr, targets=3, retire_every=4)
    with torch.no_grad():
        clean = model(images)
    with PassCounter(model) as counter:
        variant = attack(model, images, labels, noise=1, clean_logits=clean)
    assert variant.trace is not None
    assert int(variant.trace.forwards.sum()) == counter.forwards
    assert int(variant.trace.backwards.sum()) == counter.backwards


def test_retiring_a_whole_batch_calls_no_empty_model() -> None:
    class Refusing(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            assert len(images) > 0
            flat = images.flatten(1).sum(1, keepdim=True)
            return torch.cat([flat, 1 - flat], dim=1)

    images = torch.full((4, 1, 2, 2), 0.13)
    labels = torch.ones(4, dtype=torch.long)
    attack = APGD(threat=Linf(epsilon=0.2), steps=12, retire_every=2)
    variant = attack(Refusing(), images, labels)
    assert (Refusing()(variant.images).argmax(1) == 0).all()


def test_retiring_is_refused_where_tries_are_stacked() -> None:
    with pytest.raises(SettingError, match="retire_every=5: not with stacked=True"):
        APGD(threat=THREAT, retire_every=5, stacked=True)
    with pytest.raises(SettingError, match="retire_every=0"):
        APGD(threat=THREAT, retire_every=0)

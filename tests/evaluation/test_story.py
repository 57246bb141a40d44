"""The story of one image: an evaluation's verdicts, and the way to them for any attack."""

from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lrat.acceleration import Choices, FastView
from lrat.attacks import APGD, FAB, PGD, SAA, Cascade
from lrat.errors import DataError, SettingError
from lrat.evaluation import Suite, custom, evaluate_suite
from lrat.evaluation.story import AttackStory, tell_story
from lrat.losses import logit_margin
from lrat.randomness import Keyed, keys
from lrat.threat import Linf
from lrat.types import Batch
from trained import digits, held_out, trained

BALL = Linf(epsilon=0.1)


def fool(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """A foreign attack: three random perturbations at once, then the best of them alone."""
    signs = torch.rand(3, *images.shape[1:]).sub(0.5).sign()
    tries = (images + 0.1 * signs).clamp(0, 1)
    margins = logit_margin(model(tries), labels.expand(3))
    best = tries[margins.argmin()][None]
    model(best)
    return best


def one(position: int) -> tuple[nn.Module, Batch]:
    model = trained("dense")
    images, labels = held_out(model, 40)
    rows = slice(position, position + 1)
    return model, Batch(images=images[rows], labels=labels[rows], index=torch.tensor([position]))


def suite() -> Suite:
    cascade = Cascade(
        members={
            "weak": PGD(threat=BALL, steps=2, step_size=0.01),
            "apgd": APGD(threat=BALL, steps=10),
            "fab": FAB(threat=BALL, steps=5, targets=2),
        }
    )
    return custom(
        BALL,
        {
            "pgd": PGD(threat=BALL, steps=7, step_size=0.05),
            "saa": SAA(threat=BALL, steps=6),
            "halving": SAA(threat=BALL, steps=6, keep={2: 1}),
            "cascade": cascade,
            "foreign": fool,
        },
    )


@cache
def story_of(position: int) -> dict[str, AttackStory]:
    model, batch = one(position)
    return {attack.name: attack for attack in tell_story(model, batch, suite()).attacks}


@pytest.mark.parametrize("position", [0, 5, 11])
def test_verdicts_are_those_of_an_evaluation_among_other_images(position: int) -> None:
    model = trained("dense")
    images, labels = held_out(model, 20)
    whole = Batch(images=images, labels=labels, index=torch.arange(20))
    ours = suite()
    kept = [member for member in ours.members if member.name != "foreign"]  # seeded per batch
    ours = Suite(name="kept", threat=BALL, members=tuple(kept))
    stored = evaluate_suite(model, [whole], ours, seed=3).outcomes
    model, batch = one(position)
    story = tell_story(model, batch, ours, seed=3)
    assert [attack.name for attack in story.attacks] == [step.name for step in ours.steps]
    for attack in story.attacks:
        row = stored.under(attack.name).at(np.array([position]))
        assert attack.row.fooled[0] == row.fooled[0]
        assert attack.row.prediction[0] == row.prediction[0]
        np.testing.assert_allclose(attack.row.margin, row.margin, atol=1e-4)
        assert attack.row.forwards[0] == row.forwards[0]


def test_a_path_is_what_the_model_answered_to_each_step() -> None:
    model, batch = one(2)
    story = tell_story(model, batch, suite(), seed=1)
    (path,) = next(attack for attack in story.attacks if attack.name == "pgd").paths
    attack = PGD(threat=BALL, steps=7, step_size=0.05)
    noise = Keyed(keys(1, batch.index)).child("pgd")
    steps = [
        PGD(threat=BALL, steps=count, step_size=0.05)(
            model, batch.images, batch.labels, noise=noise
        ).images
        for count in range(1, 7)
    ]
    with torch.no_grad():
        expected = logit_margin(model(torch.cat(steps)), batch.labels.expand(6))
    np.testing.assert_allclose(path.margin[1:], expected.numpy(), atol=1e-5)
    assert path.forward.tolist() == list(range(7))
    assert path.inside.all()
    wrong = np.flatnonzero(path.margin < 0)
    assert path.failure == (wrong[0] if len(wrong) else None)
    survived = attack(model, batch.images, batch.labels, noise=noise).steps_survived
    assert survived is not None
    assert int(survived[0]) == int((path.margin >= 0).sum())


def test_tries_at_once_have_a_path_each() -> None:
    attacks = story_of(3)
    assert [len(path.forward) for path in attacks["saa"].paths] == [7, 7, 7]
    # After iterate 2 one of the tries goes on: its path is the only long one, and it is unbroken.
    lengths = sorted(len(path.forward) for path in attacks["halving"].paths)
    assert lengths == [3, 3, 7]
    (going_on,) = [path for path in attacks["halving"].paths if len(path.forward) == 7]
    assert going_on.forward.tolist() == list(range(7))
    assert np.abs(np.diff(going_on.margin[2:])).max() < 1


def test_a_foreign_attack_has_its_paths_too() -> None:
    attack = story_of(4)["foreign"]
    assert sorted(len(path.forward) for path in attack.paths) == [1, 1, 2]
    (going_on,) = [path for path in attack.paths if len(path.forward) == 2]
    assert going_on.margin[0] == pytest.approx(going_on.margin[1], abs=1e-5)
    assert going_on.margin[0] == min(path.margin[0] for path in attack.paths)
    assert going_on.margin[1] == pytest.approx(float(attack.row.margin[0]), abs=1e-5)


def test_stages_of_a_cascade_after_a_success_did_not_run() -> None:
    stories = [story_of(position) for position in range(8)]
    fooled = next(each for each in stories if each["cascade.apgd"].row.fooled[0])
    assert fooled["cascade.apgd"].image is not None
    assert fooled["cascade.fab"].image is None
    assert fooled["cascade.fab"].paths == ()
    robust = next(each for each in stories if not each["cascade.apgd"].row.fooled[0])
    assert robust["cascade.fab"].image is not None
    assert robust["cascade.fab"].paths


def test_what_lies_outside_the_threat_is_no_failure() -> None:
    """FAB looks for the boundary wherever it is."""
    stories = [story_of(position)["cascade.fab"] for position in range(12)]
    robust = [each for each in stories if each.image is not None and not each.row.fooled[0]]
    outside = [path for each in robust for path in each.paths if not path.inside.all()]
    assert outside
    assert any((path.margin < 0).any() and path.failure is None for path in outside)


def test_an_image_that_is_wrong_when_clean_is_not_attacked() -> None:
    model, batch = one(0)
    wrong = Batch(images=batch.images, labels=(batch.labels + 1) % 10, index=batch.index)
    story = tell_story(model, wrong, suite())
    assert bool(story.natural.fooled[0])
    assert all(attack.image is None and not attack.paths for attack in story.attacks)
    assert story.probabilities.sum() == pytest.approx(1)
    assert story.probabilities.argmax() == story.natural.prediction[0]


def test_through_a_view_the_attack_sees_the_view_and_the_model_decides() -> None:
    model = trained()
    images, labels = (part[1500:1501] for part in digits())
    batch = Batch(images=images, labels=labels, index=torch.tensor([7]))
    view = FastView(model, Choices(fold=True))
    only = custom(BALL, {"pgd": PGD(threat=BALL, steps=4, step_size=0.05)})
    (seen,) = tell_story(model, batch, only, view=view).attacks
    (plain,) = tell_story(model, batch, only).attacks
    np.testing.assert_allclose(seen.paths[0].margin, plain.paths[0].margin, atol=1e-3)
    assert len(seen.paths[0].forward) == 4
    assert seen.calls == 1
    assert not view._forward_hooks


def test_no_hook_is_left_after_an_error() -> None:
    def broken(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        raise ZeroDivisionError

    model, batch = one(0)
    with pytest.raises(SettingError, match="broken"):
        tell_story(model, batch, custom(BALL, {"broken": broken}))
    assert not model._forward_hooks


def test_a_story_is_about_one_image() -> None:
    model, batch = one(0)
    two = Batch(
        images=batch.images.repeat(2, 1, 1, 1),
        labels=batch.labels.repeat(2),
        index=torch.tensor([0, 1]),
    )
    with pytest.raises(DataError, match="one image, not 2"):
        tell_story(model, two, suite())

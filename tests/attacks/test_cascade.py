"""Attacks one after the other: who meets whom, what is kept, what it cost."""

import pytest
import torch

from attacks.stubs import Bright, Brighten, WrongView, grey
from builders import keyed
from lrat.attacks import (
    APGD,
    CW,
    FAB,
    PGD,
    AutoAttack,
    Cascade,
    Restarts,
    Square,
    Variant,
)
from lrat.errors import SettingError
from lrat.losses import cross_entropy, cw, difference, targeted_dlr
from lrat.objectives import Reweighted, Term
from lrat.threat import L2, Linf
from lrat.weighting import GeometryTanh, MarginPower
from steps import attack_and_score, batch_of
from trained import THREAT, held_out, trained


def shades(variant: Variant) -> list[float]:
    return [round(float(value), 4) for value in variant.images[:, 0, 0, 0]]


def test_each_attack_meets_only_what_withstood_those_before() -> None:
    members = {"first": Brighten(by=0.1), "second": Brighten(by=0.25), "third": Brighten(by=0.4)}
    Cascade(members=members)(Bright(), *grey(0.1, 0.2, 0.3, 0.45))
    assert members["first"].values == [0.1, 0.2, 0.3, 0.45]
    assert members["second"].values == [0.1, 0.2, 0.3]
    assert members["third"].values == [0.1, 0.2]


def test_attacks_that_nothing_is_left_for_do_not_run() -> None:
    last = Brighten(by=0.4)
    Cascade(members={"first": Brighten(by=0.4), "last": last})(Bright(), *grey(0.2, 0.3))
    assert last.values == []


def test_the_first_success_is_kept_else_the_smallest_margin() -> None:
    """0.45 falls to the first, 0.2 to the last; 0.1 to none, and the second came closest."""
    members = {
        "weak": Brighten(by=0.1),
        "middle": Brighten(by=0.35),
        "harmless": Brighten(by=0.05),
    }
    variant = Cascade(members=members)(Bright(), *grey(0.45, 0.2, 0.1))
    assert shades(variant) == [0.55, 0.55, 0.45]
    assert variant.trace is not None
    assert variant.trace.source is not None
    assert variant.trace.source.tolist() == [0, 1, 1]
    assert variant.trace.margin is not None
    assert (variant.trace.margin < 0).tolist() == [True, True, False]


def test_passes_are_the_sum_with_one_forward_for_each_look() -> None:
    """The first tells nothing: its single forward is counted; the second says 3 and 2."""
    members = {"silent": Brighten(by=0.1), "telling": Brighten(by=0.25, step=2)}
    model = Bright()
    trace = Cascade(members=members)(model, *grey(0.45, 0.3, 0.1)).trace
    assert trace is not None
    assert trace.forwards is not None
    assert trace.backwards is not None
    assert trace.step is not None
    assert trace.forwards.tolist() == [1 + 1, 2 + 3 + 1, 2 + 3 + 1]
    assert trace.backwards.tolist() == [0, 2, 2]
    assert trace.step.tolist() == [-1, 2, 2]


def test_members_draw_from_children_of_the_noise_of_their_names() -> None:
    """So that neither the others nor the images that left change what a member draws."""
    images = grey(0.1, 0.45, 0.2)
    first, second = Brighten(by=0.1), Brighten(by=0.1)
    noise = keyed(3)
    Cascade(members={"a": first, "b": second})(Bright(), *images, noise=noise)
    drawn = [
        attack.noises[0].uniform((count, 4), "x") for attack, count in ((first, 3), (second, 2))
    ]
    assert torch.equal(drawn[0], noise.child("a").uniform((3, 4), "x"))
    assert torch.equal(drawn[1], noise.child("b").uniform((3, 4), "x")[[0, 2]])


def test_success_is_judged_by_the_class_where_probabilities_round_to_the_same() -> None:
    """Logits of 1e-9: every probability is one half in float32, the classes still differ."""
    members = {"weak": Brighten(by=0.1), "strong": Brighten(by=0.4), "never": Brighten(by=0.0)}
    variant = Cascade(members=members)(Bright(scale=1e-9), *grey(0.45, 0.2))
    assert members["never"].values == []
    assert shades(variant) == [0.55, 0.6]


def test_what_only_a_view_sees_fooled_goes_on_to_the_next_attack() -> None:
    """The view's boundary is at .3, its original's at .5."""
    original = Bright()
    view = WrongView(original, Bright(boundary=0.3))
    strong = Brighten(by=0.35)
    variant = Cascade(members={"weak": Brighten(by=0.15), "strong": strong})(view, *grey(0.2, 0.4))
    assert strong.values == [0.2]
    assert shades(variant) == [0.55, 0.55]


def test_clean_logits_are_taken_once_for_all_attacks() -> None:
    model = trained()
    images, labels = held_out(model, 8)
    targeted = APGD(threat=THREAT, steps=2, loss=targeted_dlr, targets=2)
    sizes: list[int] = []
    hook = model.register_forward_hook(lambda *call: sizes.append(len(call[2])))
    try:
        variant = Restarts(attack=targeted, count=3)(model, images, labels)
    finally:
        hook.remove()
    assert variant.trace is not None
    assert variant.trace.forwards is not None
    assert sum(sizes) == int(variant.trace.forwards.sum()) + len(images)


def test_restarts_differ_in_their_starts_alone_and_fool_what_any_of_them_fools() -> None:
    model = trained()
    images, labels = held_out(model, 120)
    attack, noise = PGD(threat=THREAT, steps=2, step_size=THREAT.epsilon / 4), keyed(120)

    def fooled(variant: Variant) -> torch.Tensor:
        with torch.no_grad():
            return model(variant.images).argmax(1) != labels

    single = [fooled(attack(model, images, labels, noise=noise.child(n))) for n in range(4)]
    together = Restarts(attack=attack, count=4)(model, images, labels, noise=noise)
    union = torch.stack(single).any(0)
    assert int(single[0].sum()) < int(union.sum()) < 120
    assert torch.equal(fooled(together), union)
    assert together.trace is not None
    assert together.trace.source is not None
    assert torch.equal(together.trace.source[union], torch.stack(single).int().argmax(0)[union])


def test_restarts_attack_only_what_is_left() -> None:
    attack = Brighten(by=0.2)
    Restarts(attack=attack, count=3)(Bright(), *grey(0.1, 0.4))
    assert attack.values == [0.1, 0.4, 0.1, 0.1]


def test_a_cascade_is_simulated_in_training_like_any_attack() -> None:
    cascade = Cascade(
        members={
            "pgd": PGD(threat=THREAT, steps=2, step_size=0.1),
            "cw": CW(threat=THREAT, steps=2, step_size=0.1),
        }
    )
    margin = MarginPower(alpha=2, beta=0.5)
    objective = Reweighted(terms=[Term(name="both", attack=cascade, weighting=margin)])
    model = trained()
    images, labels = held_out(model, 10)
    batch = batch_of(images, labels)
    output = attack_and_score(objective, model, batch)
    assert output.total.isfinite()
    with pytest.raises(SettingError, match="steps_survived"):
        Term(name="both", attack=cascade, weighting=GeometryTanh())


@pytest.mark.parametrize("threat", [Linf(epsilon=8 / 255), L2(epsilon=0.5)])
def test_autoattack_is_the_standard_cascade(threat: Linf | L2) -> None:
    members = AutoAttack(threat=threat).members
    assert list(members) == ["apgd-ce", "apgd-t", "fab-t", "square"]
    ce, targeted, fab, square = members.values()
    assert isinstance(ce, APGD)
    assert isinstance(targeted, APGD)
    assert isinstance(fab, FAB)
    assert isinstance(square, Square)
    assert (ce.loss, ce.steps, ce.restarts, ce.targets) == (cross_entropy, 100, 1, None)
    assert (targeted.loss, targeted.steps, targeted.targets) == (targeted_dlr, 100, 9)
    assert (fab.loss, fab.steps, fab.targets) == (difference, 100, 9)
    assert (square.loss, square.queries, square.p_init, square.restarts) == (cw, 5000, 0.8, 1)
    assert {attack.threat for attack in (ce, targeted, fab, square)} == {threat}
    kept = AutoAttack(threat=threat, retire=False).members.values()
    assert {attack.retire_every for attack in kept} == {None}


def test_cascades_without_attacks_and_restarts_below_one_are_refused() -> None:
    with pytest.raises(SettingError, match="at least one attack"):
        Cascade(members={})
    with pytest.raises(SettingError, match=r"count=0.*>= 1"):
        Restarts(attack=Brighten(by=0.1), count=0)


def test_plain_functions_are_taken_as_members() -> None:
    cascade = Cascade(members={"mine": lambda model, images, labels: images + 0.2})
    assert shades(cascade(Bright(), *grey(0.1, 0.4))) == [0.3, 0.6]

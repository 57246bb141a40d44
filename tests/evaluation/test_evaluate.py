import logging

import numpy as np
import pytest
import torch
from torch import nn

from evaluation.parts import (
    THREAT,
    Calls,
    batches_of,
    images_and_labels,
    linear,
    robust_margin,
)
from evaluation.results import assert_equal_outcomes
from lrat.attacks import APGD, PGD, as_attack
from lrat.errors import (
    DataError,
    ModelError,
    NonFiniteError,
    RegionViolationError,
    SettingError,
)
from lrat.evaluation import custom, evaluate_suite, quick, tier
from lrat.losses import targeted_dlr
from lrat.threat import L2
from lrat.types import Batch


def evaluate(model=None, data=None, suite=None, size=16, **settings):
    images, labels = images_and_labels() if data is None else data
    model = linear() if model is None else model
    suite = custom(THREAT, {"step": Calls()}) if suite is None else suite
    return evaluate_suite(model, batches_of(images, labels, size), suite, **settings)


def test_robust_accuracy_equals_the_closed_form_of_a_linear_model():
    images, labels = images_and_labels()
    clean = robust_margin(linear(), images, labels, 0.0)
    after = robust_margin(linear(), images, labels, THREAT.epsilon)
    assert after.abs().min() > 1e-4
    result = evaluate(suite=tier(THREAT, 2))
    robust = int((after > 0).sum())
    assert 0 < robust < int((clean > 0).sum()) < len(images)
    assert result.accuracy["natural"].value == int((clean > 0).sum()) / len(images)
    for name in ("pgd-20", "cw-20", "apgd-ce", "apgd-t"):
        assert result.accuracy[name].value == robust / len(images)
    assert result.worst_case.value == robust / len(images)
    rows = result.outcomes.under("pgd-20")
    right = (clean > 0).numpy()
    np.testing.assert_allclose(rows.margin[right], after[right].numpy(), atol=1e-5)
    np.testing.assert_allclose(rows.margin_clean, clean.numpy(), atol=1e-5)
    np.testing.assert_allclose(rows.distance[right], THREAT.epsilon, atol=1e-6)


def test_outcomes_do_not_depend_on_the_batch_split():
    model, data = linear(4), images_and_labels(16, 4)
    targeted = APGD(threat=THREAT, steps=8, loss=targeted_dlr, targets=3)
    suite = custom(THREAT, _members(quick(THREAT)) | {"apgd-t": targeted})
    one, seven, all_of_them = (evaluate(model, data, suite, size=size) for size in (1, 7, 64))
    assert 0 < one.worst_case.value < 1
    for other in (seven, all_of_them):
        assert_equal_outcomes(one, other)


def test_the_noise_of_an_image_comes_from_seed_index_and_member_name():
    class Noisy:
        provides = frozenset()
        needs_clean = False

        def __init__(self):
            self.drawn = []

        def __call__(self, model, images, labels, *, noise=None, clean_logits=None):
            self.drawn.append(noise.uniform((len(images), 1), "x"))
            return PGD(threat=THREAT, steps=1, step_size=0.01)(model, images, labels, noise=noise)

    def drawn(name, size, seed=0):
        attack = Noisy()
        evaluate(suite=custom(THREAT, {name: attack}), size=size, seed=seed)
        return torch.cat(attack.drawn)

    assert torch.equal(drawn("a", 3), drawn("a", 40))
    assert not torch.equal(drawn("a", 40), drawn("b", 40))
    assert not torch.equal(drawn("a", 40), drawn("a", 40, seed=1))


def test_an_image_wrong_when_clean_is_not_robust_and_not_attacked():
    attack = Calls()
    result = evaluate(suite=custom(THREAT, {"step": attack}))
    natural, rows = result.outcomes.under("natural"), result.outcomes.under("step")
    wrong = natural.fooled
    assert 0 < wrong.sum() < len(natural)
    assert attack.images == (~wrong).sum()
    assert rows.fooled[wrong].all()
    assert (rows.forwards[wrong] == 0).all()
    assert (rows.distance[wrong] == 0).all()
    np.testing.assert_array_equal(rows.margin[wrong], natural.margin[wrong])


def test_members_attack_independently():
    first, second = Calls(), Calls()
    evaluate(suite=custom(THREAT, {"first": first, "second": second}))
    assert first.images == second.images


def test_passes_are_the_attacks_own_or_counted():
    result = evaluate(suite=custom(THREAT, {"mine": Calls(), **_members(quick(THREAT))}))
    share = result.accuracy["natural"].value
    assert result.passes["natural"].forwards == 1
    assert result.passes["natural"].backwards == 0
    assert result.passes["pgd-20"].forwards == pytest.approx(20 * share)
    assert result.passes["pgd-20"].backwards == pytest.approx(20 * share)
    assert result.passes["mine"].forwards == pytest.approx(share)
    assert result.passes["mine"].backwards == pytest.approx(share)


def _members(suite):
    return {member.name: member.attack for member in suite.members}


def test_step_and_source_come_from_the_attacks_trace():
    result = evaluate(linear(4), images_and_labels(20, 4), tier(THREAT, 4))
    attacked = ~result.outcomes.under("natural").fooled
    targeted = result.outcomes.under("apgd-t")
    assert (targeted.step[attacked] >= 0).all()
    assert set(targeted.source[attacked]) <= {0, 1, 2}
    assert (targeted.step[~attacked] == -1).all()


@pytest.mark.parametrize("threat", [THREAT, L2(epsilon=0.3)])
def test_an_attack_that_leaves_its_ball_is_named(threat):
    def cheat(model, images, labels):
        images = images.clone()
        images[-1] += 0.4
        return images

    images, _ = images_and_labels()
    images = images.clamp(max=0.55)
    with torch.no_grad():
        labels = linear()(images).argmax(1)
    with pytest.raises(RegionViolationError, match=r"cheat left .* on image 15 by 0\.\d+ \(1 such"):
        evaluate(data=(images, labels), suite=custom(threat, {"cheat": cheat}))


def test_an_attack_that_leaves_the_box_is_named():
    images = torch.full((4, 1, 3, 3), 0.99)
    with torch.no_grad():
        labels = linear()(images).argmax(1)
    suite = custom(THREAT, {"over": lambda model, images, labels: images + THREAT.epsilon})
    with pytest.raises(RegionViolationError, match=r"over left .* on image 0"):
        evaluate(data=(images, labels), suite=suite)


def test_an_attack_with_a_larger_epsilon_than_the_suite_is_refused():
    with pytest.raises(RegionViolationError, match="wide left"):
        evaluate(suite=custom(THREAT, {"wide": Calls(epsilon=2 * THREAT.epsilon)}))


def test_an_attack_that_returns_nan_is_named():
    def broken(model, images, labels):
        return torch.where(torch.arange(len(images)).view(-1, 1, 1, 1) == 1, torch.nan, images)

    images, labels = images_and_labels()
    right = (linear()(images).argmax(1) == labels).nonzero().flatten()
    with pytest.raises(NonFiniteError, match=f"broken returned NaN for image {int(right[1])} "):
        evaluate(suite=custom(THREAT, {"broken": broken}))


def test_an_attack_that_changes_the_shape_is_refused():
    class Cropping:
        provides = frozenset()
        needs_clean = False

        def __call__(self, model, images, labels, *, noise=None, clean_logits=None):
            variant = PGD(threat=THREAT, steps=1, step_size=0.1)(model, images, labels)
            return type(variant)(images=variant.images[..., :2])

    with pytest.raises(SettingError, match="crop returned"):
        evaluate(suite=custom(THREAT, {"crop": Cropping()}))


class Breaking(nn.Module):
    """NaN logits for images with a pixel above ``limit``."""

    def __init__(self, limit):
        super().__init__()
        self.inner = linear()
        self.limit = limit

    def forward(self, images):
        broken = images.flatten(1).amax(1, keepdim=True) > self.limit
        return torch.where(broken, torch.nan, self.inner(images))


def test_non_finite_logits_are_named_with_attack_and_image():
    images = torch.full((5, 1, 3, 3), 0.4)
    images[3] = 0.6
    with torch.no_grad():
        labels = linear()(images).argmax(1)
    with pytest.raises(NonFiniteError, match="image 3 under natural"):
        evaluate(Breaking(0.5), (images, labels))
    with pytest.raises(NonFiniteError, match="image 3 under step"):
        evaluate(Breaking(0.61), (images, labels))


class Modes(nn.Module):
    """A linear model whose dropout would show train mode, with one module frozen in eval."""

    def __init__(self):
        super().__init__()
        self.inner = linear()
        self.dropout = nn.Dropout(0.9)
        self.frozen = nn.BatchNorm2d(1)
        self.train()
        self.frozen.eval()

    def forward(self, images):
        return self.inner(self.dropout(self.frozen(images)))

    def modes(self):
        return [module.training for module in self.modules()]


def test_modes_come_back_and_train_mode_changes_no_verdict():
    model = Modes()
    before = model.modes()
    result = evaluate(model)
    assert model.modes() == before
    assert result.accuracy == evaluate(Modes().eval()).accuracy


def test_modes_come_back_after_an_error():
    model = Modes()
    before = model.modes()

    class Rude:
        provides = frozenset()
        needs_clean = False

        def __call__(self, model, images, labels, *, noise=None, clean_logits=None):
            model.eval()
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        evaluate(model, suite=custom(THREAT, {"rude": Rude()}))
    assert model.modes() == before
    assert not model._forward_hooks


def test_a_rude_attack_cannot_change_the_mode_of_the_verdict():
    class Rude:
        provides = frozenset()
        needs_clean = False

        def __call__(self, model, images, labels, *, noise=None, clean_logits=None):
            variant = PGD(threat=THREAT, steps=2, step_size=0.03)(model, images, labels)
            model.train()
            return variant

    polite = custom(THREAT, {"rude": PGD(threat=THREAT, steps=2, step_size=0.03)})
    rude = evaluate(Modes(), suite=custom(THREAT, {"rude": Rude()}), size=64)
    assert rude.outcomes.under("natural").fooled.tolist() == [
        *evaluate(Modes(), suite=polite, size=64).outcomes.under("natural").fooled
    ]
    assert (np.sign(rude.outcomes.margin) == np.where(rude.outcomes.fooled, -1, 1)).all()
    again = evaluate(Modes(), suite=custom(THREAT, {"rude": Rude()}), size=64)
    np.testing.assert_array_equal(rude.outcomes.margin, again.outcomes.margin)


def test_verdicts_come_from_the_model_not_from_the_view():
    class Blind(nn.Module):
        def forward(self, images):
            return images.flatten(1)[:, :2] * 0 + torch.tensor([1.0, 0.0])

    attack = PGD(threat=THREAT, steps=1, step_size=0.01, start="none")
    suite = custom(THREAT, {"pgd": attack})
    blind = evaluate(suite=suite, view=Blind()).outcomes
    clean, attacked = blind.under("natural"), blind.under("pgd")
    plain = evaluate(suite=suite).outcomes.under("pgd")
    # Of class 0 for the view: it has no gradient there. Of class 1 it seems fooled and is not.
    zero = attacked.label == 0
    assert plain.fooled[zero].sum() > clean.fooled[zero].sum()
    np.testing.assert_array_equal(attacked.fooled, np.where(zero, clean.fooled, plain.fooled))
    assert not attacked.fooled[~zero].all()


def test_evaluation_works_under_no_grad():
    with torch.no_grad():
        inside = evaluate()
    assert inside.accuracy == evaluate().accuracy


def test_verdicts_are_float32_under_autocast():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = evaluate().outcomes.under("natural")
    np.testing.assert_array_equal(inside.margin, evaluate().outcomes.under("natural").margin)


class Returning(nn.Module):
    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, images):
        return self.make(images)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda images: images.flatten(1)[:, 0], r"shape \(16,\) for 16 images"),
        (lambda images: images.flatten(1)[:, :1], "K >= 2 classes"),
        (lambda images: images.flatten(1)[:3], r"shape \(3, 9\)"),
        (lambda images: (), "returns tuple"),
        (lambda images: {"scores": images[:, 0]}, "returns dict"),
    ],
)
def test_outputs_that_are_no_logits_are_refused(make, message):
    with pytest.raises(ModelError, match=message):
        evaluate(Returning(make))


def test_labels_that_do_not_fit_the_model_are_refused():
    images, labels = images_and_labels()
    with pytest.raises(ModelError, match=r"labels go up to 3, which takes 4 classes, but .* has 2"):
        evaluate(data=(images, torch.where(labels == 1, 3, labels)))
    with pytest.raises(DataError, match="labels start at 0, found -1"):
        evaluate(data=(images, labels - 1))


@pytest.mark.parametrize("change", [lambda x: x * 255, lambda x: x - 0.5, lambda x: x * torch.nan])
def test_images_outside_the_unit_interval_are_refused(change):
    images, labels = images_and_labels()
    with pytest.raises(DataError, match=r"must lie in \[0, 1\]|NaN"):
        evaluate(data=(change(images), labels))


def test_no_images_and_repeated_images_are_refused():
    suite = quick(THREAT)
    with pytest.raises(DataError, match="no images"):
        evaluate_suite(linear(), [], suite)
    images, labels = images_and_labels(4)
    batch = next(batches_of(images, labels))
    with pytest.raises(DataError, match="image 0 came twice"):
        evaluate_suite(linear(), [batch, batch], suite)
    twins = Batch(images=images, labels=labels, index=torch.zeros(4, dtype=torch.int64))
    with pytest.raises(DataError, match="came twice"):
        evaluate_suite(linear(), [twins], suite)


def test_probabilities_are_warned_of_once(caplog):
    with caplog.at_level(logging.WARNING, logger="lrat"):
        evaluate()
        assert not caplog.records
        evaluate(nn.Sequential(linear(), nn.Softmax(dim=1)), size=8)
    (record,) = caplog.records
    assert "probabilities instead of logits" in record.getMessage()


def test_all_images_wrong_gives_zero_with_an_interval():
    images, labels = images_and_labels()
    with torch.no_grad():
        labels = 1 - linear()(images).argmax(1)
    result = evaluate(data=(images, labels))
    assert result.worst_case.value == 0
    assert 0 < result.worst_case.high < 0.2
    assert result.passes["step"].forwards == 0


def test_progress_counts_images_per_attack():
    heard = []
    result = evaluate(on_progress=heard.append)
    last = {progress.attack: progress for progress in heard}
    assert last["step"].done == 40
    assert last["step"].robust == round(result.accuracy["step"].value * 40)
    assert [progress.done for progress in heard if progress.attack == "natural"] == [16, 32, 40]


def test_progress_knows_the_number_of_images_where_the_batches_do():
    class Sized(list):
        size = 40

    for kind, total in ((list, None), (Sized, 40)):
        heard = []
        batches = kind(batches_of(*images_and_labels(), 16))
        suite = custom(THREAT, {"step": Calls()})
        evaluate_suite(linear(), batches, suite, on_progress=heard.append)
        assert {progress.total for progress in heard} == {total}


def test_an_adapted_attack_is_the_same_as_a_plain_callable():
    adapted = evaluate(suite=custom(THREAT, {"step": as_attack(Calls())}))
    assert adapted.accuracy == evaluate().accuracy

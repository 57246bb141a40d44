"""Losses: every equation by hand, against the reference, at its edges, and as prepared objects."""

import logging
import math
import pickle
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the community's name
from hypothesis import given, settings
from hypothesis import strategies as st
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from torch import Tensor

from lrat import losses
from lrat.errors import SettingError
from lrat.losses import (
    Loss,
    Prepared,
    Untargeted,
    as_loss,
    cross_entropy,
    cw,
    dlr,
    kl,
    logit_margin,
    probability_margin,
    ranked_targets,
    targeted_dlr,
)

LOGITS = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
RIGHT, WRONG = torch.tensor([0]), torch.tensor([2])
UNTARGETED = {"cross_entropy": cross_entropy, "cw": cw, "dlr": dlr}
ALL: dict[str, Loss] = {**UNTARGETED, "targeted_dlr": targeted_dlr, "kl": kl}
each_loss = pytest.mark.parametrize("loss", ALL.values(), ids=ALL)
NORMALISER = sum(math.exp(value) for value in (2, 1, 0, -1))


def random_logits(seed: int, classes: int = 10, count: int = 64) -> tuple[Tensor, Tensor]:
    """Logits whose labels are right for about half of the rows."""
    generator = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(count, classes, generator=generator)
    labels = torch.randint(classes, (count,), generator=generator)
    labels[::2] = logits.argmax(1)[::2]
    return logits, labels


def prepared(loss: Loss, labels: Tensor, clean: Tensor, rank: int = 1) -> Prepared:
    return loss.prepare(labels, clean, torch.full_like(labels, rank))


@pytest.mark.parametrize(
    ("function", "labels", "expected"),
    [
        (logit_margin, RIGHT, 2 - 1),  # Eq. 6
        (logit_margin, WRONG, 0 - 2),
        (cw, RIGHT, -2 + 1),  # Eq. 8 without its constant
        (cw, WRONG, 2),
        (cross_entropy, RIGHT, math.log(NORMALISER) - 2),
        (cross_entropy, WRONG, math.log(NORMALISER)),
        (probability_margin, RIGHT, (math.exp(2) - math.exp(1)) / NORMALISER),  # Eq. 11
        (probability_margin, WRONG, (1 - math.exp(2)) / NORMALISER),
        (dlr, RIGHT, -(2 - 1) / (2 - 0)),
        (dlr, WRONG, -(0 - 2) / (2 - 0)),
    ],
)
def test_by_hand(function: Any, labels: Tensor, expected: float) -> None:
    assert function(LOGITS, labels).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("labels", "target"), [(RIGHT, 1), (RIGHT, 3), (WRONG, 0), (WRONG, 3)])
def test_targeted_dlr_by_hand(labels: Tensor, target: int) -> None:
    """Eq. 9: the denominator is z_1 - (z_3 + z_4) / 2 = 2 - (0 - 1) / 2."""
    expected = -(LOGITS[0, labels.item()] - LOGITS[0, target]) / 2.5
    losses = targeted_dlr(LOGITS, labels, torch.tensor([target]))
    assert losses.item() == pytest.approx(expected.item())


def test_kl_by_hand() -> None:
    clean, other = torch.tensor([[0.0, math.log(3)]]), torch.tensor([[0.0, 0.0]])
    expected = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    assert kl(other, torch.tensor([0]), clean).item() == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(3))
def test_dlr_is_the_reference_s(seed: int) -> None:
    logits, labels = random_logits(seed)
    assert 0 < (logits.argmax(1) == labels).sum() < len(labels)
    expected = APGDAttack.dlr_loss(SimpleNamespace(), logits, labels)
    torch.testing.assert_close(dlr(logits, labels), expected)
    targets = (labels + 1 + seed) % 10
    stand_in = SimpleNamespace(y_target=targets)
    expected = APGDAttack_targeted.dlr_loss_targeted(stand_in, logits, labels)
    torch.testing.assert_close(targeted_dlr(logits, labels, targets), expected)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000), classes=st.integers(2, 12))
def test_margins_are_negative_where_the_image_is_misclassified(seed: int, classes: int) -> None:
    logits, labels = random_logits(seed, classes)
    wrong = logits.argmax(1) != labels
    assert torch.equal(logit_margin(logits, labels) < 0, wrong)
    margin = probability_margin(logits, labels)
    assert torch.equal(margin < 0, wrong)
    assert margin.abs().max() <= 1
    assert torch.equal(cw(logits, labels), -logit_margin(logits, labels))
    p = logits.softmax(1)
    others = p.masked_fill(F.one_hot(labels, classes).bool(), 0).amax(1)
    torch.testing.assert_close(margin, p.gather(1, labels[:, None]).squeeze(1) - others)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000), scale=st.sampled_from([0.1, 3.0, 100.0]))
def test_dlr_ignores_shift_and_scale_of_the_logits(seed: int, scale: float) -> None:
    logits, labels = random_logits(seed)
    moved = logits * scale + 2
    torch.testing.assert_close(dlr(moved, labels), dlr(logits, labels), rtol=1e-3, atol=1e-4)
    targets = (labels + 3) % 10
    expected = targeted_dlr(logits, labels, targets)
    losses = targeted_dlr(moved, labels, targets)
    torch.testing.assert_close(losses, expected, rtol=1e-3, atol=1e-4)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000))
def test_kl_is_positive_and_zero_at_equal_logits(seed: int) -> None:
    clean, labels = random_logits(seed)
    other, _ = random_logits(seed + 1)
    assert (kl(other, labels, clean) > 0).all()
    assert kl(clean + 3, labels, clean).abs().max() < 1e-5


def test_rank_picks_the_wrong_class_of_that_rank() -> None:
    """Also where the image is misclassified: then the highest wrong class is the prediction."""
    clean = torch.tensor([[5.0, 1.0, 3.0, 4.0], [5.0, 1.0, 3.0, 4.0], [5.0, 1.0, 3.0, 4.0]])
    labels = torch.tensor([0, 2, 1])
    expected = {1: [3, 0, 0], 2: [2, 3, 3], 3: [1, 1, 2]}
    for rank, targets in expected.items():
        ranked = ranked_targets(clean, labels, torch.full_like(labels, rank))
        assert ranked.tolist() == targets
    mixed = ranked_targets(clean, labels, torch.tensor([1, 2, 3]))
    assert mixed.tolist() == [3, 3, 2]
    tied = torch.zeros(1, 4)
    assert ranked_targets(tied, torch.tensor([1]), torch.tensor([2])).tolist() == [2]


def test_prepare_fills_the_target_in() -> None:
    clean, labels = random_logits(0)
    now, _ = random_logits(1)
    targets = ranked_targets(clean, labels, torch.full_like(labels, 2))
    losses = prepared(targeted_dlr, labels, clean, rank=2)(now)
    assert torch.equal(losses, targeted_dlr(now, labels, targets))


@each_loss
def test_prepared_losses_can_be_selected_and_stacked(loss: Loss) -> None:
    clean, labels = random_logits(0)
    now, _ = random_logits(1)
    whole = prepared(loss, labels, clean)
    expected = whole(now)
    assert expected.shape == (64,)
    rows = torch.tensor([5, 2, 2, 63])
    assert torch.equal(whole.select(rows)(now[rows]), expected[rows])
    mask = expected > expected.median()
    assert torch.equal(whole.select(mask)(now[mask]), expected[mask])
    second = prepared(loss, labels, clean, rank=2)
    both = Prepared.stack([whole, second])(torch.cat([now, now]))
    assert torch.equal(both, torch.cat([expected, second(now)]))


@each_loss
def test_logits_are_taken_in_float32(loss: Loss) -> None:
    clean, labels = random_logits(0)
    now = random_logits(1)[0].bfloat16()
    losses = prepared(loss, labels, clean)(now)
    assert losses.dtype is torch.float32
    assert torch.equal(losses, prepared(loss, labels, clean)(now.float()))


def test_direct_calls_and_margins_take_logits_in_float32_too() -> None:
    logits, labels = random_logits(0)
    low = logits.bfloat16()
    for function in (*UNTARGETED.values(), logit_margin, probability_margin):
        assert torch.equal(function(low, labels), function(low.float(), labels))
    assert torch.equal(kl(low, labels, low), kl(low.float(), labels, low.float()))
    assert targeted_dlr(low, labels, (labels + 1) % 10).dtype is torch.float32


@each_loss
@pytest.mark.parametrize("logits", ["random", "equal", "huge"])
def test_losses_and_gradients_are_finite(loss: Loss, logits: str) -> None:
    random, labels = random_logits(0)
    now = {"random": random, "equal": torch.zeros_like(random), "huge": random * 1e4}[logits]
    now = now.clone().requires_grad_()
    values = prepared(loss, labels, random_logits(1)[0])(now)
    (gradient,) = torch.autograd.grad(values.sum(), now)
    assert torch.isfinite(values).all()
    assert torch.isfinite(gradient).all()
    assert gradient.abs().sum() > 0 or logits != "random"


@pytest.mark.parametrize("classes", [2, 3])
def test_few_classes_fall_back_and_say_so_once(
    classes: int, caplog: pytest.LogCaptureFixture
) -> None:
    losses._log_fallback.cache_clear()
    logits, labels = random_logits(0, classes)
    targets = (labels + 1) % classes
    rows = torch.arange(len(labels))
    with caplog.at_level(logging.WARNING, logger="lrat.losses"):
        for _ in range(3):
            aimed = targeted_dlr(logits, labels, targets)
            assert torch.equal(aimed, logits[rows, targets] - logits[rows, labels])
            if classes == 2:
                assert torch.equal(dlr(logits, labels), -logit_margin(logits, labels))
    said = [record.getMessage() for record in caplog.records]
    assert [message.split()[0] for message in said] == ["targeted_dlr", "dlr"][: 4 - classes]
    assert f"undefined for {classes} classes" in said[0]


def test_three_classes_are_enough_for_dlr() -> None:
    logits = torch.tensor([[3.0, 1.0, 0.0]])
    assert dlr(logits, RIGHT).item() == pytest.approx(-(3 - 1) / 3)


def test_a_plain_function_becomes_a_loss() -> None:
    def margin(logits: Tensor, labels: Tensor) -> Tensor:
        return logits.sum(1) + labels

    loss = as_loss(margin)
    logits, labels = random_logits(0)
    assert isinstance(loss, Loss)
    assert (loss.needs_clean, loss.targeted) == (False, False)
    assert torch.equal(loss.prepare(labels)(logits), margin(logits, labels))
    assert repr(loss) == "margin"
    assert as_loss(cw) is cw
    with pytest.raises(SettingError, match=r"\(logits, labels\) -> \[B\]"):
        as_loss("cross-entropy")


def test_a_loss_that_reduces_over_the_batch_is_refused() -> None:
    logits, labels = random_logits(0)
    with pytest.raises(SettingError, match=r"cross_entropy.*one value per image"):
        as_loss(F.cross_entropy).prepare(labels)(logits)


def test_what_a_loss_needs_is_said() -> None:
    _, labels = random_logits(0)
    with pytest.raises(SettingError, match="targeted_dlr is targeted"):
        targeted_dlr.prepare(labels)
    with pytest.raises(SettingError, match="kl compares with the clean image"):
        kl.prepare(labels)


def test_prepare_never_detaches() -> None:
    """TRADES descends through the clean logits as well."""
    clean, labels = random_logits(0)
    clean.requires_grad_()
    value = kl.prepare(labels, clean)(random_logits(1)[0]).sum()
    assert torch.autograd.grad(value, clean)[0].abs().sum() > 0


@each_loss
def test_losses_print_and_pickle_by_name(loss: Loss) -> None:
    assert ALL[repr(loss)] is loss
    assert pickle.loads(pickle.dumps(loss)) is loss  # noqa: S301 - our own bytes


def test_a_user_s_loss_pickles_by_its_function() -> None:
    assert pickle.loads(pickle.dumps(Untargeted(F.nll_loss))) == Untargeted(F.nll_loss)  # noqa: S301


def test_true_probability_by_hand() -> None:
    """Eq. 5: exp(1) / (exp(1) + exp(2) + exp(0)) and exp(0) / the same sum."""
    logits = torch.tensor([[1.0, 2.0, 0.0], [1.0, 2.0, 0.0]])
    total = math.exp(1) + math.exp(2) + 1
    expected = torch.tensor([math.exp(1) / total, 1 / total])
    torch.testing.assert_close(losses.true_probability(logits, torch.tensor([0, 2])), expected)
    assert losses.true_probability(logits.bfloat16(), torch.tensor([0, 2])).dtype == torch.float32


@pytest.mark.parametrize("smoothing", [0.1, 0.5, 0.99])
def test_smoothed_cross_entropy(smoothing: float) -> None:
    """By hand: the label keeps 1 - s and a share of s / K; all other classes s / K each."""
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(6, 5, generator=generator), torch.arange(6) % 5
    shares = torch.full((6, 5), smoothing / 5)
    shares[torch.arange(6), labels] += 1 - smoothing
    expected = -(shares * logits.log_softmax(1)).sum(1)
    loss = losses.smoothed_cross_entropy(smoothing)
    torch.testing.assert_close(loss(logits, labels), expected)
    prepared = loss.prepare(labels)
    torch.testing.assert_close(prepared(logits.double()), expected)
    both = losses.Prepared.stack([prepared.select(torch.arange(2)), prepared])
    torch.testing.assert_close(both(torch.cat([logits[:2], logits])).sum(),
                               expected[:2].sum() + expected.sum())  # fmt: skip
    assert pickle.loads(pickle.dumps(loss)) == loss  # noqa: S301
    assert eval(repr(loss), vars(losses)) == loss  # noqa: S307


def test_no_smoothing_is_cross_entropy_itself() -> None:
    assert losses.smoothed_cross_entropy(0.0) is losses.cross_entropy


def test_a_function_of_no_module_is_a_user_s() -> None:
    """As code has it that a notebook or a server executes from a text."""
    created: dict[str, Any] = {}
    exec("def doubled(logits, labels): return 2 * logits[:, 0]", created)  # noqa: S102
    loss = as_loss(created["doubled"]).prepare(torch.tensor([0, 1]))
    assert loss(torch.eye(2)).tolist() == [2, 0]

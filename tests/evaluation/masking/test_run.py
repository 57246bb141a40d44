"""Running the panel: what it leaves alone, what it takes, and what bad input gets."""

import pytest
import torch
from torch import Tensor, nn

from evaluation.masking.masked import Cut, Noisy, Quantised, digits_batch
from evaluation.parts import THREAT as SMALL
from evaluation.parts import images_and_labels, linear
from lrat.attacks import PGD, Square
from lrat.errors import DataError, ModelError, SettingError
from lrat.evaluation import custom, evaluate_suite
from lrat.evaluation.masking import Check, Panel, masking_panel
from lrat.threat import L2, Linf
from lrat.types import Batch
from trained import THREAT, trained


def statuses(panel: Panel) -> dict[str, str]:
    return {check.name: check.status for check in panel.checks}


def two_classes(count: int = 40) -> Batch:
    images, labels = images_and_labels(count)
    return Batch(images=images, labels=labels, index=torch.arange(count))


class Nan(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :10] * float("nan")


class Constant(nn.Module):
    """Never the right class, but differentiable."""

    def forward(self, images: Tensor) -> Tensor:
        return 0 * images.flatten(1)[:, :3] + torch.tensor([0.0, 1.0, 2.0])


def test_two_classes_take_every_check() -> None:
    panel = masking_panel(linear(2), two_classes(), SMALL)
    assert set(statuses(panel).values()) <= {"passed", "suspicious", "failed"}
    assert panel["input gradients"].status == "passed"
    assert panel["falls as epsilon grows"].status == "passed"


def test_one_image() -> None:
    panel = masking_panel(trained(), digits_batch(1), THREAT)
    assert panel.n == 1
    assert panel["input gradients"].status == "passed"
    assert len(panel.checks) == 12


def test_an_l2_ball() -> None:
    panel = masking_panel(linear(2), two_classes(), L2(epsilon=0.2))
    assert set(statuses(panel).values()) <= {"passed", "suspicious"}
    assert panel["falls as epsilon grows"].value == 0


def test_a_random_model_leaves_no_trace_and_gets_the_same_numbers_again() -> None:
    before = torch.random.get_rng_state()
    first = masking_panel(Noisy(linear(2)), two_classes(10), SMALL)
    assert first["same images, same answer"].status == "failed"
    assert torch.equal(torch.random.get_rng_state(), before)
    assert masking_panel(Noisy(linear(2)), two_classes(10), SMALL) == first


def test_modes_and_gradients_are_as_before() -> None:
    model = linear(2)
    model.train()
    masking_panel(model, two_classes(10), SMALL)
    assert all(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_verdicts_are_the_originals() -> None:
    """A view without use: attacks aim at another model, so they find less, but nothing untrue."""
    misled = masking_panel(linear(2), two_classes(), SMALL, view=linear(2, seed=1))
    guided = masking_panel(linear(2), two_classes(), SMALL)
    assert misled["input gradients"] == guided["input gradients"]
    assert misled["falls as epsilon grows"].status == "failed"


def test_progress_reports_each_check_in_order() -> None:
    seen: list[Check] = []
    panel = masking_panel(linear(2), two_classes(10), SMALL, on_progress=seen.append)
    assert tuple(seen) == panel.checks


def test_no_gradients_is_a_finding() -> None:
    status = statuses(masking_panel(Cut(trained()), digits_batch(10), THREAT))
    assert status["input gradients"] == "failed"
    assert status["scaled logits"] == "not run"
    assert len(status) == 12


def test_nan_logits_are_a_finding() -> None:
    panel = masking_panel(Nan(), digits_batch(10), THREAT)
    assert panel.status == "failed"
    assert panel["logits, not probabilities"].status == "failed"
    assert "NaN" in panel["logits, not probabilities"].sentence
    assert panel["same images, same answer"].status == "not run"


class Observing(nn.Module):
    """Moves a buffer at each forward, by writing or by a new one."""

    def __init__(self, *, replaces: bool) -> None:
        super().__init__()
        self.inner, self.replaces = linear(2), replaces
        self.register_buffer("seen", torch.ones(()))

    def forward(self, images: Tensor) -> Tensor:
        if self.replaces:
            self.seen = self.seen + 1
        else:
            self.seen += 1
        logits: Tensor = self.inner(images) * self.seen.cos()
        return logits


@pytest.mark.parametrize("replaces", [False, True])
def test_buffers_that_a_forward_writes_are_a_note_and_put_back(replaces: bool) -> None:
    model = Observing(replaces=replaces).eval()
    panel = masking_panel(model, two_classes(10), SMALL)
    assert ["buffers" in note for note in panel.notes] == [True]
    assert float(model.seen) == 1
    assert panel["same images, same answer"].status == "passed"
    assert masking_panel(linear(2), two_classes(10), SMALL).notes == ()


def test_nothing_right_is_nothing_to_attack() -> None:
    batch = two_classes(10)
    batch = Batch(images=batch.images, labels=torch.zeros_like(batch.labels), index=batch.index)
    panel = masking_panel(Constant(), batch, SMALL)
    assert panel["input gradients"].status == "not run"
    assert "none of the images" in panel["input gradients"].sentence


def test_images_out_of_range_stop_everything_else() -> None:
    batch = digits_batch(5)
    batch = Batch(images=batch.images * 255, labels=batch.labels, index=batch.index)
    panel = masking_panel(trained(), batch, THREAT)
    assert panel.checks[0].status == "failed"
    assert {check.status for check in panel.checks[1:]} == {"not run"}


def test_a_result_of_stronger_attacks_counts() -> None:
    model, batch = Quantised(linear(2)), two_classes()
    attacks = {"square": Square(threat=SMALL, queries=100)}
    result = evaluate_suite(model, [batch], custom(SMALL, attacks))
    with_it = masking_panel(model, batch, SMALL, result=result)["PGD, CW, AutoAttack agree"]
    without = masking_panel(model, batch, SMALL)["PGD, CW, AutoAttack agree"]
    assert with_it.value is not None
    assert without.value is not None
    assert with_it.value > without.value + 0.1
    assert with_it.status == "failed"
    assert "square" in with_it.sentence


def test_a_result_under_another_threat_is_refused() -> None:
    other = Linf(epsilon=0.01)
    attack = PGD(threat=other, steps=1, step_size=0.01)
    result = evaluate_suite(linear(2), [two_classes(4)], custom(other, {"pgd": attack}))
    with pytest.raises(SettingError, match="same threat"):
        masking_panel(linear(2), two_classes(4), SMALL, result=result)


def test_what_is_no_classification_is_refused() -> None:
    batch = two_classes(4)
    nothing = Batch(images=batch.images[:0], labels=batch.labels[:0], index=batch.index[:0])
    with pytest.raises(DataError, match="no images"):
        masking_panel(linear(2), nothing, SMALL)
    beyond = Batch(images=batch.images, labels=batch.labels + 5, index=batch.index)
    with pytest.raises(ModelError, match="classes"):
        masking_panel(linear(2), beyond, SMALL)
    negative = Batch(images=batch.images, labels=batch.labels - 5, index=batch.index)
    with pytest.raises(DataError, match="labels"):
        masking_panel(linear(2), negative, SMALL)
    with pytest.raises(ModelError, match="logits"):
        masking_panel(nn.Identity(), batch, SMALL)

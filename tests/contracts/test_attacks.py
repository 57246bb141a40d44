"""What every attack must keep: one table of attacks, one test per line of the contract."""

import copy
import dataclasses
import pickle
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from builders import keyed, seeded
from contracts.attack_rows import LINF, ROWS, Row
from lrat.attacks import Attack, Variant
from lrat.errors import ModelError, SettingError
from trained import digits, trained

COUNT = 12
each_attack = pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
each_keyed = pytest.mark.parametrize(
    "row", [row for row in ROWS.values() if row.keyed], ids=[n for n, r in ROWS.items() if r.keyed]
)
each_calling = pytest.mark.parametrize(
    "row",
    [row for row in ROWS.values() if row.called],
    ids=[name for name, row in ROWS.items() if row.called],
)


class Watched(nn.Module):
    """The first ``classes`` logits of a model; records its arguments; can be set to fail."""

    def __init__(self, model: nn.Module, classes: int, fail_at: int = 0) -> None:
        super().__init__()
        self.model, self.classes, self.fail_at = model, classes, fail_at
        self.inputs: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.inputs.append(images.detach().clone())
        if len(self.inputs) == self.fail_at:
            raise RuntimeError("in the middle")
        logits: Tensor = self.model(images)[:, : self.classes]
        return logits


def watched(row: Row, fail_at: int = 0) -> Watched:
    return Watched(trained(), row.classes, fail_at).eval()


@cache
def problem(classes: int) -> tuple[Tensor, Tensor]:
    images, labels = (part[1500 : 1500 + 5 * COUNT] for part in digits())
    rows = (labels < classes).nonzero().flatten()[:COUNT]
    assert len(rows) > COUNT // 2
    return images[rows], labels[rows]


def run(row: Row, model: nn.Module | None = None, **settings: Any) -> Variant:
    images, labels = problem(row.classes)
    settings.setdefault("noise", keyed(len(labels)))
    return row.attack(model or watched(row), images, labels, **settings)


@torch.no_grad()
def fooled(row: Row, images: Tensor, labels: Tensor) -> Tensor:
    return watched(row)(images).argmax(1) != labels


def in_training(row: Row, fail_at: int = 0) -> Watched:
    """A model in the middle of training, with one frozen BatchNorm and one frozen weight."""
    model = Watched(copy.deepcopy(trained()), row.classes, fail_at).train()
    model.model[4].eval()
    model.model[0].weight.requires_grad_(False)
    for number, parameter in enumerate(model.parameters()):
        if number > 1:
            parameter.grad = torch.full_like(parameter, number)
    return model


def state(model: nn.Module) -> list[Any]:
    """All that an attack must leave as it was."""
    kept: list[Any] = [module.training for module in model.modules()]
    for parameter in model.parameters():
        gradient = None if parameter.grad is None else parameter.grad.clone()
        kept += [parameter.requires_grad, parameter.detach().clone(), gradient]
    kept += [buffer.clone() for buffer in model.buffers()]
    kept += [torch.get_rng_state(), np.random.get_state()[1].tolist()]
    return [*kept, torch.is_grad_enabled()]


def assert_same(one: list[Any], other: list[Any]) -> None:
    for before, after in zip(one, other, strict=True):
        same = torch.equal(before, after) if isinstance(before, Tensor) else before == after
        assert same


@each_attack
def test_the_result_lies_in_region_and_box_detached_in_float32(row: Row) -> None:
    images, labels = problem(row.classes)
    kept = images.clone(), labels.clone()
    adversarial = run(row).images
    assert row.threat.violation(adversarial, images).max() <= row.threat.tolerance
    assert (adversarial.dtype, adversarial.shape, adversarial.device) == (
        torch.float32,
        images.shape,
        images.device,
    )
    assert not adversarial.requires_grad
    assert torch.equal(images, kept[0])
    assert torch.equal(labels, kept[1])


@each_attack
def test_a_model_in_training_stays_as_it_was(row: Row) -> None:
    model = in_training(row)
    before = state(model)
    result = run(row, model)
    assert_same(before, state(model))
    assert torch.equal(result.images, run(row).images), "the attack must see eval mode"


@each_calling
@pytest.mark.parametrize("moment", ["first", "last"])
def test_a_model_that_raises_stays_as_it_was(row: Row, moment: str) -> None:
    counted = watched(row)
    run(row, counted)
    model = in_training(row, fail_at=1 if moment == "first" else len(counted.inputs))
    before = state(model)
    with pytest.raises((ModelError, SettingError), match="in the middle"):
        run(row, model)
    assert_same(before, state(model))


@each_attack
def test_the_caller_s_grad_mode_does_not_matter(row: Row) -> None:
    expected = run(row).images
    with torch.no_grad():
        assert torch.equal(run(row).images, expected)
    images, labels = problem(row.classes)
    wanting = images.clone().requires_grad_()
    result = row.attack(watched(row), wanting, labels, noise=keyed(len(labels)))
    assert torch.equal(result.images, expected)
    assert wanting.grad is None


@each_attack
def test_it_works_under_inference_mode(row: Row) -> None:
    expected = run(row).images
    model = watched(row)
    with torch.inference_mode():
        images, labels = (part.clone() for part in problem(row.classes))
        logits = model(images)
        noise = keyed(len(labels))
        result = row.attack(model, images, labels, noise=noise, clean_logits=logits)
    assert torch.equal(result.images, expected)
    assert not result.images.is_inference()


@each_attack
def test_epsilon_zero_gives_the_input_back(row: Row) -> None:
    images, labels = problem(row.classes)
    attack = row.make(dataclasses.replace(row.threat, epsilon=0.0))
    assert torch.equal(attack(watched(row), images, labels).images, images)


@each_attack
def test_the_same_noise_gives_the_same_result(row: Row) -> None:
    """And other noise, or the noise of another term, gives another where the start is random."""
    first, count = run(row).images, len(problem(row.classes)[1])
    assert torch.equal(run(row).images, first)
    for other in (keyed(count, seed=1), keyed(count).child("another term")):
        assert torch.equal(run(row, noise=other).images, first) != row.random_start


@each_attack
def test_seeds_and_generators_are_noise_too(row: Row) -> None:
    assert torch.equal(run(row, noise=None).images, run(row).images)
    assert torch.equal(run(row, noise=3).images, run(row, noise=3).images)
    drawn = [run(row, noise=torch.Generator().manual_seed(3)).images for _ in range(2)]
    assert torch.equal(*drawn)


def starts(row: Row, model: Watched, count: int) -> Tensor:
    """[tries B C H W]: what a run began from."""
    first = model.inputs[1 if row.attack.needs_clean else 0]
    return first.view(-1, count, *first.shape[1:])


@each_keyed
@pytest.mark.parametrize("how", ["permuted", "halves", "one by one"])
def test_nothing_depends_on_the_batch_around_an_image(row: Row, how: str) -> None:
    """The same start exactly and the same verdict, in any order and any split."""
    images, labels = problem(row.classes)
    count = len(labels)
    whole = watched(row)
    expected = row.attack(whole, images, labels, noise=keyed(count))
    order = torch.randperm(count, generator=torch.Generator().manual_seed(1))
    parts = order.split({"permuted": count, "halves": count // 2, "one by one": 1}[how])
    for rows in parts:
        model = watched(row)
        variant = row.attack(model, images[rows], labels[rows], noise=keyed(count).select(rows))
        if row.called:
            points = starts(row, model, len(rows))
            assert torch.equal(points, starts(row, whole, count)[:, rows])
        assert torch.equal(
            fooled(row, variant.images, labels[rows]),
            fooled(row, expected.images[rows], labels[rows]),
        )


@each_attack
def test_what_it_cannot_fool_is_never_the_clean_image(row: Row) -> None:
    images, labels = problem(row.classes)
    adversarial = run(row).images
    unfooled = ~fooled(row, adversarial, labels)
    assert unfooled.any()
    assert (row.threat.distance(adversarial, images)[unfooled] > 0.1 * row.threat.epsilon).all()


@each_attack
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_images_of_another_precision_become_float32(row: Row, dtype: torch.dtype) -> None:
    """The digits are multiples of 1/16, which every precision holds exactly."""
    images, labels = problem(row.classes)
    noise = keyed(len(labels))
    adversarial = row.attack(watched(row), images.to(dtype), labels, noise=noise).images
    assert adversarial.dtype is torch.float32
    assert torch.equal(adversarial, run(row).images)


@each_attack
def test_channels_last_images_give_the_same_verdicts(row: Row) -> None:
    images, labels = problem(row.classes)
    strided = images.expand(-1, 3, -1, -1).to(memory_format=torch.channels_last)[:, :1]
    assert not strided.is_contiguous()
    adversarial = row.attack(watched(row), strided, labels, noise=keyed(len(labels))).images
    assert row.threat.violation(adversarial, images).max() <= row.threat.tolerance
    expected = fooled(row, run(row).images, labels)
    assert torch.equal(fooled(row, adversarial, labels), expected)


@each_attack
def test_a_model_that_answers_in_low_precision_can_be_attacked(row: Row) -> None:
    class Low(nn.Module):
        def forward(self, logits: Tensor) -> Tensor:
            return logits.bfloat16()

    images, _ = problem(row.classes)
    variant = run(row, nn.Sequential(watched(row), Low()))
    assert variant.images.dtype is torch.float32
    assert row.threat.violation(variant.images, images).max() <= row.threat.tolerance


@each_attack
def test_clean_logits_that_the_caller_has_save_a_pass(row: Row) -> None:
    images, _ = problem(row.classes)
    with torch.no_grad():
        logits = watched(row)(images)
    alone, helped = watched(row), watched(row)
    expected = run(row, alone).images
    assert torch.equal(run(row, helped, clean_logits=logits).images, expected)
    assert len(alone.inputs) - len(helped.inputs) == int(row.attack.needs_clean)


@each_calling
def test_it_provides_what_it_says_and_counts_its_passes(row: Row) -> None:
    model = watched(row)
    result, count = run(row, model), len(problem(row.classes)[1])
    assert ("steps_survived" in row.attack.provides) == (result.steps_survived is not None)
    if result.steps_survived is not None:
        assert result.max_steps is not None
        assert result.steps_survived.shape == (count,)
        assert 0 <= result.steps_survived.min() <= result.steps_survived.max() <= result.max_steps
    if result.trace is not None and result.trace.forwards is not None:
        seen = sum(map(len, model.inputs)) - count * row.attack.needs_clean
        assert result.trace.forwards.sum() == seen
        assert result.trace.backwards is not None
        assert (result.trace.backwards <= result.trace.forwards).all()


@each_attack
def test_it_is_a_value(row: Row) -> None:
    """Satisfies the protocol, prints as its configuration, cannot be changed, can be sent."""
    attack: Any = row.attack
    assert isinstance(attack, Attack)
    assert str(row.threat) in repr(attack)
    with pytest.raises(dataclasses.FrozenInstanceError):
        attack.threat = LINF
    assert repr(pickle.loads(pickle.dumps(attack))) == repr(attack)  # noqa: S301 - our own bytes


def test_a_model_that_cuts_the_gradient_is_named() -> None:
    class Cut(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.detach().flatten(1)

    from lrat.errors import ModelError

    images, _ = problem(10)
    model = seeded(0, Cut)
    labels = model(images).argmax(1)
    for row in ROWS.values():
        if row.keyed and row.gradient:
            with pytest.raises(ModelError, match="gradient attacks cannot be used"):
                row.attack(model, images, labels)

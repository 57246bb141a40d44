"""Every check alone: a model that passes it and one that does not."""

import pytest
import torch
from torch import Tensor, nn

from evaluation.masking.masked import (
    BatchStatistics,
    Cut,
    Dropping,
    Noisy,
    Quantised,
    Scaled,
    Slow,
    digits_batch,
)
from lrat.evaluation.masking import Check, attack_checks, gradient_checks, input_checks
from lrat.evaluation.masking.limits import NOISE_DRAWS, Limit
from lrat.evaluation.masking.subject import Subject
from lrat.hooks import PassCounter
from lrat.threat import Linf
from trained import THREAT, digits, trained

IMAGES = 100


def subject(model: nn.Module, threat: Linf = THREAT, count: int = IMAGES) -> Subject:
    return Subject(model=model, view=model, batch=digits_batch(count), threat=threat, seed=0)


def sound() -> Subject:
    return subject(trained())


def in_range(images: Tensor, epsilon: float = 0.2) -> Check:
    return input_checks.image_range(images, Linf(epsilon=epsilon))


@pytest.mark.parametrize(
    "check",
    [
        input_checks.real_logits,
        input_checks.repeated,
        input_checks.alone,
        gradient_checks.vanishing,
        gradient_checks.saturated,
        gradient_checks.converged,
        gradient_checks.against_noise,
        attack_checks.agreement,
        attack_checks.scaling,
        attack_checks.growth,
        attack_checks.black_box,
    ],
)
def test_a_sound_model_passes(check: object) -> None:
    result: Check = check(sound())  # type: ignore[operator]
    assert result.status == "passed"
    assert result.value is not None
    assert result.limit is not None
    assert result.value <= result.limit


class TestRange:
    images = digits()[0][:20]

    def test_digits_at_a_fifth_pass(self) -> None:
        assert in_range(self.images).status == "passed"

    def test_half_the_range_turns_everything_grey(self) -> None:
        check = in_range(self.images, 0.5)
        assert check.status == "failed"
        assert "grey" in check.sentence

    def test_images_divided_by_255_twice(self) -> None:
        check = in_range(self.images / 255)
        assert check.status == "failed"
        assert "twice" in check.sentence

    def test_images_outside_the_box(self) -> None:
        assert in_range(self.images * 2 - 1).status == "failed"
        assert in_range(self.images * float("nan")).status == "failed"

    def test_no_epsilon(self) -> None:
        assert in_range(self.images, 0.0).status == "failed"

    def test_an_epsilon_below_half_a_grey_level_is_suspicious(self) -> None:
        assert in_range(self.images, 0.2 / 255).status == "suspicious"
        assert in_range(self.images, 0.6 / 255).status == "passed"

    def test_images_of_one_colour(self) -> None:
        plain = self.images.amax((1, 2, 3), keepdim=True) * torch.ones_like(self.images)
        mixed = torch.cat([self.images, plain * torch.linspace(0.2, 1, 20)[:, None, None, None]])
        assert in_range(mixed).status == "failed"


def test_probabilities() -> None:
    check = input_checks.real_logits(subject(nn.Sequential(trained(), nn.Softmax(dim=1))))
    assert check.status == "failed"
    assert check.value == 1


def test_log_probabilities_are_logits() -> None:
    model = nn.Sequential(trained(), nn.LogSoftmax(dim=1))
    assert input_checks.real_logits(subject(model)).status == "passed"


@pytest.mark.parametrize("layer", [Noisy, Dropping])
def test_two_forwards_that_differ(layer: type[nn.Module]) -> None:
    with torch.random.fork_rng(devices=[]):
        check = input_checks.repeated(subject(layer(trained())))
    assert check.status == "failed"


def test_statistics_of_the_batch() -> None:
    model = BatchStatistics(trained())
    assert input_checks.alone(subject(model)).status == "failed"
    assert input_checks.repeated(subject(model)).status == "passed"


def test_batch_norm_that_ignores_eval_mode() -> None:
    class Training(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(10, momentum=0.0)

        def forward(self, images: Tensor) -> Tensor:
            self.norm.train()
            logits: Tensor = self.norm(images.flatten(1)[:, 20:30])
            return logits

    check = input_checks.alone(subject(Training()))
    assert check.status == "failed"
    assert "single image" in check.sentence


def test_rounding_has_no_gradient() -> None:
    check = gradient_checks.vanishing(subject(Quantised(trained())))
    assert check.status == "failed"
    assert check.value == 1


def test_no_gradient_at_all() -> None:
    check = gradient_checks.vanishing(subject(Cut(trained())))
    assert check.status == "failed"
    assert check.value is None


def test_saturation_is_seen_from_the_lead_of_a_logit() -> None:
    assert gradient_checks.saturated(subject(Scaled(trained()))).status == "failed"
    assert gradient_checks.saturated(subject(Scaled(trained(), 0.001))).status == "passed"


def test_an_attack_that_still_gains() -> None:
    check = gradient_checks.converged(subject(Slow(trained())))
    assert check.status == "failed"
    assert check.value is not None
    assert check.value > 0.02


def test_a_loss_that_still_rises_is_suspicious_where_the_accuracy_rests() -> None:
    """A tiny ball, in which no image falls however far the loss has to go."""
    check = gradient_checks.converged(subject(Slow(trained()), Linf(epsilon=0.01), count=20))
    assert check.value == 0
    assert check.status == "suspicious"


def test_noise_beats_dead_gradients() -> None:
    check = gradient_checks.against_noise(subject(Quantised(trained())))
    assert check.status == "failed"


def test_noise_and_gradients_that_fool_nothing_are_not_compared() -> None:
    check = gradient_checks.against_noise(subject(trained(), Linf(epsilon=0.001), count=10))
    assert check.status == "not run"


def test_attacks_that_disagree() -> None:
    check = attack_checks.agreement(subject(Scaled(trained())))
    assert check.status == "failed"
    assert "targeted Auto-PGD" in check.sentence


def with_another_attack(count: int, fooled: int) -> Check:
    """Agreement of a sound model, of which one attack more fools so many images more."""
    examined = subject(trained(), count=count)
    robust = examined.robust_to(
        "pgd-20", gradient_checks.pgd(examined, 20)
    ) & attack_checks.robust_to_cw(examined)
    rows = (robust & attack_checks.robust_to_targeted(examined)).nonzero().flatten()[:fooled]
    examined.also_fooled["another"] = torch.zeros_like(robust).index_fill(0, rows, True)
    return attack_checks.agreement(examined)


def test_a_gap_that_chance_explains_is_suspicious() -> None:
    """Of 20 images two more fall to the other attacks: 10 points, and nothing to build on."""
    check = with_another_attack(count=20, fooled=2)
    assert check.status == "suspicious"
    assert check.value is not None
    assert check.limit is not None
    assert check.value > check.limit


def test_a_gap_without_another_sign_of_hidden_gradients_is_suspicious() -> None:
    """PGD overstates models that were trained little as well: no reason to call them masked."""
    check = with_another_attack(count=IMAGES, fooled=15)
    assert check.value is not None
    assert check.value > 0.15
    assert check.status == "suspicious"
    assert "No other check finds hidden gradients" in check.sentence


def test_logits_that_are_far_apart_are_scaled_down() -> None:
    check = attack_checks.scaling(subject(Scaled(trained())))
    assert check.status == "failed"
    assert check.value is not None
    assert check.value > 0.2


def test_a_ball_as_large_as_the_box_leaves_nothing() -> None:
    check = attack_checks.growth(subject(Quantised(trained())))
    assert check.status == "failed"


def test_square_beats_dead_gradients() -> None:
    check = attack_checks.black_box(subject(Quantised(trained())))
    assert check.status == "failed"
    assert check.value is not None
    assert check.value > 0.1


def test_two_checks_share_the_draws_of_noise() -> None:
    model = sound()
    right = int(model.right.sum())
    with PassCounter(model.model) as counted:
        assert torch.equal(model.robust_to_noise, model.robust_to_noise)
    assert 0 < counted.forwards <= NOISE_DRAWS * right


@pytest.mark.parametrize(
    ("value", "status"), [(0.0, "passed"), (0.1, "passed"), (0.15, "suspicious"), (0.3, "failed")]
)
def test_a_limit_makes_the_check_and_chooses_its_sentence(value: float, status: str) -> None:
    check = Limit(limit=0.1, certain=0.2).check_exact("a", value, good="well", bad="ill")
    assert (check.name, check.status, check.value, check.limit) == ("a", status, value, 0.1)
    assert check.sentence == ("well" if status == "passed" else "ill")

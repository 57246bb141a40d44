"""What each rule says of sequences of epochs made by hand."""

from dataclasses import replace
from typing import Any

import pytest
from torch import nn

from builders import seeded
from lrat import fit
from lrat.training.guards import (
    CatastrophicOverfitting,
    CollapsedWeights,
    IdleAttack,
    ImageScale,
    Measured,
    NothingLearnt,
    NoWeights,
    Reading,
    RobustOverfitting,
    SkippedSteps,
    SmallValidation,
)
from lrat.training.guards.readings import Examined, Load, noise
from trained import digits
from training.guards.runs import WORKING, reading, series

HELD = Measured(name="pgd-10", images=1000)
PROBE = Measured(name="pgd-10", images=128)
IDLE = replace(WORKING, fooled=5, only_attack=4, only_noise=4)


def first(guard: Any, readings: list[Reading]) -> int | None:
    """The epoch after which the guard speaks, asked after each."""
    return next((end for end in range(1, len(readings) + 1) if guard(readings[:end])), None)


def test_the_standard_error_is_that_of_two_binomials() -> None:
    assert noise(0.5, 0.5, 1000) == pytest.approx((0.5 / 1000) ** 0.5)
    assert noise(0.0, 0.0, 100) > 0.01


class TestCatastrophic:
    guard = CatastrophicOverfitting(stronger=HELD, held_out=True)

    def test_a_collapse_while_training_rises(self) -> None:
        readings = series(training=[0.2, 0.35, 0.4, 0.7, 0.9], held_out=[0.2, 0.35, 0.4, 0.01, 0.0])
        assert first(self.guard, readings) == 4
        text = self.guard(readings[:4])
        assert text is not None
        assert "from 40.0 % (epoch 3) to 1.0 % (epoch 4)" in text
        assert "from 40.0 % to 70.0 %" in text
        assert "1000 held-out images" in text
        assert "smaller step_size" in text

    @pytest.mark.parametrize(
        ("training", "held_out"),
        [
            ([0.3, 0.4, 0.2], [0.3, 0.4, 0.1]),  # a run that diverges loses both
            ([0.3, 0.4, 0.5], [0.3, 0.4, 0.21]),  # not below half
            ([0.3, 0.4, 0.5], [0.3, 0.4, 0.45]),
            ([0.1, 0.11, 0.12], [0.02, 0.03, 0.014]),  # within the noise of 1,000 images
        ],
    )
    def test_no_collapse(self, training: list[float], held_out: list[float]) -> None:
        assert first(self.guard, series(training=training, held_out=held_out)) is None

    def test_a_few_images_prove_less(self) -> None:
        readings = series(training=[0.3, 0.5], held_out=[0.3, 0.1])
        assert first(self.guard, readings) == 2
        few = CatastrophicOverfitting(stronger=Measured(name="pgd-10", images=30), held_out=True)
        assert first(few, readings) is None

    @pytest.mark.parametrize("examined", [{}, {"pgd": IDLE}])
    def test_without_an_attack_that_works_there_is_nothing_to_overfit(
        self, examined: dict[str, Examined]
    ) -> None:
        readings = series(training=[0.4, 0.9], held_out=[0.4, 0.0], examined=[examined] * 2)
        assert first(self.guard, readings) is None

    def test_a_probe_that_was_never_withstood(self) -> None:
        guard = CatastrophicOverfitting(stronger=PROBE, held_out=False)
        readings = series(training=[0.1, 0.4, 0.6, 0.7], probe=[0.0, 0.02, 0.05, 0.0])
        assert first(guard, readings) == 4
        assert "in epochs 2 to 4" in (guard(readings) or "")
        assert first(guard, series(training=[0.6] * 5, probe=[0.35] * 5)) is None
        assert first(guard, series(training=[0.6, 0.6, 0.6], probe=[0.05, 0.6, 0.05])) is None

    def test_held_out_images_that_fail_without_an_attack_are_no_proof(self) -> None:
        columns = {"training": [0.9] * 4, "held_out": [0.05] * 4}
        assert first(self.guard, series(**columns, natural=[0.9] * 4)) == 3
        assert first(self.guard, series(**columns, natural=[0.5] * 4)) is None
        assert first(self.guard, series(**columns)) is None


class TestRobust:
    guard = RobustOverfitting(validation=HELD, selects=False)

    def test_a_lasting_fall_while_training_rises(self) -> None:
        # As on CIFAR-10 after the first drop of the learning rate (Rice et al. 2020).
        selecting = [0.45] * 5 + [0.53] * 5 + [0.50, 0.49, 0.48, 0.47, 0.46, 0.45]
        training = [0.46] * 5 + [0.55] * 5 + [0.6, 0.63, 0.66, 0.7, 0.74, 0.78]
        epoch = first(self.guard, series(training=training, selecting=selecting))
        assert epoch == 15
        text = self.guard(series(training=training, selecting=selecting)) or ""
        assert "fell from 53.0 % (epochs 6 to 10)" in text
        assert "stop near epoch 10" in text
        selects = RobustOverfitting(validation=HELD, selects=True)
        assert "the selected weights are of a better epoch" in (
            selects(series(training=training, selecting=selecting)) or ""
        )

    @pytest.mark.parametrize(
        ("late", "rising"),
        [
            (0.49, 0.1),  # 4 points of 53 % are less than two standard errors of 1,000 images
            (0.40, 0.0),  # training does not gain: the run has diverged
            (0.55, 0.1),
        ],
    )
    def test_no_overfitting(self, late: float, rising: float) -> None:
        readings = series(
            training=[0.5] * 8 + [0.5 + rising] * 8, selecting=[0.53] * 8 + [late] * 8
        )
        assert first(self.guard, readings) is None

    def test_a_fall_that_counts_on_many_images(self) -> None:
        many = RobustOverfitting(validation=Measured(name="pgd-10", images=7500), selects=False)
        readings = series(training=[0.5] * 8 + [0.6] * 8, selecting=[0.53] * 8 + [0.49] * 8)
        assert first(many, readings) is not None
        small = series(training=[0.5] * 8 + [0.6] * 8, selecting=[0.53] * 8 + [0.515] * 8)
        assert first(many, small) is None

    def test_one_bad_epoch_says_nothing(self) -> None:
        readings = series(
            training=[0.5 + 0.01 * epoch for epoch in range(16)],
            selecting=[0.5] * 12 + [0.3] + [0.5] * 3,
        )
        assert first(self.guard, readings) is None

    def test_unknown_values_are_waited_for(self) -> None:
        readings = series(training=[0.5] * 8 + [0.9] * 8, selecting=[0.5] * 8 + [None] * 8)
        assert first(self.guard, readings) is None


class TestWeights:
    def loads(self, **terms: tuple[float, float]) -> dict[str, Load]:
        return {name: Load(share=share, effective=size) for name, (share, size) in terms.items()}

    def test_two_epochs_on_few_images(self) -> None:
        thin, wide = self.loads(pgd=(1.0, 0.09)), self.loads(pgd=(1.0, 0.3))
        guard = CollapsedWeights()
        assert first(guard, series(loads=[wide, thin, wide, thin, thin])) == 5
        text = guard(series(loads=[thin, thin])) or ""
        assert "9.0 %, about 5 of the 60 images of a step" in text
        assert first(guard, series(loads=[self.loads(pgd=(1.0, 1.0))] * 4)) is None

    def test_only_terms_that_hold_the_loss_count(self) -> None:
        guard = CollapsedWeights()
        aside = self.loads(saa=(0.55, 0.6), gd=(0.45, 0.05))
        assert first(guard, series(loads=[aside] * 4)) is None
        most = self.loads(saa=(0.45, 0.6), gd=(0.55, 0.05))
        assert first(guard, series(loads=[most] * 4)) == 2
        # Under normalization "none" shares do not sum to 1.
        scaled = self.loads(saa=(4.5, 0.6), gd=(5.5, 0.05))
        assert first(guard, series(loads=[scaled] * 4)) == 2
        nothing = self.loads(saa=(0.0, 0.0))
        assert first(guard, series(loads=[nothing] * 4)) is None

    def test_steps_without_any_weight(self) -> None:
        guard = NoWeights()
        assert first(guard, series(fallbacks=[0, 10, 11])) == 3
        assert "in 11 of 20 steps" in (guard(series(fallbacks=[11])) or "")


class TestIdle:
    @pytest.mark.parametrize(
        ("counts", "speaks"),
        [
            (WORKING, False),
            (IDLE, True),
            # Fools a little, and surely more than noise does.
            (replace(WORKING, fooled=40, only_attack=38, only_noise=0), False),
            # Too few images to say.
            (replace(IDLE, right=90, fooled=0, only_attack=0, only_noise=0), False),
            (replace(IDLE, right=110, fooled=0, only_attack=0, only_noise=0), True),
            (replace(IDLE, right=0, fooled=0, only_attack=0, only_noise=0), False),
            # Noise of that size does harm as well: no region of small changes.
            (replace(IDLE, fooled=200, only_attack=10, only_noise=10), False),
        ],
    )
    def test_against_noise(self, counts: Examined, speaks: bool) -> None:
        said = IdleAttack()([reading(1, examined={"pgd": counts, "saa": WORKING})])
        assert (said is not None) == speaks
        assert said is None or ("term 'pgd'" in said and "saa" not in said)

    def test_an_attack_that_changes_nothing(self) -> None:
        counts = replace(IDLE, changed=0, fooled=0, only_attack=0, only_noise=0)
        said = IdleAttack()([reading(1, examined={"pgd": counts})]) or ""
        assert "it changes none" in said

    def test_natural_training_has_no_attack_to_speak_of(self) -> None:
        assert IdleAttack()([reading(1, examined={})]) is None

    @pytest.mark.parametrize(
        ("low", "high", "speaks"),
        [
            (0.0, 1.0, False),
            (0.2, 0.7, False),
            (0.0, 255.0, True),
            (-1.9, 2.1, True),
            (0.0, 1 / 255, True),
            (0.0, 16 / 255, True),
            (-1e-5, 1 + 1e-5, False),
        ],
    )
    def test_the_scale_of_images(self, low: float, high: float, speaks: bool) -> None:
        counts = replace(WORKING, darkest=low, brightest=high)
        said = ImageScale()([reading(1, examined={"pgd": counts})])
        assert (said is not None) == speaks


class TestNothingLearnt:
    guard = NothingLearnt(largest_class=0.11, images=512)

    @pytest.mark.parametrize(
        ("clean", "epoch"),
        [
            ([0.1, 0.1, 0.1], 3),  # a constant answer
            ([0.05, 0.13, 0.11, 0.12], 3),  # by chance
            ([0.1, 0.1, 0.2, 0.3], None),  # a slow start
            ([0.3, 0.6, 0.1, 0.11, 0.1], 5),  # a run that diverges
            ([0.3, 0.1, 0.1], None),
            ([None, None, None, None], None),
        ],
    )
    def test_accuracies_that_one_answer_for_all_reaches(
        self, clean: list[float | None], epoch: int | None
    ) -> None:
        assert first(self.guard, series(clean=clean)) == epoch

    def test_the_largest_class_counts(self) -> None:
        readings = series(clean=[0.78, 0.8, 0.79])
        assert first(NothingLearnt(largest_class=0.8, images=100), readings) == 3
        assert first(NothingLearnt(largest_class=0.5, images=100), readings) is None
        text = NothingLearnt(largest_class=0.8, images=100)(readings) or ""
        assert "80.0 % of 100 clean training images" in text
        assert "lower the learning rate" in text

    @pytest.mark.parametrize(
        ("rate", "speaks"), [(1e-9, True), (0.05, False)], ids=["tiny", "sensible"]
    )
    def test_a_run(self, rate: float, speaks: bool) -> None:
        images, labels = digits()
        data = (images[:300], labels[:300])
        model = seeded(0, lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
        result = fit(
            model, data, threat="linf:0.05", method="natural", epochs=3, lr=rate, validation=0
        )
        said = [each["guard"] for record in result.records for each in record.notices]
        assert said == ["nothing-learnt"] * speaks


class TestSelection:
    def test_few_images_and_close_epochs(self) -> None:
        guard = SmallValidation(validation=Measured(name="pgd-10", images=40))
        readings = series(selecting=[0.1, 0.3, 0.5, 0.6, 0.58])
        assert first(guard, readings) == 5  # 60 and 30 % are more than 22 points apart
        assert first(guard, series(selecting=[0.0, 0.3, 0.6])) is None
        text = guard(readings) or ""
        assert "40 held-out images" in text
        assert "60.0 %, 58.0 %, 50.0 % under pgd-10" in text

    def test_a_set_that_can_show_falls(self) -> None:
        guard = SmallValidation(validation=Measured(name="pgd-10", images=216))
        assert first(guard, series(selecting=[0.5] * 9)) is None
        small = SmallValidation(validation=Measured(name="pgd-10", images=180))
        assert first(small, series(selecting=[0.5] * 9)) == 3

    def test_two_epochs_are_no_selection(self) -> None:
        guard = SmallValidation(validation=Measured(name="pgd-10", images=20))
        assert first(guard, series(selecting=[0.5, None, 0.5])) is None


class TestSkipped:
    def test_some_are_told(self) -> None:
        guard = SkippedSteps()
        assert guard([reading(1)]) is None
        assert "10 of 20 steps were skipped" in (guard([reading(2, taken=10, skipped=10)]) or "")

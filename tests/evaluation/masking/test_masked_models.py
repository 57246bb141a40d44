"""The panel as a whole: masked models and GAIRAT fail it for the right reasons, SAT passes."""

import pytest
from torch import nn

from evaluation.masking.masked import Noisy, Quantised, Scaled, digits_batch
from lrat.evaluation.masking import attack_checks, masking_panel
from lrat.evaluation.masking.subject import Subject
from trained import THREAT, trained

pytestmark = pytest.mark.xdist_group("masking")  # one GAIRAT model for all tests here


def failures(model: nn.Module, images: int = 100) -> set[str]:
    panel = masking_panel(model, digits_batch(images), THREAT)
    return {check.name for check in panel.checks if check.status == "failed"}


def test_adversarial_training_passes_every_check() -> None:
    panel = masking_panel(trained(), digits_batch(200), THREAT)
    assert {check.name: check.status for check in panel.checks if check.status != "passed"} == {}
    assert len(panel.checks) == 12


def test_saturated_logits_fail() -> None:
    assert failures(Scaled(trained())) >= {
        "input gradients",
        "saturated logits",
        "PGD, CW, AutoAttack agree",
        "scaled logits",
        "gradients beat noise",
        "falls as epsilon grows",
    }


def test_a_quantising_input_layer_fails() -> None:
    assert failures(Quantised(trained())) >= {
        "input gradients",
        "gradients beat noise",
        "falls as epsilon grows",
        "white box beats Square",
    }


def test_a_random_layer_fails() -> None:
    assert failures(Noisy(trained())) >= {"same images, same answer", "no influence of the batch"}


def test_gairat_fails_where_attacks_disagree_and_nowhere_else() -> None:
    assert failures(trained("gairat"), 200) == {"PGD, CW, AutoAttack agree", "scaled logits"}


@pytest.mark.parametrize("seed", [1, 2])
def test_the_verdict_on_gairat_does_not_hang_on_noise_and_images(seed: int) -> None:
    model = trained("gairat")
    batch = digits_batch(160, first=1450 + 90 * seed)
    subject = Subject(model=model, view=model, batch=batch, threat=THREAT, seed=seed)
    assert attack_checks.agreement(subject).status == "failed"

"""What the first forward of a model tells about it."""

import pytest
import torch
from torch import nn

from evaluation.parts import THREAT, Calls, batches_of, images_and_labels, linear
from lrat.attacks.base import Trace, Variant
from lrat.errors import ModelError
from lrat.evaluation import EvaluationResult, Member, Suite, custom, evaluate_suite


class Jittery(nn.Module):
    """Draws in eval mode, from its generator."""

    def __init__(self, by):
        super().__init__()
        self.inner, self.by = linear(), by
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, images):
        logits = self.inner(images)
        return logits + self.by * torch.randn(logits.shape, generator=self.generator)


def evaluated(model, folder=None):
    suite = custom(THREAT, {"step": Calls()})
    return evaluate_suite(model.eval(), batches_of(*images_and_labels()), suite, folder=folder)


def test_a_random_model_is_told_of(caplog, tmp_path):
    result = evaluated(Jittery(0.1), tmp_path)
    (note,) = result.notes
    assert note.startswith("the model is random: a second forward gives other logits for 16 of 16")
    assert note in caplog.text
    assert EvaluationResult.from_folder(tmp_path).notes == result.notes


def test_the_last_bits_of_a_forward_make_no_model_random():
    assert evaluated(Jittery(1e-6)).notes == ()


def test_weights_in_double_precision_are_told_of():
    with pytest.raises(ModelError, match=r"its weights are float64 .* call \.float\(\)"):
        evaluated(linear().double())


@pytest.mark.parametrize("moves", [True, False])
def test_a_success_that_the_verdict_does_not_confirm_is_tried_again(moves):
    """Without a view too: the attack may have seen a margin of rounding size."""
    calls = []

    class Claims:
        """Says that it fooled the first image; called for it alone, it may do something."""

        provides, needs_clean = frozenset(), False

        def __call__(self, model, images, labels, *, noise=None, clean_logits=None):
            calls.append(len(images))
            margin = torch.ones(len(images))
            margin[0] = -1e-7
            alone = moves and len(images) == 1
            adversarial = Calls()(model, images, labels) if alone else images.clone()
            return Variant(images=adversarial, trace=Trace(margin=margin))

    result = evaluate_suite(
        linear(),
        batches_of(*images_and_labels(), size=40),
        Suite(name="claims", threat=THREAT, members=(Member(name="claims", attack=Claims()),)),
    )
    assert calls[1:] == [1]
    rows = result.outcomes.under("claims")
    assert (rows.margin < rows.margin_clean - 1e-5).sum() == moves  # nearer than by rounding

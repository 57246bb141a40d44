"""What the first forward of a model tells about it."""

import pytest
import torch
from torch import nn

from evaluation.parts import THREAT, Calls, batches_of, images_and_labels, linear
from lrat.errors import ModelError
from lrat.evaluation import EvaluationResult, custom, evaluate_suite


class Jittery(nn.Module):
    """Draws in eval mode, from a generator of its own."""

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
    assert note.startswith("the model is random: asked twice, it gives other logits for 16 of 16")
    assert note in caplog.text
    assert EvaluationResult.from_folder(tmp_path).notes == result.notes


def test_the_last_bits_of_a_forward_make_no_model_random():
    assert evaluated(Jittery(1e-6)).notes == ()


def test_weights_in_double_precision_are_told_of():
    with pytest.raises(ModelError, match=r"its weights are float64 .* call \.float\(\)"):
        evaluated(linear().double())

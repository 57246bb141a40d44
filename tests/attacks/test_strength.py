"""SAA against the reference's targeted Auto-PGD with as many targets and steps."""

import warnings

import pytest
import torch
from pyautoattack.autopgd_base import APGDAttack_targeted
from torch import Tensor, nn

from lrat.attacks import SAA
from lrat.randomness import Keyed, keys
from trained import THREAT, held_out, trained

SEEDS = range(5)


@torch.no_grad()
def fooled(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Per cent of the images."""
    return 100 * (model(images).argmax(1) != labels).float().mean().item()


@pytest.mark.parametrize("which", ["convolutional", "dense"])
def test_saa_fools_as_many_images_as_the_reference(which: str) -> None:
    """Of images that are right when clean: the mean over seeds at most half a point below."""
    model = trained(which)
    images, labels = held_out(model)
    index = torch.arange(len(labels))
    settings = {"n_iter": 20, "n_target_classes": 3, "eps": THREAT.epsilon, "norm": "Linf"}
    ours, theirs = [], []
    for seed in SEEDS:
        variant = SAA(threat=THREAT)(model, images, labels, noise=Keyed(keys(seed, index)))
        ours.append(fooled(model, variant.images, labels))
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the reference warns of points with zero gradient
            attack = APGDAttack_targeted(model, seed=seed, device="cpu", **settings)
            theirs.append(fooled(model, attack.perturb(images.clone(), labels.clone()), labels))
    assert 10 < min(theirs) < 90
    assert sum(ours) / len(SEEDS) >= sum(theirs) / len(SEEDS) - 0.5, (ours, theirs)

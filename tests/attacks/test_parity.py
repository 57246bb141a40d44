"""Auto-PGD against the reference implementation: same verdicts, same step sizes."""

import sys
import warnings
from types import FrameType
from typing import Any

import pytest
import torch
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from torch import Tensor, nn

import lrat.attacks.apgd as apgd_module
from lrat.attacks import APGD
from lrat.attacks.ascent import ascend
from lrat.losses import cross_entropy, dlr, targeted_dlr
from trained import THREAT, held_out, trained

LOSSES = {"ce": cross_entropy, "dlr": dlr, "targeted": targeted_dlr}


def reference(kind: str, model: nn.Module, images: Tensor, labels: Tensor, steps: int, seed: int):
    """The reference's adversarial images and, per run, the step sizes after each iterate."""
    settings: dict[str, Any] = {"n_iter": steps, "eps": THREAT.epsilon, "seed": seed}
    settings |= {"norm": "Linf", "device": "cpu"}
    if kind == "targeted":
        attack = APGDAttack_targeted(model, n_target_classes=9, **settings)
    else:
        attack = APGDAttack(model, loss=kind, **settings)
    runs: list[dict[int, Tensor]] = []

    def watch(frame: FrameType, event: str, argument: object) -> Any:
        if frame.f_code.co_name != "attack_single_run":
            return None
        if event == "call":
            runs.append({})
        elif {"i", "step_size"} <= frame.f_locals.keys():
            runs[-1][frame.f_locals["i"] + 1] = frame.f_locals["step_size"].flatten().clone()
        return watch

    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the reference warns of points with zero gradient
        sys.settrace(watch)
        try:
            adversarial = attack.perturb(images.clone(), labels.clone())
        finally:
            sys.settrace(None)
    return adversarial, runs


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("kind", ["ce", "dlr", "targeted"])
@pytest.mark.parametrize("which", ["convolutional", "dense"])
def test_same_verdicts_and_step_sizes(
    kind: str, seed: int, which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = trained(which)
    # The reference spends nine runs on each image of a targeted attack.
    images, labels = held_out(model, 100 if kind == "targeted" else 300)
    expected, expected_runs = reference(kind, model, images, labels, 100, seed)
    runs: list[dict[int, Tensor]] = []

    def observed(*arguments: Any, **settings: Any) -> Any:
        runs.append({})
        record = runs[-1]
        return ascend(
            *arguments, **settings, observe=lambda i, _, sizes: record.update({i: sizes.clone()})
        )

    monkeypatch.setattr(apgd_module, "ascend", observed)
    targets = 9 if kind == "targeted" else None
    attack = APGD(threat=THREAT, steps=100, loss=LOSSES[kind], targets=targets)
    noise = torch.Generator().manual_seed(seed)
    variant = attack(model, images, labels, noise=noise)
    with torch.no_grad():
        fooled = model(variant.images).argmax(1) != labels
        expected_fooled = model(expected).argmax(1) != labels
    assert 0 < expected_fooled.sum() < len(labels)
    assert torch.equal(fooled, expected_fooled)
    assert len(runs) == len(expected_runs)
    for ours, theirs in zip(runs, expected_runs, strict=True):
        for number in range(1, 100):
            assert torch.equal(ours[number], theirs[number]), number

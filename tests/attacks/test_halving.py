"""Giving up tries on the way: the survivors go on as if they had been alone, at fewer passes."""

import copy
import dataclasses
import importlib.util
import pickle
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from attacks.stubs import trace_of
from builders import seeded
from lrat.attacks import APGD, SAA, Variant
from lrat.attacks.ascent import Ascent, ascend
from lrat.config.settings import RunConfig
from lrat.errors import SettingError
from lrat.experiments.train import train_run
from lrat.hooks import PassCounter
from lrat.losses import cross_entropy, dlr, probability_margin, targeted_dlr
from lrat.models import ResNet18
from lrat.randomness import Keyed, keys
from lrat.threat import L2, Linf
from trained import THREAT, held_out, trained

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "cheaper_saa.py"
COUNT, TARGETS, STEPS = 40, 3, 20
Keep = Mapping[int, int]


def attacked(attack: APGD, model: nn.Module | None = None) -> Variant:
    images, labels = held_out(trained("dense"), COUNT)
    noise = Keyed(keys(0, torch.arange(COUNT)))
    return attack(model or trained("dense"), images, labels, noise=noise)


@cache
def saa(**settings: Any) -> Variant:
    keep = settings.pop("keep", None)
    return attacked(SAA(threat=THREAT, keep=None if keep is None else dict(keep), **settings))


def reference(model: nn.Module, iterate: int) -> tuple[Tensor, Tensor, Tensor]:
    """Each target run alone to its end: margins of the best-loss iterates [T B] after
    ``iterate`` steps of it and at the end, and the images [T B ...] there."""
    images, labels = held_out(model, COUNT)
    noise = Keyed(keys(0, torch.arange(COUNT)))
    early, late, best = [], [], []
    with torch.no_grad():
        clean = model(images)
    for rank in range(1, TARGETS + 1):
        loss = targeted_dlr.prepare(labels, clean, torch.full_like(labels, rank))
        start = THREAT.sample(images, noise.child(0).child(rank))
        at: list[Tensor] = []

        def look(run: Ascent, at: list[Tensor] = at) -> None:
            if run.number == iterate:
                at.append(run.best.margin)

        with torch.no_grad():
            run = ascend(
                model, loss, start, images, labels, threat=THREAT, steps=STEPS, narrow=look
            )
        early.append(at[0])
        late.append(run.best.margin)
        best.append(run.best.images)
    return torch.stack(early), torch.stack(late), torch.stack(best)


@pytest.mark.parametrize("iterate", [1, 6, STEPS - 1])
def test_the_best_target_goes_on_as_if_it_had_been_alone(iterate: int) -> None:
    """Chosen by the smallest margin of the best-loss iterate then; its run is not disturbed."""
    model = trained("dense")
    early, late, images = reference(model, iterate)
    chosen = early.argmin(0)
    result = saa(keep=((iterate, 1),))
    assert torch.equal(trace_of(result).source, chosen)
    assert len(chosen.unique()) == TARGETS
    rows = torch.arange(COUNT)
    torch.testing.assert_close(trace_of(result).margin, late[chosen, rows], rtol=0, atol=1e-5)
    torch.testing.assert_close(result.images, images[chosen, rows], rtol=0, atol=1e-5)


def test_two_of_three_go_on_and_the_better_one_is_returned() -> None:
    early, late, _ = reference(trained("dense"), 6)
    late[early.argmax(0), torch.arange(COUNT)] = 2.0
    result = trace_of(saa(keep=((6, 2),)))
    torch.testing.assert_close(result.margin, late.amin(0), rtol=0, atol=1e-5)
    assert torch.equal(result.source, late.argmin(0))


def test_giving_up_later_is_closer_to_the_exact_attack() -> None:
    exact = trace_of(saa()).margin
    lost = [trace_of(saa(keep=keep)).margin - exact for keep in (((1, 1),), ((6, 1),), ((6, 2),))]
    for each in lost:
        assert (each > -1e-5).all(), "fewer tries cannot be stronger"
    means = [each.mean().item() for each in lost]
    assert means[0] > means[1] > means[2] >= 0
    assert means[1] < 0.01


@pytest.mark.parametrize(
    ("keep", "forwards", "backwards"),
    [
        (None, 63, 60),
        ({6: 1}, 21 + 14, 21 + 13),
        ({6: 2}, 21 + 28, 21 + 26),
        ({2: 2, 6: 1}, 9 + 8 + 14, 9 + 8 + 13),
        ({19: 1}, 60 + 1, 60),
        ({}, 63, 60),
    ],
    ids=str,
)
def test_passes_are_those_spent(keep: Keep | None, forwards: int, backwards: int) -> None:
    """Rows through the model, besides the clean pass that picks the targets."""
    model = copy.deepcopy(trained("dense"))
    with PassCounter(model) as passes:
        trace = trace_of(attacked(SAA(threat=THREAT, keep=keep), model))
    assert trace.forwards.tolist() == [forwards] * COUNT
    assert trace.backwards.tolist() == [backwards] * COUNT
    assert passes.forwards == (forwards + 1) * COUNT
    assert passes.backwards == backwards * COUNT


def test_fewer_targets_than_asked_for_are_not_given_up_twice() -> None:
    """Two classes leave one target: nothing to choose from."""
    model = nn.Sequential(trained("dense"), FirstTwo())
    labels = torch.tensor([0, 1])
    images = held_out(trained("dense"), 2)[0]
    plain, halved = (
        SAA(threat=THREAT, keep=keep)(model, images, labels) for keep in (None, {2: 2, 6: 1})
    )
    assert torch.equal(plain.images, halved.images)
    assert trace_of(halved).forwards.tolist() == [21, 21]


class FirstTwo(nn.Module):
    def forward(self, logits: Tensor) -> Tensor:
        return logits[:, :2]


def test_restarts_are_tries_too() -> None:
    """Of 2 x 3 tries two go on; the trace names them by their number among the six."""
    attack = APGD(
        threat=THREAT,
        steps=8,
        loss=targeted_dlr,
        targets=3,
        restarts=2,
        stacked=True,
        keep={3: 2},
    )
    trace = trace_of(attacked(attack))
    assert trace.source.max() > 2
    assert trace.forwards.tolist() == [6 * 4 + 2 * 5] * COUNT


@pytest.mark.parametrize("choice", ["best-loss", "misclassified"])
@pytest.mark.parametrize("start", ["uniform", "none"])
def test_the_trace_describes_the_returned_image(choice: Any, start: Any) -> None:
    model = trained("dense")
    attack = APGD(
        threat=THREAT, steps=9, loss=targeted_dlr, targets=3, stacked=True, choice=choice,
        start=start, keep={2: 2, 5: 1},
    )  # fmt: skip
    images, labels = held_out(model, COUNT)
    result = attacked(attack)
    with torch.no_grad():
        margin = probability_margin(model(result.images), labels)
    torch.testing.assert_close(trace_of(result).margin, margin, rtol=0, atol=1e-5)
    assert (THREAT.distance(result.images, images) > 0.1 * THREAT.epsilon).all()


def test_a_try_that_fooled_the_model_is_not_given_up_for_one_that_did_not() -> None:
    """Restarts of Auto-PGD: with one survivor as many images are fooled as at the choice."""
    attack = APGD(threat=THREAT, steps=8, loss=dlr, restarts=3, stacked=True)
    short = dataclasses.replace(attack, steps=3)
    halved = dataclasses.replace(attack, keep={3: 1})
    before, after = (trace_of(attacked(each)).margin < 0 for each in (short, halved))
    assert before.any()
    assert after.float().mean() >= before.float().mean()


@pytest.mark.parametrize("threat", [Linf(epsilon=8 / 255), L2(epsilon=0.5)], ids=["linf", "l2"])
@pytest.mark.parametrize("keep", [{6: 1}, {2: 2, 6: 1}], ids=str)
def test_nothing_waits_for_the_device(threat: Any, keep: Keep) -> None:
    """Which targets go on is read by no host: the shapes are the same for all images."""
    with FakeTensorMode():
        model = seeded(0, lambda: ResNet18(width=2))
        images, labels = torch.empty(3, 3, 8, 8), torch.zeros(3, dtype=torch.long)
        variant = SAA(threat=threat, steps=10, keep=keep)(model, images, labels)
        assert variant.images.shape == images.shape


def test_it_prints_as_written_and_can_be_sent() -> None:
    """Without ``keep`` as before there was any, which stored evaluations are known by."""
    plain, halved = SAA(threat=THREAT), SAA(threat=THREAT, keep={6: 1, 2: 2})
    assert "keep" not in repr(plain)
    assert repr(halved).endswith("stacked=True, keep={2: 2, 6: 1})")
    assert hash(halved) == hash(SAA(threat=THREAT, keep={2: 2, 6: 1}))
    assert pickle.loads(pickle.dumps(halved)) == halved  # noqa: S301 - our own bytes
    assert plain != halved


def test_later_changes_of_the_mapping_do_not_reach_the_attack() -> None:
    keep = {6: 1}
    attack = SAA(threat=THREAT, keep=keep)
    keep[6] = 2
    assert attack.keep == {6: 1}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stacked": False, "keep": {6: 1}}, "stacked=True"),
        ({"keep": {0: 1}}, "1 ... 19"),
        ({"keep": {20: 1}}, "1 ... 19"),
        ({"keep": {6: 0}}, "at least one"),
        ({"keep": {6: 3}}, "of 3 tries"),
        ({"keep": {2: 1, 6: 2}}, "ever fewer"),
        ({"keep": {2: 1}, "targets": 1}, "of 1 tries"),
        ({"loss": cross_entropy, "targets": None, "keep": {6: 1}}, "of 1 tries"),
    ],
)
def test_settings_that_contradict_are_refused(settings: dict[str, Any], message: str) -> None:
    base = {"threat": THREAT, "steps": STEPS, "loss": targeted_dlr, "targets": 3, "stacked": True}
    with pytest.raises(SettingError, match=message):
        APGD(**(base | settings))


def test_the_benchmark_of_strength_against_passes_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its table says what each setting spends and loses."""
    run = tmp_path / "run"
    config = {"method": {"name": "natural"}, "training": {"epochs": 1}, "model": {"width": 2}}
    train_run(RunConfig.model_validate(config), run)
    spec = importlib.util.spec_from_file_location("cheaper_saa", BENCHMARK)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "cheaper_saa", module)
    spec.loader.exec_module(module)
    chosen = ["--limit", "20", "--seeds", "2", "--only", "keep={2: 2, 6: 1}", "untargeted DLR"]
    monkeypatch.setattr(sys, "argv", ["cheaper_saa.py", str(run), *chosen])
    module.main()
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]]
    assert [row[1] for row in rows][:2] == ["64 + 60", "32 + 30"]
    assert [row[2] for row in rows][:2] == ["1.00", "0.50"]
    assert all("±" in cell for row in rows[1:] for cell in row[3:])

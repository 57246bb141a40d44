"""Losses and gradients that are not finite: the run stops, or skips the step and counts it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from lrat.attacks.base import Variant
from lrat.errors import NonFiniteError
from lrat.objectives.base import ObjectiveOutput, StepContext
from lrat.training import Watch
from lrat.types import Batch
from training.toys import ToySource, Weighted, assert_same, network, run, timeless, weights

EPOCHS, STEPS = 3, 4


@dataclass(frozen=True, kw_only=True)
class Broken(Weighted):
    """Weighted, but for steps with one of ``images`` in ``epochs`` (from 0): there the loss, or its
    gradient alone, is NaN.

    The forward of a broken step puts NaN into BatchNorm's statistics as well.
    """

    epochs: tuple[int, ...] = ()
    images: tuple[int, ...] = (103,)
    gradient_alone: bool = False

    def loss(
        self, model: nn.Module, batch: Batch, variants: Mapping[str, Variant], step: StepContext
    ) -> ObjectiveOutput:
        if step.epoch not in self.epochs or not set(self.images) & set(batch.index.tolist()):
            return super().loss(model, batch, variants, step)
        if self.gradient_alone:
            output = super().loss(model, batch, variants, step)
            parameter = next(model.parameters())
            # sqrt has no finite slope at 0.
            return replace_total(output, output.total + (parameter * 0).abs().sqrt().sum())
        images = variants["noisy"].images * math.nan
        return super().loss(model, batch, {"noisy": Variant(images=images)}, step)


def batches(epoch: int) -> list[Batch]:
    source = ToySource()
    source.load_state_dict({"epoch": epoch, "position": 0})
    return list(source)


def replace_total(output: ObjectiveOutput, total: torch.Tensor) -> ObjectiveOutput:
    return ObjectiveOutput(
        total=total,
        normalizer=output.normalizer,
        per_example=output.per_example,
        fallback=output.fallback,
        correct=output.correct,
    )


@pytest.mark.parametrize("gradient_alone", [False, True])
def test_a_step_that_is_not_finite_stops_the_run_before_the_update(gradient_alone: bool) -> None:
    model = network()
    said = "the gradient (though not the loss)" if gradient_alone else "the loss of term 'noisy'"
    with pytest.raises(NonFiniteError) as caught:
        run(model=model, objective=Broken(epochs=(1,), gradient_alone=gradient_alone))
    step = next(
        number for number, batch in enumerate(batches(epoch=1), 1) if 103 in batch.index.tolist()
    )
    assert str(caught.value).startswith(f"epoch 2, step {step}: {said} became NaN or infinite: ")
    assert all(torch.isfinite(value).all() for value in model.parameters())


@pytest.mark.parametrize("gradient_alone", [False, True])
def test_a_skipped_step_changes_nothing_and_is_counted(gradient_alone: bool) -> None:
    *_, last = batches(epoch=EPOCHS - 1)
    broken = Broken(
        epochs=(EPOCHS - 1,), images=(int(last.index[0]),), gradient_alone=gradient_alone
    )
    cut = {"momentum": 0.9, "ema": 0.9, "non_finite": "skip"}
    found, result = run(objective=broken, **cut)
    # The last step is the only one that is not taken: the model is as the step before left it.
    seen: list[dict[str, torch.Tensor]] = []

    class Watching:
        def on_step(self, progress) -> None:  # type: ignore[no-untyped-def]
            seen.append(weights(whole))

        def on_epoch(self, record) -> None:  # type: ignore[no-untyped-def]
            return

    whole = network()
    run(model=whole, objective=Broken(), watch=Watch(progress=Watching()), **cut)
    assert_same(weights(found), seen[-2])
    assert [record.skipped for record in result.records] == [0, 0, 1]
    record = result.records[-1]
    assert record.steps == STEPS
    assert record.images == 26
    assert record.loss is not None
    assert math.isfinite(record.loss)
    assert all(
        value is not None and math.isfinite(value) for value in record.terms["noisy"].values()
    )
    assert record.passes["update_forwards"] == 1.0


def test_an_epoch_of_more_skipped_steps_than_others_stops_the_run(tmp_path: Path) -> None:
    model = network()
    before = weights(model)
    with pytest.raises(NonFiniteError, match=r"^epoch 1: 4 of 4 steps were skipped, ") as caught:
        run(
            tmp_path,
            model=model,
            epochs=1,
            objective=Broken(epochs=(0,), images=tuple(range(100, 126))),
            non_finite="skip",
        )
    assert "\n" not in str(caught.value)
    assert_same(weights(model), before)


def test_half_of_an_epoch_may_be_skipped() -> None:
    first, second, *_ = batches(epoch=0)
    images = (int(first.index[0]), int(second.index[0]))
    _, result = run(objective=Broken(epochs=(0,), images=images), non_finite="skip")
    assert [record.skipped for record in result.records] == [2, 0, 0]


def test_a_run_with_skipped_steps_is_the_same_when_continued(tmp_path: Path) -> None:
    def go(folder: Path, epochs: int):  # type: ignore[no-untyped-def]
        return run(
            folder,
            objective=Broken(epochs=(0, 1)),
            non_finite="skip",
            epochs=epochs,
            schedule_epochs=3,
            drops={},
        )

    whole, expected = go(tmp_path / "whole", 3)
    go(tmp_path / "parts", 1)
    parts, result = go(tmp_path / "parts", 3)
    assert_same(parts.state_dict(), whole.state_dict())
    assert timeless(result.records) == timeless(expected.records)
    assert [record.skipped for record in result.records] == [1, 1, 0]

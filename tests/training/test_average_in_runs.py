"""A run with an average of its weights: measured, selected and reported by it, resumed with it."""

import signal
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lrat.errors import Interrupted
from lrat.training import Storage, Watch
from training.test_resume import Signal
from training.toys import assert_same, data, network, run, timeless, validate, weights

EMA = {"ema": 0.8, "ema_warm_up": False}


def by_hand(decay: float) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The weights after the run, and the average of those after each of its steps."""
    model = network()
    average = {name: value.double() for name, value in weights(model).items()}

    class Watching:
        def on_step(self, progress) -> None:  # type: ignore[no-untyped-def]
            for name, value in weights(model).items():
                average[name] = decay * average[name] + (1 - decay) * value.double()

        def on_epoch(self, record) -> None:  # type: ignore[no-untyped-def]
            return

    run(model=model, watch=Watch(progress=Watching()))
    return weights(model), average


def close(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    for name, value in found.items():
        if value.is_floating_point():
            torch.testing.assert_close(value, expected[name].float(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kept", [False, True], ids=["in memory", "in a folder"])
def test_the_reported_weights_are_the_averaged_ones(tmp_path: Path, kept: bool) -> None:
    newest, average = by_hand(0.8)
    model, result = run(tmp_path if kept else None, **EMA)
    assert_same(weights(model), newest)
    close(result.weights, average)
    assert any(not torch.equal(result.weights[name], newest[name]) for name in newest)


def test_both_are_measured_and_the_average_selects() -> None:
    asked: list[dict[str, Tensor]] = []

    def best_at_first(model: nn.Module) -> dict[str, float]:
        """The averaged weights, measured second, are best after epoch 1, the newest after 3."""
        asked.append(weights(model))
        number = len(asked)
        return {"pgd": 1 - number / 100 if number % 2 == 0 else number / 100}

    watch = Watch(clean=[data(10)], validate=best_at_first, select_by="pgd", monitor=validate)
    model, result = run(watch=watch, **EMA)
    assert result.selected_epoch == 1
    assert result.selected_value == 0.98
    close(result.weights, asked[1])
    record = result.records[-1]
    assert record.validation == {"pgd": 0.05}
    assert record.average["validation/pgd"] == 0.94
    assert record.average.keys() == {"clean_accuracy", "validation/pgd", "monitor/pgd"}
    assert_same(weights(model), asked[-2])


@pytest.mark.parametrize(("epoch", "step"), [(1, 2), (2, None), (3, 3)])
def test_a_continued_run_continues_the_average(
    tmp_path: Path, epoch: int, step: int | None
) -> None:
    def watch(**more) -> Watch:  # type: ignore[no-untyped-def]
        return Watch(clean=[data(10)], validate=validate, select_by="pgd", **more)

    _, expected = run(tmp_path / "whole", watch=watch(), ema=0.9)
    stop = Signal(epoch, step, signal.SIGTERM)
    with pytest.raises(Interrupted):
        run(tmp_path / "parts", watch=watch(progress=stop), ema=0.9)
    _, result = run(tmp_path / "parts", watch=watch(), ema=0.9)
    assert_same(result.weights, expected.weights)
    assert timeless(result.records) == timeless(expected.records)


def test_a_measurement_of_the_average_that_is_left_leaves_the_weights(tmp_path: Path) -> None:
    class StopsAt(Signal):
        calls = 0

        def __call__(self, model: nn.Module) -> dict[str, float]:
            self.calls += 1
            if self.calls == 2:  # of the average
                self.on_epoch_now()
            return validate(model)

        def on_epoch_now(self) -> None:
            signal.raise_signal(signal.SIGINT)

    whole, _ = run(epochs=1, **EMA)
    model = network()
    with pytest.raises(Interrupted):
        run(
            tmp_path,
            model=model,
            epochs=1,
            watch=Watch(validate=StopsAt(9, 9, signal.SIGINT)),
            **EMA,
        )
    assert_same(weights(model), weights(whole))
    saved = Storage(folder=tmp_path, identity="toy").checkpoints().latest()
    assert saved is not None
    assert_same(saved["model"], weights(whole))

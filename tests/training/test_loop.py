import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import nn

from lrat.errors import DataError, NonFiniteError, SettingError, UnknownNameError
from lrat.training import EpochRecord, Optimisation, StepProgress, Watch, train
from training.toys import (
    ToySource,
    Weighted,
    assert_same,
    data,
    network,
    run,
    timeless,
    validate,
    weights,
)


def test_the_same_call_gives_the_same_bits(tmp_path: Path) -> None:
    first, first_result = run(tmp_path / "a")
    second, second_result = run(tmp_path / "b")
    third, third_result = run(None)
    for model, result in [(second, second_result), (third, third_result)]:
        assert_same(model.state_dict(), first.state_dict())
        assert timeless(result.records) == timeless(first_result.records)
    other, _ = run(seed=1)
    assert not torch.equal(other.state_dict()["1.weight"], first.state_dict()["1.weight"])


def test_it_learns_and_says_so() -> None:
    watch = Watch(clean=[data(10), data(16)], validate=validate)
    _, result = run(epochs=30, watch=watch, objective=Weighted(amount=0.01))
    first, last = result.records[0], result.records[-1]
    assert last.loss < first.loss / 1.5
    assert last.clean_accuracy is not None
    assert last.clean_accuracy > 0.8
    assert last.robust_accuracy is not None
    assert last.lr == pytest.approx(0.001)
    assert (last.epoch, last.images, last.steps, last.fallbacks) == (30, 26, 4, 4)


def test_metrics_are_lines_of_json(tmp_path: Path) -> None:
    _, result = run(tmp_path)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3]
    assert [EpochRecord.from_json(line) for line in lines] == list(result.records)


def scripted(values: list[float], seen: list[dict[str, torch.Tensor]]) -> Callable[..., object]:
    def measure(model: nn.Module) -> Mapping[str, float]:
        assert not any(module.training for module in model.modules())
        seen.append(weights(model))
        return {"pgd": values[len(seen) - 1], "natural": 1.0}

    return measure


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize(
    ("values", "epoch"), [([0.5, 0.7, 0.7, 0.6], 2), ([0.1, 0.2, 0.3, 0.4], 4)]
)
def test_the_best_epoch_is_selected_the_earlier_of_equals(
    tmp_path: Path, stored: bool, values: list[float], epoch: int
) -> None:
    seen: list[dict[str, torch.Tensor]] = []
    watch = Watch(validate=scripted(values, seen), select_by="pgd")
    model, result = run(tmp_path if stored else None, watch=watch, epochs=4)
    assert (result.selected_epoch, result.selected_value) == (epoch, values[epoch - 1])
    assert_same(result.weights, seen[epoch - 1])
    assert_same(model.state_dict(), seen[3])


@pytest.mark.parametrize("stored", [True, False])
def test_without_selection_the_last_epoch_is_taken(tmp_path: Path, stored: bool) -> None:
    seen: list[dict[str, torch.Tensor]] = []
    watch = Watch(validate=scripted([0.7, 0.5, 0.6], seen))
    _, result = run(tmp_path if stored else None, watch=watch)
    assert (result.selected_epoch, result.selected_value) == (3, None)
    assert_same(result.weights, seen[2])
    assert result.records[0].validation == {"pgd": 0.7, "natural": 1.0}


def test_selecting_by_what_is_not_there() -> None:
    with pytest.raises(SettingError, match="needs validate"):
        Watch(select_by="pgd")
    with pytest.raises(UnknownNameError, match="did you mean 'pgd'"):
        run(watch=Watch(validate=validate, select_by="pgd-20"))
    with pytest.raises(NonFiniteError, match="epoch 1: validation gave pgd=nan"):
        run(watch=Watch(validate=lambda model: {"pgd": float("nan")}, select_by="pgd"))


def test_monitor_every_other_epoch_and_the_last() -> None:
    watch = Watch(monitor=lambda model: {"test": 0.5}, monitor_every=2)
    _, result = run(watch=watch, epochs=5)
    assert [bool(record.monitor) for record in result.records] == [False, True, False, True, True]


def test_a_frozen_normalisation_stays_frozen() -> None:
    model = network().train()
    frozen = model[2].eval()
    before = weights(frozen)
    run(model=model)
    assert_same({"x": frozen.running_mean}, {"x": before["running_mean"]})
    assert model.training
    assert not frozen.training


def test_a_model_in_eval_mode_is_trained_and_comes_back_in_eval_mode() -> None:
    model = network().eval()
    run(model=model)
    reference, _ = run()
    assert_same(model.state_dict(), reference.state_dict())
    assert not any(module.training for module in model.modules())


class Listener:
    def __init__(self) -> None:
        self.steps: list[StepProgress] = []
        self.records: list[EpochRecord] = []

    def on_step(self, progress: StepProgress) -> None:
        self.steps.append(progress)

    def on_epoch(self, record: EpochRecord) -> None:
        self.records.append(record)


def test_the_whole_run_is_forecast_from_the_first_step_on() -> None:
    listener = Listener()
    _, result = run(watch=Watch(progress=listener))
    first, last = listener.steps[0], listener.steps[-1]
    assert len(listener.steps) == 12
    assert (first.epoch, first.epochs, first.step, first.images) == (1, 3, 1, 8)
    assert first.images_per_epoch == 26
    assert first.seconds_left == pytest.approx((3 * 26 - 8) / first.images_per_second)
    assert last.seconds_left == 0
    assert tuple(listener.records) == result.records


def test_a_stream_has_no_forecast() -> None:
    class Stream(ToySource):
        size = None  # type: ignore[assignment]

        def __iter__(self):  # type: ignore[no-untyped-def]
            return iter([data(8)])

    listener = Listener()
    run(source=Stream(), watch=Watch(progress=listener))
    assert [step.seconds_left for step in listener.steps] == [None] * 3


def test_an_empty_source_is_refused() -> None:
    class Empty(ToySource):
        def __iter__(self):  # type: ignore[no-untyped-def]
            return iter([])

    with pytest.raises(DataError, match="epoch 1: the source gave no batch"):
        train(network(), Empty(), Weighted(), Optimisation(epochs=1))

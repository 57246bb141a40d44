"""The moving average against arithmetic and PyTorch's, and what it leaves as it was."""

import copy
import math
import signal
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from builders import seeded
from lrat.errors import CheckpointError, Interrupted, SettingError
from lrat.training import StepProgress, Watch
from lrat.training.optimisation import WeightAverage
from training.toys import assert_same, data, network, run, timeless, validate, weights


def moved(model: nn.Module, steps: int, average: WeightAverage) -> list[dict[str, Tensor]]:
    """The model's state after each of some steps, in train mode, each taken into the average."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    states = []
    model.train()
    for step in range(steps):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(step)
            images = torch.rand(8, 1, 4, 4)
            loss = nn.functional.cross_entropy(model(images), torch.arange(8) % 3)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average.update(model)
        states.append(weights(model))
    return states


def averaged(average: WeightAverage, model: nn.Module) -> dict[str, Tensor]:
    with average.applied(model):
        return weights(model)


@pytest.mark.parametrize("warm_up", [False, True])
def test_weights_and_running_statistics_by_hand(warm_up: bool) -> None:
    model = network()
    expected = weights(model)
    average = WeightAverage(model, decay=0.4, warm_up=warm_up)
    decays = [0.1, 2 / 11, 3 / 12, 4 / 13, 5 / 14, 6 / 15, 0.4, 0.4]
    for number, state in enumerate(moved(model, 8, average)):
        decay = decays[number] if warm_up else 0.4
        for name, value in state.items():
            if value.is_floating_point():
                expected[name] = decay * expected[name] + (1 - decay) * value
            else:
                expected[name] = value  # a counter: the newest
    found = averaged(average, model)
    assert {"2.running_mean", "2.running_var", "2.num_batches_tracked"} <= found.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-7)


def test_it_is_pytorchs_moving_average() -> None:
    model = network()
    reference = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.7))
    reference.update_parameters(model)  # its first update is a copy

    class Both(WeightAverage):
        def update(self, model: nn.Module) -> None:
            super().update(model)
            reference.update_parameters(model)

    average = Both(model, decay=0.7, warm_up=False)
    moved(model, 6, average)
    found = averaged(average, model)
    for name, value in reference.module.named_parameters():
        torch.testing.assert_close(found[name], value.detach())


def test_a_decay_of_zero_is_the_newest_weights() -> None:
    model = network()
    average = WeightAverage(model, decay=0.0)
    *_, last = moved(model, 3, average)
    assert_same(averaged(average, model), last)


class StopHereError(Exception):
    pass


def test_the_models_own_weights_are_back_after_an_exception() -> None:
    model = network()
    average = WeightAverage(model, decay=0.9)
    *_, before = moved(model, 3, average)
    own = [*model.parameters(), *model.buffers()]
    places = [value.data_ptr() for value in own]

    def use() -> None:
        with average.applied(model):
            assert not torch.equal(model.state_dict()["1.weight"], before["1.weight"])
            model[2](torch.linspace(0, 1, 60).view(6, 10))  # moves its running statistics
            raise StopHereError

    with pytest.raises(StopHereError):
        use()
    assert_same(model.state_dict(), before)
    assert [value.data_ptr() for value in own] == places
    again = averaged(average, model)
    assert_same(averaged(average, model), again)


class Tied(nn.Module):
    """Two names for one weight, a frozen layer, and buffers that are no statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4, bias=False)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf, 0.0, torch.nan]))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))


def test_tied_weights_stay_tied_and_other_buffers_are_the_models_own() -> None:
    model = seeded(0, Tied)
    start = weights(model)
    average = WeightAverage(model, decay=0.75, warm_up=False)
    with torch.no_grad():
        model.first.weight += 1
        model.seen += 3
    average.update(model)
    with average.applied(model):
        assert model.first.weight is model.second.weight
        torch.testing.assert_close(model.second.weight, start["first.weight"] + 0.25)
        torch.testing.assert_close(model.mask, start["mask"], equal_nan=True)
        assert torch.equal(model.frozen.weight, start["frozen.weight"])
        assert model.seen == 3


def test_half_precision_weights_are_averaged_in_float32() -> None:
    model = seeded(0, lambda: nn.Linear(4, 4)).to(torch.bfloat16)
    average = WeightAverage(model, decay=0.999, warm_up=False)
    start = model.weight.detach().float()
    with torch.no_grad():
        model.weight += 1
    for _ in range(100):
        average.update(model)  # each moves by less than bfloat16 can hold
    expected = start + (1 - 0.999**100) * (model.weight.detach().float() - start)
    kept = average.state_dict()["values"]["weight"]
    torch.testing.assert_close(kept, expected, rtol=1e-4, atol=1e-5)
    assert averaged(average, model)["weight"].dtype == torch.bfloat16


def test_an_update_does_not_wait_for_the_device() -> None:
    with FakeTensorMode():  # refuses to read a value
        model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
        average = WeightAverage(model, decay=0.9)
        average.update(model)
        with average.applied(model):
            pass
    assert average.updates == 1


def test_saved_and_loaded_it_goes_on_the_same() -> None:
    model = network()
    average = WeightAverage(model, decay=0.8)
    moved(model, 3, average)
    saved = copy.deepcopy(average.state_dict())
    other = WeightAverage(network(), decay=0.8)
    other.load_state_dict(saved)
    moved(copy.deepcopy(model), 2, average)
    moved(copy.deepcopy(model), 2, other)
    assert_same(averaged(other, model), averaged(average, model))


def test_the_average_of_another_model_is_refused() -> None:
    saved = WeightAverage(network(), decay=0.8).state_dict()
    other = WeightAverage(network(normalised=False), decay=0.8)
    with pytest.raises(CheckpointError, match=r"^[^\n]* does not fit this model at '2.bias'[^\n]*"):
        other.load_state_dict(saved)


@pytest.mark.parametrize("decay", [1.0, 1.5, -0.1, math.nan])
def test_refuses_a_decay_in_one_line(decay: float) -> None:
    said = rf"(ema|decay)={decay}\): must be a finite number >= 0 and < 1[^\n]*$"
    with pytest.raises(SettingError, match=said):
        WeightAverage(network(), decay=decay)
    with pytest.raises(SettingError, match=said):
        run(ema=decay)


class Stop:
    """Stops the run as a signal would, in the middle of the second epoch."""

    def on_step(self, progress: StepProgress) -> None:
        if (progress.epoch, progress.step) == (2, 2):
            signal.raise_signal(signal.SIGINT)

    def on_epoch(self, record: object) -> None:
        return


def test_training_goes_its_way_and_reports_the_average() -> None:
    plain, plain_result = run(epochs=2)
    model, result = run(epochs=2, ema=0.9)
    assert_same(model.state_dict(), plain.state_dict())
    assert [each.loss for each in result.records] == [each.loss for each in plain_result.records]
    assert not torch.equal(result.weights["1.weight"], model.state_dict()["1.weight"])
    with torch.no_grad():
        model.load_state_dict(result.weights)
    model.eval()
    assert validate(model)["pgd"] == result.records[-1].average["validation/pgd"]


def test_a_run_with_an_average_is_continued_to_the_bit(tmp_path: Path) -> None:
    whole, expected = run(tmp_path / "whole", ema=0.9)
    watch = Watch(clean=[data(10)], validate=validate, progress=Stop())
    with pytest.raises(Interrupted, match="in epoch 2 after step 2"):
        run(tmp_path / "parts", ema=0.9, watch=watch)
    parts, result = run(tmp_path / "parts", ema=0.9)
    assert_same(parts.state_dict(), whole.state_dict())
    assert_same(result.weights, expected.weights)
    assert timeless(result.records) == timeless(expected.records)

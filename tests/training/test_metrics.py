import json
from pathlib import Path

import pytest
import torch

from lrat.attacks.base import Trace, Variant
from lrat.hooks import PassCounter
from lrat.objectives.base import ObjectiveOutput
from lrat.training.metrics import EpochRecord, EpochSums, MetricsFile, effective_sample_size
from lrat.training.outcome import Passes, StepOutcome, merge, traced
from training.toys import data, network

CPU = torch.device("cpu")


def outcome(weights: list[float], losses: list[float], *, loss: float = 1.0) -> StepOutcome:
    batch = data(len(weights))
    values = torch.tensor(weights)
    output = ObjectiveOutput(
        total=torch.tensor(loss),
        normalizer=torch.tensor(1.0),
        per_example={
            "loss/a": torch.tensor(losses),
            "weight/a": values,
            "share/a": values / values.mean(),
        },
        fallback=torch.tensor(1.0),
        correct=torch.arange(len(weights)) == 0,
    )
    passes = Passes(attack_forwards=3 * len(weights), update_backwards=len(weights))
    return merge([batch], [output], torch.tensor(loss), passes)


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ([2.0, 2.0, 2.0, 2.0], 1.0),
        ([0.0, 0.0, 5.0, 0.0], 0.25),
        ([1.0, 3.0], 16 / 10 / 2),
        ([0.0, 0.0], 0.0),
    ],
)
def test_effective_sample_size(weights: list[float], expected: float) -> None:
    assert effective_sample_size(torch.tensor(weights)).item() == pytest.approx(expected)


def test_a_record_is_worked_out_by_hand() -> None:
    sums = EpochSums(CPU)
    sums.add(outcome([1.0, 3.0], [2.0, 4.0], loss=1.0))
    sums.add(outcome([0.0, 0.0, 0.0, 5.0], [1.0, 1.0, 1.0, 2.0], loss=4.0))
    sums.seconds = 2.0
    record = sums.record(epoch=4, lr=0.1)
    assert (record.epoch, record.steps, record.images, record.fallbacks) == (5, 2, 6, 2)
    assert record.loss == pytest.approx((2 * 1 + 4 * 4) / 6)
    assert record.robust_accuracy == pytest.approx(2 / 6)
    assert record.images_per_second == pytest.approx(3.0)
    assert record.passes == pytest.approx(
        {"attack_forwards": 3, "attack_backwards": 0, "update_forwards": 0, "update_backwards": 1}
    )
    assert record.terms["a"] == pytest.approx(
        {
            "loss": 11 / 6,
            "weight_mean": 9 / 6,
            "weight_min": 0.0,
            "weight_max": 5.0,
            "share": 1.0,
            "effective_sample_size": (0.8 + 0.25) / 2,
        }
    )


def test_sums_continue_from_their_state() -> None:
    steps = [outcome([1.0, 3.0], [2.0, 4.0]), outcome([0.5, 0.1, 0.2], [2.0, 1.0, 3.0])]
    whole, first, second = EpochSums(CPU), EpochSums(CPU), EpochSums(CPU)
    for step in steps:
        whole.add(step)
    first.add(steps[0])
    second.load_state_dict(first.state_dict())
    second.add(steps[1])
    assert second.record(epoch=0, lr=0.1) == whole.record(epoch=0, lr=0.1)


def test_shares_of_small_batches_refer_to_the_whole_step() -> None:
    batch = data(2)
    parts = [[1.0, 1.0], [3.0, 5.0]]
    outputs = [
        ObjectiveOutput(
            total=torch.tensor(1.0),
            normalizer=torch.tensor(part).sum(),
            per_example={"share/a": torch.tensor(part) * 2 / sum(part)},
        )
        for part in parts
    ]
    merged = merge([batch, batch], outputs, torch.tensor(1.0), Passes())
    expected = torch.tensor([1.0, 1.0, 3.0, 5.0]) * 4 / 10
    assert torch.allclose(merged.terms["a"].values["share"], expected)


def test_a_term_in_some_batches_only_keeps_its_own_rows() -> None:
    first, second = data(2), data(3)
    outputs = [
        ObjectiveOutput(
            total=torch.tensor(1.0),
            normalizer=torch.tensor(2.0),
            per_example={name: torch.ones(count) for name in names},
        )
        for count, names in [(2, ["loss/a"]), (3, ["loss/a", "loss/b"])]
    ]
    merged = merge([first, second], outputs, torch.tensor(1.0), Passes())
    assert len(merged.terms["a"].index) == 5
    assert torch.equal(merged.terms["b"].index, second.index)


def test_records_are_valid_json_lines_and_come_back() -> None:
    record = EpochRecord(
        epoch=1, lr=0.1, loss=2.0, steps=1, images=8, terms={"a": {"loss": float("nan")}}
    )
    line = record.to_json()
    assert "\n" not in line
    assert json.loads(line)["terms"] == {"a": {"loss": None}}
    assert EpochRecord.from_json(line).to_json() == line


def test_the_file_is_cut_back(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.rewrite([])
    for line in ("1", "2", "3"):
        file.append(line)
    assert file.path.read_text() == "1\n2\n3\n"
    file.rewrite(["1", "2"])
    assert file.path.read_text() == "1\n2\n"


def test_passes_are_counted_in_images() -> None:
    model = network(normalised=False)
    images = data(5).images.requires_grad_()
    with PassCounter(model) as counter:
        (gradient,) = torch.autograd.grad(model(images).sum(), images)
        with torch.no_grad():
            model(images[:2])
        assert (counter.forwards, counter.backwards) == (7, 5)
        model(images).sum().backward()
        assert counter.read() == (12, 10)
    model(images)
    assert counter.read() == (12, 10)
    assert gradient.shape == images.shape


def test_hooks_are_gone_after_an_error() -> None:
    model = network(normalised=False)
    with pytest.raises(ZeroDivisionError), PassCounter(model) as counter:
        raise ZeroDivisionError
    model(data(3).images)
    assert counter.read() == (0, 0)


def test_attacks_own_counts_are_summed_where_all_keep_them() -> None:
    images, counts = data(3).images, torch.tensor([4, 5, 6])
    known = Variant(images=images, trace=Trace(forwards=counts, backwards=counts - 1))
    both = traced({"a": known, "b": known})
    assert both is not None
    assert [int(part) for part in both] == [30, 24]
    assert traced({"a": known, "b": Variant(images=images)}) is None
    assert traced({}) is None

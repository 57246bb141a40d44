"""Small checkpoints to carry away: what they hold, and what a run that continues them knows."""

import json
import logging
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from builders import seeded
from lrat.errors import CheckpointError, Interrupted
from lrat.training import Checkpoints, EpochRecord, StepProgress, Watch
from lrat.training.checkpoint_format import portable, restored
from training.toys import assert_same, data, network, run, timeless, validate


def carried(values: Tensor) -> Tensor:
    """What ``values`` are after they were carried."""
    state = portable({"model": {"weight": values}}, ["weight"])
    return restored(state)["model"]["weight"]


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e-12, 1e12, 7e4])
def test_weights_of_any_size_keep_eleven_bits(scale: float) -> None:
    values = scale * torch.randn(2000, generator=torch.Generator().manual_seed(0))
    back = carried(values)
    assert back.dtype == torch.float32
    assert ((back - values).abs() <= 2.0**-11 * values.abs()).all()
    assert not torch.equal(back, values)


def test_what_is_far_below_the_largest_of_its_tensor_is_near_enough() -> None:
    values = torch.tensor([1.0, 3e-6, 1e-9, 1e-12, 1e-30, 0.0, -1e-10])
    error = (carried(values) - values).abs()
    assert (error <= torch.maximum(2.0**-11 * values.abs(), torch.tensor(2.0**-39))).all()


@pytest.mark.parametrize(
    "values",
    [
        torch.tensor([1.0, torch.inf]),
        torch.tensor([1.0, torch.nan]),
        torch.tensor([3e38]),
        torch.tensor([1e-38]),
        torch.zeros(0),
        torch.arange(3),
        torch.tensor([0.1], dtype=torch.float64),
        torch.tensor([0.1], dtype=torch.bfloat16),
    ],
)
def test_what_does_not_survive_stays_as_it_is(values: Tensor) -> None:
    back = carried(values)
    assert back.dtype == values.dtype
    assert torch.equal(back.nan_to_num(7.0), values.nan_to_num(7.0))


def test_zeros_stay_zeros() -> None:
    assert torch.equal(carried(torch.zeros(3)), torch.zeros(3))


def test_statistics_stay_and_averages_are_halved_with_the_weights() -> None:
    model = network()
    model[2].running_var.mul_(1 / 3)
    names = [name for name, _ in model.named_parameters()]
    state = {
        "model": model.state_dict(),
        "average": {"updates": 3, "values": model.state_dict()},
        "optimizer": {"state": {0: torch.ones(3)}},
    }
    packed = portable(state, names)
    assert packed["optimizer"] is None
    for part in (packed["model"], packed["average"]["values"]):
        assert {name for name, value in part.items() if isinstance(value, dict)} == set(names)
        assert part["2.running_var"].dtype == torch.float32
        assert torch.equal(part["2.running_var"], model.state_dict()["2.running_var"])
    assert packed["average"]["updates"] == 3
    back = restored(packed)
    assert back["average"]["values"].keys() == model.state_dict().keys()


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight


def test_tied_weights_stay_tied(tmp_path: Path) -> None:
    model = seeded(0, Tied)
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    checkpoints = Checkpoints(tmp_path, identity="one")
    state = {"model": model.state_dict(), "optimizer": None}
    checkpoints.save_portable(state, names, epoch=1)
    back = checkpoints.load("last")["model"]
    assert back["first.weight"].data_ptr() == back["second.weight"].data_ptr()
    assert back["first.bias"].data_ptr() != back["second.bias"].data_ptr()


def saved(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.pt"))


def test_what_is_carried_is_the_newest_and_what_was_selected_or_named(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, identity="one", keep_epochs=(2,))

    def state(number: float) -> dict[str, object]:
        return {
            "model": {"weight": torch.full((10_000,), number)},
            "optimizer": {"momentum": torch.ones(10_000)},
        }

    for epoch in range(1, 6):
        checkpoints.save(state(epoch / 3), epoch=epoch, selected=min(epoch, 4))
    before = checkpoints.size()
    checkpoints.save_portable(state(5 / 3), ["weight"], epoch=5, step=7, selected=4)
    assert saved(tmp_path) == [
        "epoch-002-portable",
        "epoch-004-portable",
        "epoch-006-step-000007-portable",
    ]
    assert checkpoints.size() < before / 2
    assert len(list(tmp_path.iterdir())) == 6
    again = Checkpoints(tmp_path, identity="one", keep_epochs=(2,))
    exact = torch.full((10_000,), 4 / 3)
    for name in ("selected", "epoch-4"):
        assert torch.equal(again.load(name)["model"]["weight"], exact), "bit for bit"
    assert torch.equal(again.load("epoch-2")["model"]["weight"], torch.full((10_000,), 2 / 3))
    newest = again.latest()
    assert newest is not None
    assert newest["portable"] == {"weights": "float16"}
    assert newest["optimizer"] is None
    # And again from there: what is carried already stays as it is.
    contents = {path.name: path.read_bytes() for path in tmp_path.glob("epoch-00[24]*")}
    again.save_portable(state(2.0), ["weight"], epoch=6, selected=4)
    assert saved(tmp_path) == ["epoch-002-portable", "epoch-004-portable", "epoch-006-portable"]
    assert all((tmp_path / name).read_bytes() == content for name, content in contents.items())


def test_a_whole_one_comes_before_a_portable_one_of_the_same_place(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, identity="one")
    state = {"model": {"weight": torch.ones(2)}, "optimizer": {"state": {}}}
    checkpoints.save(state, epoch=1)
    # As a kill between writing the portable one and removing the others leaves it.
    for suffix in ("pt", "json"):
        (tmp_path / f"kept.{suffix}").write_bytes((tmp_path / f"epoch-001.{suffix}").read_bytes())
    checkpoints.save_portable(state, ["weight"], epoch=1)
    for suffix in ("pt", "json"):
        (tmp_path / f"kept.{suffix}").rename(tmp_path / f"epoch-001.{suffix}")
    found = Checkpoints(tmp_path, identity="one").latest()
    assert found is not None
    assert "portable" not in found
    checkpoints.save(state, epoch=2)
    assert "epoch-001" in saved(tmp_path)


class StopAt:
    """Sends SIGTERM at a step, or at the end of the epoch (step None)."""

    def __init__(self, epoch: int, step: int | None) -> None:
        self.at = (epoch, step)
        self.said: list[str] = []

    def on_step(self, progress: StepProgress) -> None:
        if (progress.epoch, progress.step) == self.at:
            os.kill(os.getpid(), signal.SIGTERM)

    def on_epoch(self, record: EpochRecord) -> None:
        if (record.epoch, None) == self.at:
            os.kill(os.getpid(), signal.SIGTERM)

    def say(self, line: str) -> None:
        self.said.append(line)


def watch(progress: StopAt | None = None) -> Watch:
    extra = {} if progress is None else {"progress": progress}
    return Watch(clean=[data(10)], validate=validate, select_by="pgd", **extra)


PORTABLE = {"portable": True}


@pytest.mark.parametrize(("epoch", "step"), [(2, 2), (2, None)])
@pytest.mark.parametrize("ema", [None, 0.9])
def test_a_run_that_stops_leaves_a_portable_checkpoint(
    tmp_path: Path, epoch: int, step: int | None, ema: float | None
) -> None:
    settings = {"ema": ema, "storage": PORTABLE}
    with pytest.raises(Interrupted, match=r"to carry away, 0\.0 MB of checkpoints"):
        run(tmp_path / "one", watch=watch(StopAt(epoch, step)), **settings)
    assert all(name.endswith("-portable") for name in saved(tmp_path / "one" / "checkpoints"))
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    heard = StopAt(9, 9)
    model, result = run(tmp_path / "one", watch=watch(heard), **settings)
    where = f"after epoch {epoch}" if step is None else f"in epoch {epoch} after step {step}"
    # After the second epoch, the best so far, the weights are those that were measured.
    kind = "float32" if step is None else "float16"
    remark = f"momentum starts afresh {where}, from weights in {kind}"
    assert heard.said == [f"continuing {where}", remark]
    # It says so in the record of the epoch that it concerns, and nowhere else.
    told = [[notice["text"] for notice in record.notices] for record in result.records]
    assert told == [[remark] if number == epoch + (step is None) else [] for number in (1, 2, 3)]
    lines = (tmp_path / "one" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["notices"] for line in lines] == [
        [{"guard": "portable", "text": text} for text in texts] for texts in told
    ]
    # The folder is all that the next slice needs, and it comes to the same wherever it lies.
    there, elsewhere = run(tmp_path / "two", watch=watch(), **settings)
    assert_same(there.state_dict(), model.state_dict())
    assert timeless(elsewhere.records) == timeless(result.records)


def test_the_remark_survives_a_stop_within_the_epoch(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        run(tmp_path, watch=watch(StopAt(2, 1)), storage=PORTABLE)
    with pytest.raises(Interrupted):
        run(tmp_path, watch=watch(StopAt(2, 3)), storage=PORTABLE)
    with pytest.raises(Interrupted):
        run(tmp_path, watch=watch(StopAt(3, 1)))
    _, result = run(tmp_path, watch=watch())
    told = [[notice["text"] for notice in record.notices] for record in result.records]
    assert [len(texts) for texts in told] == [0, 2, 0]
    assert "after step 1" in told[1][0]
    assert "after step 3" in told[1][1]


class Scores:
    """Validation that gives these accuracies, one after the other."""

    def __init__(self, *scores: float) -> None:
        self.scores = list(scores)

    def __call__(self, model: nn.Module) -> dict[str, float]:
        return {"pgd": self.scores.pop(0)}


@pytest.mark.parametrize("stop", [(1, None), (2, 2), (2, None)])
@pytest.mark.parametrize("ema", [None, 0.9])
def test_the_selected_weights_are_those_that_were_measured(
    tmp_path: Path, stop: tuple[int, int | None], ema: float | None
) -> None:
    _, whole = run(tmp_path / "whole", watch=Watch(validate=validate), epochs=1, ema=ema)
    times = 1 if ema is None else 2  # newest and averaged weights are measured
    scores = Scores(*(score for score in (0.9, 0.1, 0.2) for _ in range(times)))
    chosen = Watch(validate=scores, select_by="pgd", progress=StopAt(*stop))
    with pytest.raises(Interrupted):
        run(tmp_path / "parts", watch=chosen, storage=PORTABLE, ema=ema)
    _, result = run(tmp_path / "parts", watch=Watch(validate=scores, select_by="pgd"), ema=ema)
    assert result.selected_epoch == 1
    assert_same(result.weights, whole.weights)


@pytest.mark.parametrize("step", [None, 2])
def test_named_epochs_keep_their_weights(tmp_path: Path, step: int | None) -> None:
    whole, _ = run(tmp_path / "whole", epochs=1)
    storage = {"portable": True, "keep_epochs": (1,)}
    place = StopAt(1 if step is None else 2, step)
    with pytest.raises(Interrupted):
        run(tmp_path / "parts", watch=Watch(progress=place), storage=storage)
    named = Checkpoints(tmp_path / "parts" / "checkpoints", identity="toy").load("epoch-1")
    assert_same(named["model"], whole.state_dict())


def test_what_is_carried_is_not_written_over(tmp_path: Path) -> None:
    """A run that stops where it was carried has nothing new; a kill could leave nothing at all."""

    class StopWhileMeasuring:
        def __call__(self, model: nn.Module) -> dict[str, float]:
            os.kill(os.getpid(), signal.SIGTERM)
            model(data(4).images)
            return {"pgd": 0.5}

    watching = Watch(validate=StopWhileMeasuring())
    contents = []
    for _ in range(2):
        with pytest.raises(Interrupted, match="to carry away"):
            run(tmp_path, watch=watching, storage=PORTABLE)
        folder = tmp_path / "checkpoints"
        contents.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert contents[0] == contents[1]
    assert saved(folder) == ["epoch-001-step-000004-measuring-portable"]
    _, result = run(tmp_path, watch=Watch(validate=validate))
    (notice,) = result.records[0].notices
    assert notice["text"].startswith("momentum starts afresh in epoch 1 after step 4")


def test_altered_to_fit_a_portable_one_is_damaged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = Checkpoints(tmp_path, identity="one")
    for shift in (-(10**6), "far"):
        altered = {"model": {"weight": {"half": torch.ones(1).half(), "shift": shift}}}
        checkpoints.save_portable(altered, [], epoch=1)
        with caplog.at_level(logging.WARNING), pytest.raises(CheckpointError, match="is whole"):
            checkpoints.latest()
        assert "its weights are of no portable checkpoint" in caplog.text
        caplog.clear()


def test_a_run_that_is_done_is_not_made_smaller(tmp_path: Path) -> None:
    whole, _ = run(watch=watch())
    with pytest.raises(Interrupted, match="after epoch 3"):
        run(tmp_path, watch=watch(StopAt(3, None)), storage=PORTABLE)
    again, _ = run(tmp_path, watch=watch(), storage=PORTABLE)
    assert_same(again.state_dict(), whole.state_dict())

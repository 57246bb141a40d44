import time
from pathlib import Path

import pytest
from torch import nn

from lrat.errors import Paused, SettingError
from lrat.training import EpochRecord, StepProgress, Watch
from training.toys import assert_same, data, run, timeless, validate

MINUTES = 0.3 / 60


class Waiting:
    """Waits at one step until the time of the run is over."""

    def __init__(self, epoch: int, step: int) -> None:
        self.at = (epoch, step)

    def on_step(self, progress: StepProgress) -> None:
        if (progress.epoch, progress.step) == self.at:
            time.sleep(120 * MINUTES)

    def on_epoch(self, record: EpochRecord) -> None:
        return


def limited(folder: Path, watch: Watch) -> None:
    # Steps before the one that waits take about a millisecond each.
    run(folder, watch=watch, options={"max_minutes": MINUTES})


@pytest.mark.parametrize(("epoch", "step"), [(1, 2), (2, 4)])
def test_slices_add_up_to_the_whole(tmp_path: Path, epoch: int, step: int) -> None:
    whole, expected = run(tmp_path / "whole")
    watch = Watch(clean=[data(10)], validate=validate, progress=Waiting(epoch, step))
    message = rf"^stopped by its limit of 0\.005 minutes in epoch {epoch} after step {step}; saved"
    with pytest.raises(Paused, match=message):
        limited(tmp_path / "parts", watch)
    parts, found = run(tmp_path / "parts")
    assert_same(parts.state_dict(), whole.state_dict())
    assert timeless(found.records) == timeless(expected.records)


def test_a_measurement_is_left_when_the_time_is_over(tmp_path: Path) -> None:
    class Long:
        forwards = 0

        def __call__(self, model: nn.Module) -> dict[str, float]:
            time.sleep(120 * MINUTES)
            model(data(10).images)
            self.forwards += 1
            return validate(model)

    measure = Long()
    with pytest.raises(Paused, match="in epoch 1 after step 4"):
        limited(tmp_path, Watch(validate=measure))
    assert measure.forwards == 0


def test_a_run_that_is_done_in_time_is_done(tmp_path: Path) -> None:
    class Late(Waiting):
        def on_epoch(self, record: EpochRecord) -> None:
            if record.epoch == 3:
                time.sleep(120 * MINUTES)

    _, result = run(tmp_path, watch=Watch(progress=Late(0, 0)), options={"max_minutes": MINUTES})
    assert len(result.records) == 3


@pytest.mark.parametrize("minutes", [0, -1, float("nan"), float("inf")])
def test_a_time_that_is_none_is_refused(minutes: float, tmp_path: Path) -> None:
    cause = "no clock runs for more than" if minutes == float("inf") else "above 0 minutes$"
    with pytest.raises(SettingError, match=rf"^max_minutes={minutes:g}: [^\n]*{cause}"):
        run(tmp_path, options={"max_minutes": minutes})

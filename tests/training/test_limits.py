"""A run with a limit in minutes, on a clock that the tests turn."""

import math
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import nn

from lrat.errors import Paused, SettingError
from lrat.training import EpochRecord, StepProgress, Watch
from training.toys import assert_same, data, run, timeless, validate

MINUTES = 0.5


class Clock:
    """Stands in for ``threading.Timer``: the time is over when ``run_out`` is called."""

    _never = staticmethod(threading.Timer)

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._alarms: list[Callable[[], None]] = []

    def __call__(self, seconds: float, alarm: Callable[[], None]) -> threading.Timer:
        self.seconds.append(seconds)
        self._alarms.append(alarm)
        return self._never(threading.TIMEOUT_MAX, lambda: None)

    def run_out(self) -> None:
        for alarm in self._alarms:
            alarm()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr("lrat.distributed.signals.threading.Timer", found)
    return found


class RunsOut:
    """The time of the run is over at one step."""

    def __init__(self, clock: Clock, epoch: int, step: int) -> None:
        self.clock, self.at = clock, (epoch, step)

    def on_step(self, progress: StepProgress) -> None:
        if (progress.epoch, progress.step) == self.at:
            self.clock.run_out()

    def on_epoch(self, record: EpochRecord) -> None:
        return


def limited(folder: Path, watch: Watch) -> None:
    run(folder, watch=watch, options={"max_minutes": MINUTES})


@pytest.mark.parametrize(("epoch", "step"), [(1, 2), (2, 4)])
def test_slices_add_up_to_the_whole(clock: Clock, tmp_path: Path, epoch: int, step: int) -> None:
    whole, expected = run(tmp_path / "whole")
    watch = Watch(clean=[data(10)], validate=validate, progress=RunsOut(clock, epoch, step))
    message = rf"^stopped by its limit of 0\.5 minutes in epoch {epoch} after step {step}; saved"
    with pytest.raises(Paused, match=message):
        limited(tmp_path / "parts", watch)
    assert clock.seconds == [30]
    parts, found = run(tmp_path / "parts")
    assert_same(parts.state_dict(), whole.state_dict())
    assert timeless(found.records) == timeless(expected.records)


def test_a_measurement_is_left_when_the_time_is_over(clock: Clock, tmp_path: Path) -> None:
    class Long:
        forwards = 0

        def __call__(self, model: nn.Module) -> dict[str, float]:
            clock.run_out()
            model(data(10).images)
            self.forwards += 1
            return validate(model)

    measure = Long()
    with pytest.raises(Paused, match="in epoch 1 after step 4"):
        limited(tmp_path, Watch(validate=measure))
    assert measure.forwards == 0


def test_a_run_that_is_done_in_time_is_done(clock: Clock, tmp_path: Path) -> None:
    class Late(RunsOut):
        def on_epoch(self, record: EpochRecord) -> None:
            if record.epoch == 3:
                self.clock.run_out()

    watch = Watch(progress=Late(clock, 0, 0))
    _, result = run(tmp_path, watch=watch, options={"max_minutes": MINUTES})
    assert len(result.records) == 3


@pytest.mark.parametrize("minutes", [0, -1, float("nan"), float("inf")])
def test_a_time_that_is_none_is_refused(minutes: float, tmp_path: Path) -> None:
    cause = "finite" if not math.isfinite(minutes) else "above 0 minutes$"
    with pytest.raises(SettingError, match=rf"^max_minutes={minutes:g}: [^\n]*{cause}"):
        run(tmp_path, options={"max_minutes": minutes})

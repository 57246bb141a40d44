import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from lrat.errors import CheckpointError, Interrupted
from lrat.training import EpochRecord, StepProgress, Watch
from training.killed import EPOCHS, finish
from training.toys import ToySource, Weighted, assert_same, data, network, run, timeless, validate


class Signal:
    """Sends a real signal to this process at a step, or at the end of the epoch (step None)."""

    def __init__(self, epoch: int, step: int | None, number: signal.Signals) -> None:
        self.at = (epoch, step)
        self.number = number

    def on_step(self, progress: StepProgress) -> None:
        if (progress.epoch, progress.step) == self.at:
            os.kill(os.getpid(), self.number)

    def on_epoch(self, record: EpochRecord) -> None:
        if (record.epoch, None) == self.at:
            os.kill(os.getpid(), self.number)


def watch(progress: Signal | None = None) -> Watch:
    extra = {} if progress is None else {"progress": progress}
    return Watch(clean=[data(10)], validate=validate, select_by="pgd", **extra)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize(("epoch", "step"), [(1, 1), (2, 2), (2, 4), (2, None), (3, 4), (3, None)])
def test_interrupted_and_continued_is_uninterrupted(
    tmp_path: Path, epoch: int, step: int | None, number: signal.Signals
) -> None:
    whole, whole_result = run(tmp_path / "whole", watch=watch(), storage={"record_epochs": (2,)})
    folder = tmp_path / "parts"
    where = f"after epoch {epoch}" if step is None else f"in epoch {epoch} after step {step}"
    with pytest.raises(Interrupted, match=f"stopped by {number.name} {where}; saved in"):
        run(folder, watch=watch(Signal(epoch, step, number)), storage={"record_epochs": (2,)})
    parts, parts_result = run(folder, watch=watch(), storage={"record_epochs": (2,)})
    assert_same(parts.state_dict(), whole.state_dict())
    assert_same(parts_result.weights, whole_result.weights)
    assert timeless(parts_result.records) == timeless(whole_result.records)
    assert parts_result.selected_epoch == whole_result.selected_epoch
    name = "weights/epoch-002.parquet"
    assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


class Spoken(Signal):
    """Sends its signal and keeps what it is told."""

    def __init__(self, epoch: int, step: int | None = None) -> None:
        super().__init__(epoch, step, signal.SIGINT)
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def test_a_stop_and_where_a_run_goes_on_are_told(tmp_path: Path) -> None:
    for progress, line in (
        (Spoken(1, 2), "SIGINT: stopping after the step under way; a second signal stops at once"),
        (Spoken(2), "continuing in epoch 1 after step 2"),
        (Spoken(9), "continuing after epoch 2"),
        (Spoken(9), "all 3 epochs are done already"),
    ):
        with contextlib.suppress(Interrupted):
            run(tmp_path, watch=watch(progress))
        assert progress.lines[0] == line


def test_a_progress_that_cannot_speak_leaves_it_to_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Interrupted):
        run(tmp_path, watch=watch(Signal(1, 2, signal.SIGINT)))
    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.message.startswith("SIGINT: stopping after the step under way")


class Interruptible:
    """A measure of many forwards, in the middle of which the user presses Ctrl-C."""

    def __init__(self, epoch: int | None = None) -> None:
        self.left = -1 if epoch is None else epoch
        self.forwards = 0

    def __call__(self, model: nn.Module) -> dict[str, float]:
        self.left -= 1
        for number in range(10):
            if self.left == 0 and number == 3:
                os.kill(os.getpid(), signal.SIGINT)
            self.forwards += 1
            with contextlib.suppress(Exception):  # as somebody's measure may
                model(data(10).images)
        return validate(model)


@pytest.mark.parametrize("measure", ["validate", "monitor"])
@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_a_measurement_under_way_is_left_and_made_again(
    tmp_path: Path, epoch: int, measure: str
) -> None:
    def watching(what: Interruptible) -> Watch:
        return Watch(**{"validate": validate, measure: what}, select_by="pgd")

    whole, expected = run(tmp_path / "whole", watch=watching(Interruptible()))
    folder, stopped = tmp_path / "parts", Interruptible(epoch)
    with pytest.raises(Interrupted, match=f"SIGINT in epoch {epoch} after step 4; saved in"):
        run(folder, watch=watching(stopped))
    assert stopped.forwards == 10 * (epoch - 1) + 4, "no forward after the one that noticed"
    parts, result = run(folder, watch=watching(Interruptible()))
    assert_same(parts.state_dict(), whole.state_dict())
    assert timeless(result.records) == timeless(expected.records)
    assert result.selected_epoch == expected.selected_epoch


@pytest.mark.parametrize("accumulate", [2, 3, 5])
@pytest.mark.parametrize("step", [1, 2, 3])
def test_interrupted_with_gradients_accumulated(tmp_path: Path, accumulate: int, step: int) -> None:
    """Also after the last step of an epoch, whose group of batches is full or short."""
    whole, expected = run(watch=watch(), accumulate=accumulate, source=ToySource(size=4))
    steps = expected.records[0].steps
    at = min(step, steps)
    with pytest.raises(Interrupted):
        run(
            tmp_path,
            watch=watch(Signal(2, at, signal.SIGINT)),
            accumulate=accumulate,
            source=ToySource(size=4),
        )
    parts, result = run(tmp_path, watch=watch(), accumulate=accumulate, source=ToySource(size=4))
    assert_same(parts.state_dict(), whole.state_dict())
    assert timeless(result.records) == timeless(expected.records)


@pytest.mark.parametrize("accumulate", [1, 2, 3])
def test_killed_after_the_last_step_with_a_checkpoint_there(
    tmp_path: Path, accumulate: int
) -> None:
    storage = {"every_steps": 1}
    settings = {"accumulate": accumulate}
    whole, expected = run(**settings)

    def die(model: nn.Module) -> dict[str, float]:
        raise CutError

    with pytest.raises(CutError):
        run(tmp_path, watch=Watch(validate=die), storage=storage, **settings)
    parts, result = run(tmp_path, storage=storage, **settings)
    assert_same(parts.state_dict(), whole.state_dict())
    assert timeless(result.records) == timeless(expected.records)


def test_without_storage_it_says_that_nothing_is_saved() -> None:
    with pytest.raises(Interrupted, match="nothing is saved"):
        run(watch=watch(Signal(1, 2, signal.SIGINT)))


def test_handlers_are_back_after_a_run() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted):
        run(watch=watch(Signal(1, 2, signal.SIGTERM)))
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


class CutError(Exception):
    pass


class Cut:
    """Ends a run as a power cut would: nothing gets saved."""

    def __init__(self, epoch: int) -> None:
        self.at = epoch

    def on_step(self, progress: StepProgress) -> None:
        if progress.epoch == self.at and progress.step == 2:
            raise CutError

    def on_epoch(self, record: EpochRecord) -> None:
        return


def test_metrics_are_cut_back_to_the_checkpoint(tmp_path: Path) -> None:
    whole, whole_result = run()
    with pytest.raises(CutError):
        run(tmp_path, watch=Watch(clean=[data(10)], validate=validate, progress=Cut(3)))
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text() + '{"epoch": 3, "loss": 7}\n{"epo')
    parts, _ = run(tmp_path)
    assert_same(parts.state_dict(), whole.state_dict())
    lines = path.read_text().splitlines()
    assert timeless(tuple(map(EpochRecord.from_json, lines))) == timeless(whole_result.records)


def test_a_damaged_checkpoint_costs_time_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole, whole_result = run(tmp_path)
    path = tmp_path / "checkpoints" / "epoch-003.pt"
    path.write_bytes(path.read_bytes()[:-50])
    again, again_result = run(tmp_path)
    assert "epoch-003.pt is damaged" in caplog.text
    assert_same(again.state_dict(), whole.state_dict())
    assert timeless(again_result.records) == timeless(whole_result.records)


def test_a_finished_run_is_returned_as_it_is(tmp_path: Path) -> None:
    class Untouchable(Weighted):
        def attack(self, view, batch, step):  # type: ignore[no-untyped-def]
            raise AssertionError

    whole, whole_result = run(tmp_path, watch=watch())
    again, again_result = run(tmp_path, watch=watch(), objective=Untouchable())
    assert_same(again.state_dict(), whole.state_dict())
    assert again_result.records == whole_result.records
    assert again_result.selected_epoch == whole_result.selected_epoch


def test_another_configuration_is_refused(tmp_path: Path) -> None:
    run(tmp_path, epochs=1)
    before = (tmp_path / "metrics.jsonl").read_text()
    with pytest.raises(CheckpointError, match="another configuration"):
        run(tmp_path, epochs=1, identity="other")
    assert (tmp_path / "metrics.jsonl").read_text() == before


def test_another_model_is_refused(tmp_path: Path) -> None:
    run(tmp_path, epochs=1)
    model: nn.Module = network(normalised=False)
    with pytest.raises(CheckpointError, match=r"^[^\n]*does not fit this model: it lacks 3[^\n]*$"):
        run(tmp_path, epochs=2, model=model)


def test_named_epochs_keep_their_checkpoints(tmp_path: Path) -> None:
    run(tmp_path, epochs=5, storage={"keep_epochs": (2,)})
    names = sorted(path.stem for path in (tmp_path / "checkpoints").glob("*.pt"))
    assert names == ["epoch-002", "epoch-004", "epoch-005"]


def test_a_process_killed_in_the_middle_is_continued_bit_for_bit(tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-m", "training.killed", str(folder)]
    process = subprocess.Popen(command, env=environment)
    metrics = folder / "metrics.jsonl"
    try:
        deadline = time.monotonic() + 120
        while not (metrics.exists() and metrics.read_text().count("\n") >= 3):
            assert process.poll() is None, "the run ended before it was killed"
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == -signal.SIGKILL
    assert metrics.read_text().count("\n") < EPOCHS
    continued, result = finish(folder)
    whole, expected = finish(tmp_path / "whole")
    assert_same(continued.state_dict(), whole.state_dict())
    assert_same(result.weights, expected.weights)
    assert timeless(result.records) == timeless(expected.records)
    assert torch.equal(result.weights["1.weight"], expected.weights["1.weight"])

from collections.abc import Sequence
from pathlib import Path

import pytest

from lrat.errors import NonFiniteError
from lrat.training import EpochRecord, Watch
from training.toys import Weighted, run, timeless


class Notebook:
    """Writes down what it is told; fails where it is told to."""

    def __init__(self, fails: str = "") -> None:
        self.pages: list[str] = []
        self.fails = fails

    def _write(self, text: str) -> None:
        self.pages.append(text)
        if text == self.fails:
            raise OSError(28, "No space\nleft")

    def begin(self, records: Sequence[EpochRecord]) -> None:
        self._write(f"begin {[record.epoch for record in records]}")

    def on_epoch(self, record: EpochRecord) -> None:
        self._write(f"epoch {record.epoch}")

    def end(self) -> None:
        self._write("end")


def test_a_tracker_is_told_of_every_epoch_and_of_those_before(tmp_path: Path) -> None:
    first, second = Notebook(), Notebook()
    run(tmp_path, watch=Watch(trackers=[first]), epochs=3, objective=Weighted())
    assert first.pages == ["begin []", "epoch 1", "epoch 2", "epoch 3", "end"]
    run(tmp_path, watch=Watch(trackers=[second]), epochs=3)
    assert second.pages == ["begin [1, 2, 3]", "end"]


def test_a_tracker_hears_of_the_end_of_a_run_that_failed() -> None:
    tracker = Notebook()
    with pytest.raises(NonFiniteError):
        run(watch=Watch(trackers=[tracker]), objective=Weighted(break_at=26 + 8))
    assert tracker.pages == ["begin []", "epoch 1", "end"]


@pytest.mark.parametrize("fails", ["begin []", "epoch 2", "end"])
def test_one_that_fails_is_named_once_and_left_out(
    fails: str, caplog: pytest.LogCaptureFixture
) -> None:
    bad, good = Notebook(fails), Notebook()
    _, expected = run()
    _, result = run(watch=Watch(trackers=[bad, good]))
    assert [record.loss for record in result.records] == [
        record.loss for record in timeless(expected.records)
    ]
    assert bad.pages[-1] == fails
    assert good.pages == ["begin []", "epoch 1", "epoch 2", "epoch 3", "end"]
    (said,) = [line.getMessage() for line in caplog.records]
    assert said.startswith("tracker Notebook failed (OSError: [Errno 28] No space left)")

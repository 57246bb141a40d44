"""What people read while they wait."""

import re

import pytest

from lrat.cli.progress import evaluation_progress, rows_progress, training_progress
from lrat.config.settings import load_config
from lrat.evaluation import Progress
from lrat.reproduce.progress import RowsProgress
from lrat.training import EpochRecord, StepProgress
from lrat.training.watch import Speaker


def steps(count: int, *, of: int, images_per_second: float = 1e6) -> list[StepProgress]:
    """The first epoch's first steps, of ten images each."""
    return [
        StepProgress(
            epoch=1,
            epochs=4,
            step=number,
            images=10 * number,
            images_per_epoch=10 * of,
            images_per_second=images_per_second,
            seconds_left=(40 * of - 10 * number) / images_per_second,
        )
        for number in range(1, count + 1)
    ]


def record(epoch: int) -> EpochRecord:
    return EpochRecord(
        epoch=epoch,
        lr=0.1,
        loss=1.0,
        steps=2,
        images=20,
        terms={},
        seconds=10.0 * epoch,
        evaluation_seconds=20.0,
    )


def training_lines(
    capsys: pytest.CaptureFixture[str], *events: object, **data: object
) -> list[str]:
    config = load_config({"training": {"epochs": 4}, "data": {"name": "digits", **data}})
    with training_progress(config) as progress:
        for event in events:
            if isinstance(event, EpochRecord):
                progress.on_epoch(event)
            else:
                progress.on_step(event)
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(("of", "after"), [(1, 1), (2, 1), (3, 2), (4, 3), (6, 5), (100, 5)])
def test_the_first_forecast_comes_before_the_first_epoch_ends(
    capsys: pytest.CaptureFixture[str], of: int, after: int
) -> None:
    assert training_lines(capsys, *steps(after - 1, of=of)) == []
    (line,) = training_lines(capsys, *steps(of, of=of))
    assert line.startswith("epoch 1/4  about 1 s to the end of the run, without validation  ")


def test_slow_steps_are_forecast_after_a_second(capsys: pytest.CaptureFixture[str]) -> None:
    assert training_lines(capsys, *steps(2, of=100, images_per_second=25.0)) == []
    (line,) = training_lines(capsys, *steps(3, of=100, images_per_second=25.0))
    assert "about 2 min 39 s to the end" in line


def test_without_validation_nothing_is_said_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = training_lines(capsys, *steps(2, of=2), validation=0)
    assert "to the end of the run  " in line


def test_each_epoch_but_the_last_says_how_long_the_rest_takes_with_validation(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = training_lines(capsys, *map(record, (1, 2, 3, 4)))
    left = [line.partition("images/s")[2].strip() for line in lines]
    assert left == ["about 1 min 30 s left", "about 1 min 10 s left", "about 40 s left", ""]


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def evaluation_lines(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    seconds: float,
    *,
    total: int | None = 100,
) -> list[str]:
    """Lines of an evaluation in ten batches of ten images, the hard attack twice as slow."""
    clock = Clock()
    monkeypatch.setattr("time.monotonic", clock)
    with evaluation_progress() as progress:
        for done in range(10, 101, 10):
            for name, factor in (("natural", 0), ("weak", 1), ("hard", 2)):
                clock.now += factor * seconds / 30
                progress(Progress(attack=name, done=done, robust=done // 2, total=total))
    out, err = capsys.readouterr()
    assert out == "", "the table's place"
    return err.splitlines()


def test_a_quick_evaluation_shows_its_table_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert evaluation_lines(capsys, monkeypatch, 4.0) == []


def test_an_evaluation_says_when_an_attack_is_through(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = evaluation_lines(capsys, monkeypatch, 9.0)
    assert lines[-3:] == [
        "natural: 100 of 100 images, 50.0 % robust, about 1 s left",
        "weak: 100 of 100 images, 50.0 % robust, about 1 s left",
        "hard: 100 of 100 images, 50.0 % robust",
    ]
    assert len(lines) == 4, "and one line when it has taken five seconds"


def test_a_long_evaluation_tells_every_tenth_and_how_long_it_takes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = evaluation_lines(capsys, monkeypatch, 3000.0)
    hard = [line for line in lines if line.startswith("hard: ")]
    assert len(hard) == 10
    assert hard[0] == "hard: 10 of 100 images, 50.0 % robust", "there may be more attacks"
    assert hard[4] == "hard: 50 of 100 images, 50.0 % robust, about 25 min 00 s left"


def test_without_the_number_of_images_there_is_no_forecast(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = evaluation_lines(capsys, monkeypatch, 3000.0, total=None)
    assert lines[-1] == "hard: 100 images, 50.0 % robust"
    assert not any("left" in line for line in lines)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Output that goes to a wide terminal."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")


def shown(capsys: pytest.CaptureFixture[str], *, err: bool = False) -> str:
    """What went to the terminal, without its control sequences."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr()[err])


@pytest.mark.usefixtures("terminal")
def test_bars_of_an_evaluation_have_totals_and_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr("time.monotonic", clock)
    with evaluation_progress() as progress:
        for done in (10, 20):
            clock.now += 60
            progress(Progress(attack="pgd", done=done, robust=5, total=100))
    lines = shown(capsys, err=True).splitlines()
    for text in ("about 8 min 00 s left", "5 of 20 images robust"):
        line = next(line for line in lines if text in line)
        assert f" {8 * '━'}╺{31 * '━'} " in line, "a fifth of forty characters"


@pytest.mark.usefixtures("terminal")
def test_the_bar_of_the_rows_shows_the_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    with rows_progress() as rows:
        rows.progress(RowsProgress(done=3, total=14, seconds_left=90.0))
        rows.say("a line")
    out = shown(capsys)
    assert "3 of 14 runs" in out
    assert "about 1 min 30 s left" in out
    assert "a line" in out


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize(
    ("epochs", "left"), [((), r"1 s left \+ validation"), ((record(1),), "1 s left")]
)
def test_a_training_bar_says_what_its_forecast_leaves_out(
    epochs: tuple[EpochRecord, ...], left: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = load_config({"training": {"epochs": 4}, "data": {"name": "digits"}})
    with training_progress(config) as progress:
        for epoch in epochs:
            progress.on_epoch(epoch)
        progress.on_step(steps(1, of=2)[0])
        assert isinstance(progress, Speaker)
        progress.say("SIGINT: stopping")
    out = shown(capsys)
    assert "SIGINT: stopping" in out
    assert re.search(rf"{left}\s*(robust|\n|$)", out)

"""An evaluation that may take so long, and one of which each process does a part."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from attacks.stubs import Bright, Brighten, grey
from evaluation.parts import batches_of
from lrat.attacks import Cascade, Variant
from lrat.errors import RunFolderError, SettingError
from lrat.evaluation import (
    EvaluationResult,
    Suite,
    custom,
    evaluate,
    evaluate_suite,
    runner,
    time_limit,
)
from lrat.evaluation.statistics import wilson
from lrat.threat import Linf
from lrat.types import Batch

COUNT, SIZE = 24, 6
IMAGES, LABELS = grey(*([0.45, 0.35, 0.1] * 8))
NEAR = Linf(epsilon=0.2)


class Clock:
    """A clock that only attacks advance."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (evaluate, time_limit, runner):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=clock.monotonic))
    return clock


class Slow(Brighten):
    """Takes a second per call."""

    def __call__(self, *arguments: Any, **settings: Any) -> Variant:
        Clock.now += 1
        return super().__call__(*arguments, **settings)


@pytest.fixture(autouse=True)
def _restart_the_clock() -> Iterator[None]:
    yield
    Clock.now = 100.0


def cascade() -> tuple[Suite, Slow, Slow]:
    first, second = Slow(by=0.1), Slow(by=0.2)
    return custom(NEAR, {"both": Cascade(members={"a": first, "b": second})}), first, second


def run(suite: Suite, **settings: Any) -> EvaluationResult:
    settings = {"chunk": 3} | settings
    return evaluate_suite(Bright().eval(), batches_of(IMAGES, LABELS, SIZE), suite, **settings)


def called(*attacks: Slow) -> int:
    return sum(len(attack.values) for attack in attacks)


# A block of 6 takes 2 calls of the first attack and, for its 4 survivors, 2 of the second.
def test_it_stops_with_the_images_that_are_done_with_every_attack(clock: Clock) -> None:
    suite, first, second = cascade()
    result = run(suite, seconds=9.5)
    assert result.index.tolist() == list(range(12))
    assert result.accuracy["both"] == wilson(4, 12)
    assert result.accuracy["natural"].n == 12
    assert (len(first.values), len(second.values)) == (18, 8)
    (note,) = result.notes
    assert note.startswith("stopped after 9.5 s with 12 images; intervals are for these")
    assert f"note: {note}" in str(result)


def test_the_number_of_all_images_is_told_where_it_is_known(clock: Clock) -> None:
    class Sized(list[Batch]):
        size = COUNT

    batches = Sized(batches_of(IMAGES, LABELS, SIZE))
    result = evaluate_suite(Bright().eval(), batches, cascade()[0], chunk=3, seconds=5)
    assert result.notes[0].startswith("stopped after 5 s with 6 of 24 images")


def test_time_that_is_enough_leaves_no_trace(clock: Clock, tmp_path: Path) -> None:
    whole = run(cascade()[0])
    result = run(cascade()[0], seconds=1000, folder=tmp_path)
    assert result.notes == ()
    assert str(result) == str(whole) == str(EvaluationResult.from_folder(tmp_path))


def test_what_was_stopped_is_unfinished_and_continues(clock: Clock, tmp_path: Path) -> None:
    whole = run(cascade()[0])
    suite, first, second = cascade()
    run(suite, seconds=9.5, folder=tmp_path)
    assert not (tmp_path / "summary.json").exists()
    with pytest.raises(RunFolderError, match="is not finished"):
        EvaluationResult.from_folder(tmp_path)
    again = run(suite, seconds=4.5, folder=tmp_path)
    assert again.index.tolist() == list(range(18)), "what is known costs no time"
    continued = run(suite, folder=tmp_path)
    assert str(continued) == str(whole) == str(EvaluationResult.from_folder(tmp_path))
    np.testing.assert_array_equal(continued.outcomes.margin, whole.outcomes.margin)
    assert called(first, second) == 24 + 16, "nothing is attacked twice"


def test_what_was_stopped_with_images_in_another_order_continues_too(
    clock: Clock, tmp_path: Path
) -> None:
    whole = run(cascade()[0])
    order = torch.arange(COUNT).flip(0)

    def shuffled() -> Iterator[Batch]:
        for rows in order.split(5):
            yield Batch(images=IMAGES[rows], labels=LABELS[rows], index=rows)

    suite, first, second = cascade()
    stopped = evaluate_suite(
        Bright().eval(), shuffled(), suite, seconds=5.5, folder=tmp_path, chunk=5
    )
    assert stopped.index.tolist() == list(range(9, 24))
    assert str(run(suite, folder=tmp_path)) == str(whole)
    assert called(first, second) == 24 + 16


def test_no_image_in_time_is_an_error_and_what_was_done_is_kept(
    clock: Clock, tmp_path: Path
) -> None:
    suite, first, second = cascade()
    with pytest.raises(SettingError) as error:
        run(suite, seconds=2.5, folder=tmp_path)
    assert str(error.value) == (
        "no image was finished within 2.5 seconds: allow more, or fewer images at once"
    )
    assert called(first, second) == 9
    run(suite, folder=tmp_path)
    assert called(first, second) == 24 + 16


MANY, OF_MANY = grey(*[0.1] * 192)


def sizes(seconds: float, folder: Path | None = None) -> list[int]:
    """Of the blocks that an attack gets, which takes a second for each, of batches of 128."""
    attack = Slow(by=0.1)
    batches = batches_of(MANY, OF_MANY, 128)
    evaluate_suite(
        Bright().eval(), batches, custom(NEAR, {"slow": attack}), seconds=seconds, folder=folder
    )
    return [len(shades) for shades in attack.met]


def test_the_first_blocks_are_small_and_grow_while_they_take_little_of_the_time(
    clock: Clock,
) -> None:
    assert sizes(32) == [32, 64, 32, 64]
    assert sizes(10) == [32] * 6
    assert sizes(3.5) == [32] * 4, "a block more than the time has begun"


def test_what_is_read_back_does_not_make_blocks_grow(clock: Clock, tmp_path: Path) -> None:
    assert sizes(2.5, tmp_path) == [32] * 3
    assert sizes(1000, tmp_path) == [32, 64], "after the three that are known"


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan")])
def test_a_time_that_is_none_is_refused(seconds: float) -> None:
    with pytest.raises(SettingError, match=r"seconds=.*> 0"):
        run(cascade()[0], seconds=seconds)


def test_sequential_noise_goes_with_no_part_and_no_time() -> None:
    """It depends on all images at once; the verdicts of a part would be others."""
    for settings in ({"seconds": 5.0}, {"is_part": True}):
        with pytest.raises(SettingError, match="sequential noise depends on all images at once"):
            run(cascade()[0], noise="sequential", **settings)


@pytest.mark.parametrize("chunk", [0, -1])
def test_a_chunk_without_images_is_refused(chunk: int) -> None:
    with pytest.raises(SettingError, match=f"chunk={chunk}: must be a whole number >= 1"):
        run(cascade()[0], chunk=chunk)


def part_of(rows: slice, suite: Suite, folder: Path) -> EvaluationResult:
    batches = batches_of(IMAGES[rows], LABELS[rows], SIZE, first=rows.start)
    return evaluate_suite(Bright().eval(), batches, suite, folder=folder, chunk=3, is_part=True)


def test_after_all_parts_the_whole_is_only_read(tmp_path: Path) -> None:
    whole = run(cascade()[0])
    suite, first, second = cascade()
    one = part_of(slice(0, 10), suite, tmp_path)
    assert one.index.tolist() == list(range(10))
    assert not (tmp_path / "summary.json").exists()
    part_of(slice(10, 24), suite, tmp_path)
    assert called(first, second) == 24 + 16
    joined = run(suite, folder=tmp_path)
    assert called(first, second) == 24 + 16
    assert str(joined) == str(whole) == str(EvaluationResult.from_folder(tmp_path))


def test_the_whole_makes_what_a_part_left_out(tmp_path: Path) -> None:
    suite, first, second = cascade()
    part_of(slice(0, 10), suite, tmp_path)
    assert str(run(suite, folder=tmp_path)) == str(run(cascade()[0]))
    assert called(first, second) == 24 + 16

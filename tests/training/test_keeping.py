"""When a run saves itself, what it takes back, and what it refuses."""

import hashlib
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from builders import seeded
from lrat.errors import CheckpointError, Interrupted, SettingError
from lrat.training import (
    Checkpoints,
    EpochRecord,
    Optimisation,
    StepProgress,
    Storage,
    Watch,
)
from lrat.training.state import RunState
from lrat.training.storage import FolderKeeper
from training.toys import ToySource, assert_same, data, network, run, timeless, validate


class Looks:
    """What lies in the checkpoints' folder after each step."""

    def __init__(self, folder: Path, *, cut: tuple[int, int] | None = None) -> None:
        self.folder = folder / "checkpoints"
        self.cut = cut
        self.seen: list[list[str]] = []

    def on_step(self, progress: StepProgress) -> None:
        self.seen.append(sorted(path.stem for path in self.folder.glob("*.json")))
        if (progress.epoch, progress.step) == self.cut:
            raise PowerCutError

    def on_epoch(self, record: EpochRecord) -> None:
        return


class PowerCutError(Exception):
    pass


def look(folder: Path, **options: Any) -> Watch:
    return Watch(clean=[data(10)], validate=validate, progress=Looks(folder, **options))


def test_by_steps_within_each_epoch_and_the_last_ones_are_kept(tmp_path: Path) -> None:
    watch = look(tmp_path)
    run(tmp_path, watch=watch, epochs=2, storage={"every_steps": 2, "keep_last": 3})
    assert watch.progress.seen == [  # type: ignore[attr-defined]
        [],
        ["epoch-001-step-000002"],
        ["epoch-001-step-000002"],
        ["epoch-001-step-000002", "epoch-001-step-000004"],
        ["epoch-001", "epoch-001-step-000002", "epoch-001-step-000004"],
        ["epoch-001", "epoch-001-step-000004", "epoch-002-step-000002"],
        ["epoch-001", "epoch-001-step-000004", "epoch-002-step-000002"],
        ["epoch-001", "epoch-002-step-000002", "epoch-002-step-000004"],
    ]


def test_by_minutes_since_the_last_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("lrat.training.storage.time.monotonic", lambda: now)

    class Clock(Looks):
        def on_step(self, progress: StepProgress) -> None:
            nonlocal now
            super().on_step(progress)
            now += 20.5

    clock = Clock(tmp_path)
    run(tmp_path, watch=Watch(progress=clock), epochs=2, storage={"every_minutes": 2 / 3})
    # Each step takes 20.5 seconds: after the third 41 have passed since the beginning.
    assert [names[-1:] for names in clock.seen] == [
        [],
        [],
        ["epoch-001-step-000003"],
        ["epoch-001-step-000003"],
        ["epoch-001-step-000003"],
        ["epoch-001-step-000003"],
        ["epoch-002-step-000003"],
        ["epoch-002-step-000003"],
    ]


def test_without_either_only_epochs_are_saved(tmp_path: Path) -> None:
    watch = look(tmp_path)
    run(tmp_path, watch=watch, epochs=2)
    assert {name for names in watch.progress.seen for name in names} == {"epoch-001"}  # type: ignore[attr-defined]


@pytest.mark.parametrize("cut", [(1, 3), (2, 2), (3, 4)])
def test_from_within_an_epoch_it_goes_on_bit_for_bit(tmp_path: Path, cut: tuple[int, int]) -> None:
    often = {"every_steps": 1, "record_epochs": (2,)}
    whole, expected = run(tmp_path / "whole", storage={"record_epochs": (2,)})
    folder = tmp_path / "parts"
    with pytest.raises(PowerCutError):
        run(folder, watch=look(folder, cut=cut), storage=often)
    parts, found = run(folder, storage=often)
    assert_same(parts.state_dict(), whole.state_dict())
    assert timeless(found.records) == timeless(expected.records)
    name = "weights/epoch-002.parquet"
    assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_stop_where_it_was_saved_already_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saves = []
    save = Checkpoints.save

    def counted(self: Checkpoints, *arguments: Any, **options: Any) -> Path:
        saves.append((options["epoch"], options["step"]))
        return save(self, *arguments, **options)

    class Stop(Looks):
        def on_step(self, progress: StepProgress) -> None:
            if progress.step == 2:
                os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Checkpoints, "save", counted)
    with pytest.raises(Interrupted, match="in epoch 1 after step 2; saved in"):
        run(tmp_path, watch=Watch(progress=Stop(tmp_path)), storage={"every_steps": 2})
    assert saves == [(0, 2)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every_steps": 0}, "every_steps=0"),
        ({"every_minutes": 0.0}, "every_minutes=0"),
        ({"every_minutes": float("nan")}, "every_minutes=nan"),
        ({"keep_last": 0}, "keep_last=0"),
    ],
)
def test_settings_that_cannot_be_meant(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(SettingError, match=message):
        run(tmp_path, storage=options)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_half_written_is_gone(tmp_path: Path) -> None:
    run(tmp_path, epochs=1)
    left = [
        tmp_path / ".metrics.jsonl.77.tmp",
        tmp_path / "checkpoints" / ".epoch-002.pt.77.tmp",
        tmp_path / "weights" / ".epoch-002.parquet.77.tmp",
    ]
    (tmp_path / "weights").mkdir()
    for path in left:
        path.write_text("half")
    run(tmp_path, epochs=2)
    assert not any(path.exists() for path in left)


def alter(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change what the newest checkpoint holds, and its digest so that it fits."""
    path = max((folder / "checkpoints").glob("*.pt"))
    state = torch.load(path, weights_only=True)
    change(state)
    torch.save(state, path)
    about = json.loads(path.with_suffix(".json").read_text())
    about["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_suffix(".json").write_text(json.dumps(about))


ALTERED: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "a part of another version": (
        lambda state: state.update(teacher={"weight": torch.ones(2)}),
        r"holds teacher, which this version of lrat does not know: continue with the version",
    ),
    "a part that is missing": (lambda state: state.pop("sums"), r"no state of a run .*'sums'"),
    "a number for a text": (
        lambda state: state.update(records=[3]),
        r"no state of a run that this version of lrat knows \(Type\w+",
    ),
    "a record of another version": (
        lambda state: state.update(records=[state["records"][0][:-1] + ', "energy": 3}']),
        r"no state of a run .*energy",
    ),
    "another optimiser": (
        lambda state: state["optimizer"].update(param_groups=[]),
        r"does not fit this model: .*different number of parameter groups",
    ),
    "weights that are numbers": (
        lambda state: state["model"].update({"1.weight": 3}),
        r"no state of a run",
    ),
    "rows of nothing": (lambda state: state.update(recorder=[]), r"no state of a run"),
}


@pytest.mark.parametrize("what", ALTERED)
def test_another_version_or_something_else_is_one_line_and_nothing_is_lost(
    what: str, tmp_path: Path
) -> None:
    change, message = ALTERED[what]
    run(tmp_path, epochs=2)
    alter(tmp_path, change)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(CheckpointError, match=message) as refused:
        run(tmp_path, epochs=3)
    assert "\n" not in str(refused.value)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_another_number_of_classes_is_one_line(tmp_path: Path) -> None:
    run(tmp_path, epochs=1)
    wider = seeded(0, lambda: torch.nn.Sequential(*network()[:-1], torch.nn.Linear(10, 7)))
    with pytest.raises(
        CheckpointError, match=r"5\.weight is \[3, 10\] there and \[7, 10\] in the model; .*classes"
    ):
        run(tmp_path, epochs=2, model=wider)


def test_a_checkpoint_of_the_first_format_is_continued(tmp_path: Path) -> None:
    whole, _ = run(tmp_path / "whole", epochs=2)
    folder = tmp_path / "old"
    run(folder, epochs=1)

    def older(state: dict[str, Any]) -> None:
        for name in ("average", "remarks", "guards"):
            state.pop(name, None)
        state["sums"].pop("skipped")

    alter(folder, older)
    path = folder / "checkpoints" / "epoch-001.json"
    about = json.loads(path.read_text())
    path.write_text(json.dumps({**about, "format": 1} | {"version": ""}))
    model, _ = run(folder, epochs=2)
    assert_same(model.state_dict(), whole.state_dict())


def test_one_that_only_reads_takes_over_and_writes_nothing(tmp_path: Path) -> None:
    whole, result = run(tmp_path, epochs=2)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    model = network()
    optimizer = Optimisation(epochs=2).optimizer(model)
    state = RunState(model, optimizer, ToySource(), torch.device("cpu"))
    storage = Storage(folder=tmp_path, identity="toy", every_steps=1, portable=True)
    keeper = FolderKeeper(storage, writes=False)
    assert keeper.resume(state) is None
    assert_same(model.state_dict(), whole.state_dict())
    keeper.save(state)
    keeper.epoch_ended(state)
    assert_same(keeper.selected(state), result.weights)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_long_training_is_saved_before_it_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a kill during the measurement costs is the measurement alone."""
    monkeypatch.setattr("lrat.training.storage._SECONDS_WORTH_SAVING", 0.0)

    def validate_and_die(model: nn.Module) -> dict[str, float]:
        raise PowerCutError

    with pytest.raises(PowerCutError):
        run(tmp_path, watch=Watch(validate=validate_and_die))
    assert [path.stem for path in (tmp_path / "checkpoints").glob("*.pt")] == [
        "epoch-001-step-000004"
    ]

    class NoStep:
        def on_step(self, progress: StepProgress) -> None:
            assert progress.epoch > 1, "the steps of the first epoch were taken already"

        def on_epoch(self, record: EpochRecord) -> None:
            return

    watch = Watch(validate=validate, progress=NoStep())
    parts, result = run(tmp_path, watch=watch)
    monkeypatch.undo()
    whole, expected = run(tmp_path / "whole", watch=Watch(validate=validate))
    assert_same(parts.state_dict(), whole.state_dict())
    assert timeless(result.records) == timeless(expected.records)

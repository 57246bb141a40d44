"""When a run saves itself, what it takes back, and what it refuses."""

import hashlib
import logging
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from builders import seeded
from lrat.errors import CheckpointError, Interrupted, RunFolderError, SettingError
from lrat.files.read import parse_object, read_json
from lrat.files.write import temporary, write_json
from lrat.training import (
    Checkpoints,
    EpochRecord,
    Optimisation,
    StepProgress,
    Storage,
    Watch,
)
from lrat.training.guards import standard_guards
from lrat.training.state import RunState
from lrat.training.storage import FolderKeeper, best_of
from lrat.training.watch import Best
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
        temporary(tmp_path / "metrics.jsonl"),
        temporary(tmp_path / "checkpoints" / "epoch-002.pt"),
        temporary(tmp_path / "weights" / "epoch-002.parquet"),
    ]
    others = [tmp_path / ".notes.tmp", tmp_path / "checkpoints" / ".x.tmp"]
    (tmp_path / "weights").mkdir()
    for path in [*left, *others]:
        path.write_text("half")
    run(tmp_path, epochs=2)
    assert not any(path.exists() for path in left)
    assert all(path.exists() for path in others), "these are somebody else's"


@pytest.mark.parametrize("line", [0, 1], ids=["first", "last"])
def test_records_that_were_altered_are_one_line(tmp_path: Path, line: int) -> None:
    run(tmp_path, epochs=2)
    path = tmp_path / "metrics.jsonl"
    rows = path.read_text().splitlines()
    rows[line] = rows[line].replace('"steps": ', '"steps": 1')
    path.write_text("\n".join(rows) + "\n")
    with pytest.raises(RunFolderError, match=rf"line {line + 1} .*bring it back, or remove it"):
        run(tmp_path, epochs=3)


def test_without_its_records_a_run_goes_on_and_says_so(tmp_path: Path) -> None:
    run(tmp_path, epochs=2)
    whole, _ = run(Path(shutil.copytree(tmp_path, tmp_path / "whole")), epochs=3)
    (tmp_path / "metrics.jsonl").unlink()
    parts, result = run(tmp_path, epochs=3)
    assert_same(parts.state_dict(), whole.state_dict())
    assert [record.epoch for record in result.records] == [3]
    assert "the records of 2 of 2 epochs are lost" in result.records[0].notices[0]["text"]
    _, result = run(tmp_path, epochs=4)
    assert [record.epoch for record in result.records] == [3, 4]


def test_a_checkpoint_does_not_grow_with_the_epochs(tmp_path: Path) -> None:
    """Bytes are linear in epochs: a checkpoint of 10,000 epochs is as large as one of 20."""
    model, guards = network(), standard_guards()
    optimizer = Optimisation(epochs=1).optimizer(model)
    state = RunState(model, optimizer, ToySource(), torch.device("cpu"), guards=guards)
    keeper = FolderKeeper(Storage(folder=tmp_path, identity="toy"))
    keeper.resume(state)
    sizes = []
    for count in (20, 10_000):
        state.records = [
            EpochRecord(epoch=epoch, lr=0.1, loss=1.0, steps=1, images=4, terms={})
            for epoch in range(1, count + 1)
        ]
        guards.load_state_dict({**guards.state_dict(), "readings": []}, state.records)
        state.epoch = count
        keeper.epoch_ended(state)
        sizes.append((tmp_path / "checkpoints" / f"epoch-{count:03d}.pt").stat().st_size)
    assert sizes[1] <= sizes[0] + 128  # files in an archive begin at multiples of 64 bytes


def alter(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change what the newest checkpoint holds, and its digest so that it fits."""
    path = max((folder / "checkpoints").glob("*.pt"))
    state = torch.load(path, weights_only=True)
    change(state)
    torch.save(state, path)
    about = read_json(path.with_suffix(".json"))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    write_json(path.with_suffix(".json"), {**about, "sha256": digest})


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
    "another optimiser": (
        lambda state: state["optimizer"].update(param_groups=[]),
        r"does not fit this model: .*different number of parameter groups",
    ),
    "weights that are numbers": (
        lambda state: state["model"].update({"1.weight": 3}),
        r"does not fit this model: 1\.weight is a int there and a \w+ here",
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
        "epoch-001-step-000004-measuring"
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


def test_a_kill_between_two_renames_leaves_the_last_one_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the last step and before the measurement are two states, under two names."""
    monkeypatch.setattr("lrat.training.storage._SECONDS_WORTH_SAVING", 0.0)
    renamed: list[Path] = []
    replace = os.replace

    def cut(source: Path, target: Path) -> None:
        if target.parent.name == "checkpoints":
            if len(renamed) == 3:
                raise PowerCutError
            renamed.append(target)
        replace(source, target)

    storage = {"every_steps": 4, "keep_last": 1}
    with monkeypatch.context() as patch:
        patch.setattr("lrat.files.write.os.replace", cut)
        with pytest.raises(PowerCutError):
            run(tmp_path / "parts", storage=storage)
    assert [path.suffix for path in renamed] == [".pt", ".json", ".pt"]
    parts, _ = run(tmp_path / "parts", storage=storage)
    whole, _ = run(tmp_path / "whole", storage=storage)
    assert_same(parts.state_dict(), whole.state_dict())


def scored(*scores: float) -> Watch:
    """Validation that gives these accuracies, one after the other."""
    left = iter(scores)
    return Watch(validate=lambda model: {"pgd": next(left)}, select_by="pgd")


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def remove(path: Path) -> None:
    path.unlink()
    path.with_suffix(".json").unlink()


@pytest.mark.parametrize("lose", [cut_off, remove])
@pytest.mark.parametrize("epochs", [3, 4])
def test_where_the_selected_one_is_lost_the_best_of_the_others_is_selected(
    tmp_path: Path, lose: Callable[[Path], None], epochs: int, caplog: pytest.LogCaptureFixture
) -> None:
    storage = {"keep_last": 1, "keep_epochs": (2,)}
    run(tmp_path, watch=scored(0.9, 0.6, 0.5), epochs=3, schedule_epochs=9, storage=storage)
    expected = torch.load(tmp_path / "checkpoints" / "epoch-002.pt", weights_only=True)["model"]
    lose(tmp_path / "checkpoints" / "epoch-001.pt")
    with caplog.at_level(logging.WARNING):
        _, result = run(
            tmp_path, watch=scored(0.3), epochs=epochs, schedule_epochs=9, storage=storage
        )
    remark = (
        "the checkpoint of epoch 1, the best so far, is damaged or gone: epoch 2, the best of "
        "those kept, is selected instead"
    )
    assert remark in [record.message for record in caplog.records]
    assert result.selected_epoch == 2
    assert result.selected_value == 0.6
    assert_same(result.weights, expected)
    told = [list(record.notices) for record in result.records]
    assert told == [[], [], [], [{"guard": "selection", "text": remark}]][:epochs]


def test_a_lost_selected_one_is_trained_again_where_an_earlier_one_is_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    storage = {"keep_last": 1, "keep_epochs": (1,)}
    scores = (0.1, 0.9, 0.2, 0.3, 0.4)
    _, whole = run(tmp_path / "whole", watch=scored(*scores), epochs=5, storage=storage)
    folder = tmp_path / "parts"
    watch = Watch(validate=scored(*scores).validate, select_by="pgd", progress=Stop(4))
    with pytest.raises(Interrupted):
        run(folder, watch=watch, epochs=5, storage=storage)
    cut_off(folder / "checkpoints" / "epoch-002.pt")
    with caplog.at_level(logging.WARNING):
        _, result = run(folder, watch=scored(*scores[1:]), epochs=5, storage=storage)
    assert "epoch-002.pt is damaged (its digest differs)" in caplog.text
    assert "going back to where the selected epoch comes again" in caplog.text
    assert timeless(result.records) == timeless(whole.records)
    assert result.selected_epoch == 2
    assert_same(result.weights, whole.weights)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert [parse_object(line)["epoch"] for line in lines] == [1, 2, 3, 4, 5]


class Stop:
    """Sends SIGTERM at the end of an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_step(self, progress: StepProgress) -> None:
        return

    def on_epoch(self, record: EpochRecord) -> None:
        if record.epoch == self.epoch:
            os.kill(os.getpid(), signal.SIGTERM)


def test_one_selected_by_several_measures_is_chosen_again_by_the_same() -> None:
    def record(epoch: int, **values: float | None) -> EpochRecord:
        return EpochRecord(
            epoch=epoch, lr=0.1, loss=1.0, steps=1, images=1, terms={}, validation=values
        )

    records = [
        record(1, clean=0.9, broken=None, pgd=0.5),
        record(2, clean=0.5, broken=0.1, pgd=0.9),
        record(3, clean=0.8, broken=0.2, pgd=0.2),
        record(4, clean=0.1, broken=0.3, pgd=0.4),
    ]
    lost = Best(epoch=2, value=0.9)
    assert best_of(records, [1, 3, 4], lost) == Best(epoch=1, value=0.5)
    assert best_of(records, [3, 4], lost) == Best(epoch=4, value=0.4)
    assert best_of(records, [], lost) is None

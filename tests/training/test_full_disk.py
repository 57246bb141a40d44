"""A disk that becomes full or read-only while a model trains: one line, and nothing is lost."""

import contextlib
import os
import signal
from pathlib import Path

import pytest

from disks import Disk, small_disk
from lrat.errors import RunFolderError
from lrat.training import EpochRecord, StepProgress, Watch
from training.toys import assert_same, data, run, timeless, validate

STORAGE = {"every_steps": 2, "record_epochs": (1, 2, 3)}


class Change:
    """Does something to the disk after a step."""

    def __init__(self, disk: Disk, *, pages: int | None) -> None:
        self.disk = disk
        self.pages = pages

    def on_step(self, progress: StepProgress) -> None:
        if (progress.epoch, progress.step) != (2, 1):
            return
        if self.pages is None:
            self.disk.set_read_only(True)
        else:
            used = sum(-(-path.stat().st_size // 4096) for path in files(self.disk.folder))
            self.disk.resize(used + self.pages)

    def on_epoch(self, record: EpochRecord) -> None:
        return


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def watch(progress: Change | None = None) -> Watch:
    extra = {} if progress is None else {"progress": progress}
    return Watch(clean=[data(10)], validate=validate, select_by="pgd", **extra)


def checkpoints(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "checkpoints").iterdir()}


@pytest.mark.parametrize("pages", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12])
def test_wherever_the_disk_becomes_full_nothing_is_lost(tmp_path: Path, pages: int) -> None:
    whole, expected = run(tmp_path / "whole", watch=watch(), storage=STORAGE)
    with small_disk(tmp_path / "disk", pages=1000) as disk:
        folder = disk.folder / "run"
        with contextlib.suppress(RunFolderError):  # with some room it may come to its end
            run(folder, watch=watch(Change(disk, pages=pages)), storage=STORAGE)
            assert pages > 6
        assert not [path for path in files(folder) if path.suffix == ".tmp"]
        before = checkpoints(folder)
        assert {Path(name).suffix for name in before} == {".pt", ".json"}
        disk.resize(1000)
        again, found = run(folder, watch=watch(), storage=STORAGE)
        assert_same(again.state_dict(), whole.state_dict())
        assert_same(found.weights, expected.weights)
        assert timeless(found.records) == timeless(expected.records)
        for path in (tmp_path / "whole" / "weights").iterdir():
            assert (folder / "weights" / path.name).read_bytes() == path.read_bytes()


def test_the_line_names_file_and_cure(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", pages=1000) as disk:
        with pytest.raises(RunFolderError) as refused:
            run(disk.folder / "run", watch=watch(Change(disk, pages=0)), storage=STORAGE)
        assert str(refused.value) == (
            f"cannot write {disk.folder}/run/checkpoints/epoch-002-step-000002.pt: No space left "
            "on device; free space or make the folder writable, then run the same command again"
        )
        assert checkpoints(disk.folder / "run").keys() == {
            f"{name}.{kind}"
            for name in ("epoch-001", "epoch-001-step-000004")
            for kind in ("json", "pt")
        }


def test_a_folder_that_becomes_read_only(tmp_path: Path) -> None:
    whole, expected = run(tmp_path / "whole", watch=watch(), storage=STORAGE)
    with small_disk(tmp_path / "disk", pages=1000) as disk:
        folder = disk.folder / "run"
        with pytest.raises(RunFolderError, match=r"Read-only file system; .*make the folder writ"):
            run(folder, watch=watch(Change(disk, pages=None)), storage=STORAGE)
        disk.set_read_only(False)
        again, found = run(folder, watch=watch(), storage=STORAGE)
        assert_same(again.state_dict(), whole.state_dict())
        assert timeless(found.records) == timeless(expected.records)


def test_no_room_for_a_portable_one_leaves_the_whole_ones(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", pages=1000) as disk:
        folder = disk.folder / "run"
        storage = {**STORAGE, "portable": True}
        with pytest.raises(RunFolderError, match=r"epoch-002-step-000001-portable\.pt: No space"):
            run(folder, watch=Watch(progress=Stopping(disk, pages=0)), storage=storage)
        assert "epoch-001.pt" in checkpoints(folder)
        disk.resize(1000)
        whole, _ = run(tmp_path / "whole", watch=Watch(), storage=STORAGE)
        again, _ = run(folder, watch=Watch(), storage=STORAGE)
        assert_same(again.state_dict(), whole.state_dict())


class Stopping(Change):
    """And has the run stop."""

    def on_step(self, progress: StepProgress) -> None:
        super().on_step(progress)
        if (progress.epoch, progress.step) == (2, 1):
            os.kill(os.getpid(), signal.SIGTERM)

"""``lrat train`` on a disk that is full or read-only: one line, and the same command goes on."""

import subprocess
import sys
from pathlib import Path

import pytest

from disks import small_disk
from experiments.commands import TINY, assert_same_result, contents, done, lrat, one_thread
from experiments.conftest import COMMAND

SMALL = (
    *("train", "sat", *TINY, "--epochs", "2", "--set", "data.train_limit=80"),
    *("--set", "training.record_weights=[1, 2]", "--set", "training.checkpoint_every_steps=1"),
    *("--set", "training.batch_size=32"),
)


def test_on_a_disk_that_grows_page_by_page_the_same_command_gets_through(tmp_path: Path) -> None:
    done(*SMALL, "--out", tmp_path / "whole")
    named = set()
    with small_disk(tmp_path / "disk", pages=1) as disk:
        out = disk.folder / "run"
        for pages in (1, 2, 3, 4, 5, 8, 14, 20, 28, 36, 44, 52, 200):
            disk.resize(pages)
            answer = lrat(*SMALL, "--out", out)
            if answer.status == 0:
                break
            complaint = answer.complaint
            assert complaint.startswith("cannot write "), complaint
            assert "No space left on device; " in complaint
            assert not list(disk.folder.rglob("*.tmp"))
            named.add(Path(complaint.split(":")[0]).name)
        assert answer.status == 0, answer.err
        assert len(named) > 3, f"it was full at several files: {named}"
        assert_same_result(out, tmp_path / "whole")


def test_a_read_only_folder_is_one_line_and_keeps_what_it_holds(run: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", pages=2000) as disk:
        out = disk.folder / "run"
        done(*COMMAND, "--out", out)
        (out / "model.safetensors").unlink()
        before = contents(out)
        disk.set_read_only(True)
        complaint = lrat(*COMMAND, "--out", out).complaint
        assert "Read-only file system" in complaint
        assert "make the folder writable" in complaint
        complaint = lrat(*COMMAND, "--out", disk.folder / "new").complaint
        assert "Read-only file system" in complaint
        disk.set_read_only(False)
        assert contents(out) == before
        done(*COMMAND, "--out", out)
        assert_same_result(out, run)


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)),) * 2)
from lrat.cli import main
main()
"""


def test_without_the_right_to_large_files_the_command_goes_on_later(tmp_path: Path) -> None:
    pytest.importorskip("resource")
    done(*SMALL, "--out", tmp_path / "whole")
    out = tmp_path / "run"
    command = [sys.executable, "-c", LIMITED, "4000", *SMALL, "--out", str(out)]
    ended = subprocess.run(
        command, env=one_thread(), capture_output=True, text=True, timeout=300, check=False
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith(
        f"lrat: cannot write {out / 'checkpoints'}/epoch-001-step-000001"
    )
    assert "File too large" in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert not list(out.rglob("*.tmp"))
    done(*SMALL, "--out", out)
    assert_same_result(out, tmp_path / "whole")


@pytest.mark.parametrize(
    "left", ["environment.json", "contents.json", f".config.yaml.{'0' * 32}.tmp"]
)
def test_what_a_run_wrote_before_its_configuration_is_no_other_s(tmp_path: Path, left: str) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / left).write_text("{}")
    done(*SMALL, "--out", out)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    complaint = lrat(*SMALL, "--out", tmp_path / "mine").complaint
    assert "holds files of something else" in complaint


GOES_ON = ("model.safetensors", "environment.json", "weights", "command.txt")
STOPS = {
    "metrics.jsonl": "metrics.jsonl does not hold the 2 epochs before the newest checkpoint",
    "model.json": "model.json is damaged",
    "config.yaml": "no plain YAML",
    "contents.json": "contents.json is damaged",
    "acceleration.json": "acceleration.json is damaged",
}


def test_every_file_of_a_run_folder_is_damaged_below(trained: Path) -> None:
    assert {path.name for path in trained.iterdir()} == {*GOES_ON, *STOPS, "checkpoints"}


@pytest.mark.parametrize("name", GOES_ON)
def test_a_cut_file_that_going_on_does_not_need_stops_nobody(
    name: str, run: Path, trained: Path
) -> None:
    path = run / name if name != "weights" else next((run / "weights").iterdir())
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    done(*COMMAND, "--out", run)
    assert_same_result(run, trained)


@pytest.mark.parametrize("name", STOPS)
def test_a_cut_file_that_is_needed_is_one_line_and_nothing_is_touched(name: str, run: Path) -> None:
    path = run / name
    text = path.read_text()
    path.write_text(text[: len(text) // 2] + "\n  - {")
    before = contents(run)
    assert STOPS[name] in lrat(*COMMAND, "--out", run).complaint
    assert contents(run) == before

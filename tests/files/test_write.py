"""Files appear whole or not at all."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from lrat.errors import RunFolderError
from lrat.files import write as files
from lrat.files.write import (
    append_line,
    read_table,
    write_atomically,
    write_json,
    write_table,
    write_together,
)


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def write_half(file):
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, write_half)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lrat.files.write.os.fsync", full)
    with pytest.raises(RunFolderError, match=r"cannot write .*a.json: No space left on device"):
        write_json(tmp_path / "a.json", {"a": 1})
    assert list(tmp_path.iterdir()) == []


def test_json_refuses_numbers_that_json_has_not(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"a": float("nan")})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("with_pyarrow", [True, False])
def test_a_table_comes_back_as_it_was(tmp_path, monkeypatch, with_pyarrow):
    if not with_pyarrow:
        monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    columns = {
        "index": np.arange(3),
        "name": np.array(["a", "b", "a"]),
        "loss": np.array([0.5, 1.5, 2.5], dtype=np.float32),
    }
    path = write_table(tmp_path / "part-1.0", columns)
    assert path.name == ("part-1.0.parquet" if with_pyarrow else "part-1.0.npz")
    back = read_table(path)
    assert set(back) == set(columns)
    for name, values in columns.items():
        assert back[name].tolist() == values.tolist()


@pytest.fixture
def no_room(tmp_path):
    """No file of this process may grow beyond 1000 bytes, as on a disk that is full."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


NUMBERS = np.random.default_rng(0).random(1000)


def save_tensor(path):
    write_atomically(path, lambda file: torch.save(torch.from_numpy(NUMBERS), file))


def save_table(path):
    write_table(path, {"x": NUMBERS})


def save_json(path):
    write_json(path, {"x": "y" * 2000})


@pytest.mark.parametrize("write", [save_tensor, save_table, save_json])
def test_whoever_writes_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, no_room, write):
    with pytest.raises(RunFolderError, match=r"^cannot write .*a.*: File too large; [^\n]*$"):
        write(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_a_line_is_not_added_to_a_backup_of_hard_links(tmp_path):
    path, backup = tmp_path / "lines", tmp_path / "backup"
    append_line(path, "a")
    os.link(path, backup)
    append_line(path, "b")
    append_line(path, "c")
    assert (path.read_text(), backup.read_text()) == ("a\nb\nc\n", "a\n")


def test_a_table_of_rows_without_end_is_refused(tmp_path, monkeypatch):
    path = write_table(tmp_path / "part", {"x": np.zeros(1000)})
    assert len(read_table(path)["x"]) == 1000
    monkeypatch.setattr(files, "_MOST_ROWS", 999)
    with pytest.raises(RunFolderError, match="1,000 rows"):
        read_table(path)


def test_a_line_is_added_whole_or_not_at_all(tmp_path, no_room):
    path = tmp_path / "lines"
    append_line(path, "a" * 600)
    before = path.read_bytes()
    with pytest.raises(RunFolderError, match="lines: File too large"):
        append_line(path, "b" * 600)
    assert path.read_bytes() == before == b"a" * 600 + b"\n"
    append_line(path, "c" * 300)
    assert path.read_bytes() == before + b"c" * 300 + b"\n"


def test_files_that_belong_together_are_all_old_if_one_cannot_be_written(tmp_path, no_room):
    for name in ("a", "b"):
        (tmp_path / name).write_text("old")
    with pytest.raises(RunFolderError, match=r"cannot write .*b"):
        write_together(
            (tmp_path / "a", lambda file: file.write(b"new")),
            (tmp_path / "b", lambda file: file.write(b"x" * 2000)),
        )
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "old", "b": "old"}


def test_an_error_of_whoever_writes_stays_what_it_is(tmp_path):
    def fail(file):
        file.write(b"half")
        raise ValueError("no number")

    with pytest.raises(ValueError, match="no number"):
        write_atomically(tmp_path / "a", fail)
    assert list(tmp_path.iterdir()) == []


def test_file_and_folder_are_synced_before_and_after_the_rename(tmp_path, monkeypatch):
    done = []
    replace, sync = os.replace, os.fsync

    def synced(descriptor):
        done.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        sync(descriptor)

    def replaced(source, target):
        done.append("rename")
        replace(source, target)

    monkeypatch.setattr("lrat.files.write.os.fsync", synced)
    monkeypatch.setattr("lrat.files.write.os.replace", replaced)
    if not Path("/proc/self/fd").exists():
        pytest.skip("no /proc to ask for names")
    write_atomically(tmp_path / "new" / "a", lambda file: file.write(b"x"))
    (temporary,) = [name for name in done if name.startswith(".a.")]
    assert done == [tmp_path.name, temporary, "rename", "new"]


def test_a_file_of_another_machine_may_appear_late(tmp_path, monkeypatch):
    path, looks = tmp_path / "late", []

    def sleep(seconds):
        looks.append(seconds)
        if len(looks) == 2:
            path.touch()

    monkeypatch.setattr(files.time, "sleep", sleep)
    assert files.appears(path)
    assert len(looks) == 2
    assert files.appears(path)
    assert len(looks) == 2, "what is there is waited for no more"
    now = iter(range(0, 1000, 10))
    monkeypatch.setattr(files.time, "monotonic", lambda: next(now))
    assert not files.appears(tmp_path / "never")

"""Files appear whole or not at all."""

import numpy as np
import pytest

from lrat.errors import RunFolderError
from lrat.files import read_table, write_atomically, write_json, write_table


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

    monkeypatch.setattr("lrat.files.os.fsync", full)
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

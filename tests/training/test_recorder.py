import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from lrat.objectives.base import ObjectiveOutput
from lrat.training.metrics import COLUMNS, WeightRecorder
from lrat.training.outcome import Passes, StepOutcome, TermRows, merge
from lrat.types import Batch
from training.toys import data, run


def filled(folder: Path) -> WeightRecorder:
    recorder = WeightRecorder(folder, epochs=(2,))
    batch = data(4)
    for rows in (torch.tensor([3, 0]), torch.tensor([2, 1])):
        part = Batch(images=batch.images[rows], labels=batch.labels[rows], index=batch.index[rows])
        values = rows.float()
        output = ObjectiveOutput(
            total=values.sum(),
            normalizer=torch.tensor(1.0),
            per_example={
                "loss/a": values,
                "weight/a": values + 10,
                "share/a": values + 20,
                "loss/b": values + 30,
            },
        )
        recorder.add(merge([part], [output], torch.tensor(0.0), Passes()), epoch=2)
    return recorder


EXPECTED = {
    "index": [100, 101, 102, 103] * 2,
    "term": ["a"] * 4 + ["b"] * 4,
    "raw_weight": [10, 11, 12, 13] + [np.nan] * 4,
    "normalised_weight": [20, 21, 22, 23] + [np.nan] * 4,
    "loss": [0, 1, 2, 3, 30, 31, 32, 33],
}


def test_parquet_rows_by_term_and_index(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    path = filled(tmp_path).write(epoch=2)
    assert path == tmp_path / "epoch-002.parquet"
    table = parquet.read_table(path)
    assert tuple(table.column_names) == COLUMNS
    for name, values in EXPECTED.items():
        np.testing.assert_array_equal(table[name].to_numpy(), values)
    np.testing.assert_array_equal(table["label"].to_numpy()[:4], data(4).labels)


def test_the_same_columns_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    path = filled(tmp_path).write(epoch=2)
    assert path == tmp_path / "epoch-002.npz"
    with np.load(path, allow_pickle=False) as table:
        assert tuple(table.files) == COLUMNS
        for name, values in EXPECTED.items():
            np.testing.assert_array_equal(table[name], values)


def test_other_epochs_are_not_recorded(tmp_path: Path) -> None:
    recorder = WeightRecorder(tmp_path, epochs=(3,))
    assert recorder.write(epoch=2) is None
    assert not list(tmp_path.iterdir())


def test_a_run_writes_every_image_of_the_chosen_epochs(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    run(tmp_path, storage={"record_epochs": (1, 3)})
    names = sorted(path.name for path in (tmp_path / "weights").iterdir())
    assert names == ["epoch-001.parquet", "epoch-003.parquet"]
    table = parquet.read_table(tmp_path / "weights" / names[0])
    np.testing.assert_array_equal(table["index"].to_numpy(), data().index)
    np.testing.assert_array_equal(table["label"].to_numpy(), data().labels)


def of_step(device: str) -> StepOutcome:
    values = torch.ones(3, device=device)
    index = torch.arange(3, device=device)
    rows = TermRows(index=index, labels=index, values={"loss": values, "weight": values})
    return StepOutcome(
        loss=values.sum(), images=3, terms={"a": rows}, correct=None, fallbacks=None,
        passes=Passes(),
    )  # fmt: skip


def test_a_continued_run_joins_rows_of_the_checkpoint_and_of_the_device(tmp_path: Path) -> None:
    """Fake tensors have a device without having it; joining two devices raises as on a real one."""
    with FakeTensorMode():
        recorder = WeightRecorder(tmp_path, epochs=[1])
        recorder.add(of_step("cpu"), epoch=1)
        again = WeightRecorder(tmp_path, epochs=[1])
        again.load_state_dict(recorder.state_dict())
        for _ in range(2):  # and once more after the rows were joined
            again.add(of_step("cuda"), epoch=1)
            (part,) = again.state_dict()["parts"]["a"]
        assert set(part) == {"index", "label", "raw_weight", "normalised_weight", "loss"}
        assert {(values.device.type, len(values)) for values in part.values()} == {("cpu", 9)}

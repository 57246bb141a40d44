import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

from lrat.errors import DataError, RunFolderError
from lrat.evaluation.outcomes import Outcomes
from lrat.evaluation.storage.store import OutcomeStore, read_part, read_parts, write_part


def rows(attack="pgd", index=(5, 3, 9)):
    count = len(index)
    fooled = np.arange(count) % 2 == 0
    return Outcomes.from_columns(
        {
            "index": index,
            "label": np.arange(count) % 3,
            "attack": np.full(count, attack),
            "fooled": fooled,
            "prediction": np.arange(count) % 3 + fooled,
            "margin_clean": np.linspace(0, 1, count),
            "margin": np.where(fooled, -2, 1),
            "step": np.arange(count),
            "source": np.full(count, -1),
            "forwards": np.full(count, 20.5),
            "backwards": np.full(count, 20),
            "distance": np.full(count, 0.03),
        }
    )


def assert_same(one, other):
    for name, column in one.columns().items():
        values = other.columns()[name]
        assert values.dtype.kind == column.dtype.kind
        np.testing.assert_array_equal(values, column)


def test_columns_have_fixed_types_and_equal_lengths():
    outcomes = rows()
    assert outcomes.fooled.dtype == np.bool_
    assert outcomes.margin.dtype == np.float32
    assert outcomes.index.dtype == np.int64
    with pytest.raises(DataError, match="differ in length"):
        Outcomes.from_columns(outcomes.columns() | {"step": [1]})
    columns = outcomes.columns()
    del columns["step"]
    with pytest.raises(DataError, match="lack the columns step"):
        Outcomes.from_columns(columns)


def test_at_gives_rows_in_the_order_asked_for():
    assert rows().at(np.array([9, 5])).step.tolist() == [2, 0]
    with pytest.raises(DataError, match="no outcome for image 4"):
        rows().at(np.array([9, 4]))


def test_arranged_orders_attacks_and_images_and_drops_repeats():
    parts = [rows("pgd"), rows("cw", (2, 1)), rows("pgd", (3, 4))]
    arranged = Outcomes.concatenate(parts).arranged(["cw", "pgd"])
    assert arranged.attack.tolist() == ["cw"] * 2 + ["pgd"] * 4
    assert arranged.index.tolist() == [1, 2, 3, 4, 5, 9]


@pytest.mark.parametrize("with_pyarrow", [True, False])
def test_a_part_comes_back_as_written(tmp_path, monkeypatch, with_pyarrow):
    if not with_pyarrow:
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    path = write_part(tmp_path, rows())
    assert path.suffix == (".parquet" if with_pyarrow else ".npz")
    assert [item.name for item in path.parent.iterdir()] == [path.name]
    assert_same(rows(), read_part(path))


def test_parquet_and_npz_have_the_same_columns(tmp_path, monkeypatch):
    parquet = write_part(tmp_path, rows())
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    npz = write_part(tmp_path, rows("cw"))
    with np.load(npz, allow_pickle=False) as archive:
        assert list(archive) == pq.read_schema(parquet).names


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    path = write_part(tmp_path, rows())
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(RunFolderError, match="pip install pyarrow"):
        read_part(path)


def test_parts_are_named_by_attack_and_images(tmp_path):
    write_part(tmp_path, rows("pgd", (1, 2)))
    write_part(tmp_path, rows("pgd", (2, 1)))
    write_part(tmp_path, rows("pgd", (1, 3)))
    write_part(tmp_path, rows("cw", (1, 2)))
    assert len(list((tmp_path / "outcomes").iterdir())) == 3
    assert len(read_parts(tmp_path)) == 6


@pytest.mark.parametrize("suffix", [".parquet", ".npz"])
def test_a_damaged_part_is_named(tmp_path, suffix):
    path = tmp_path / "outcomes" / f"pgd-1{suffix}"
    path.parent.mkdir()
    path.write_bytes(b"PK no such thing")
    with pytest.raises(RunFolderError, match=f"pgd-1{suffix} is damaged"):
        read_parts(tmp_path)


def test_leftovers_of_a_kill_are_not_read(tmp_path):
    write_part(tmp_path, rows())
    (tmp_path / "outcomes" / ".pgd-1.parquet.77.tmp").write_bytes(b"half")
    assert len(read_parts(tmp_path)) == 3


def test_a_store_refuses_another_identity_with_the_difference(tmp_path):
    OutcomeStore.open(tmp_path, {"seed": 0, "attacks": {"pgd": "PGD(steps=20)"}})
    OutcomeStore.open(tmp_path, {"seed": 0, "attacks": {"pgd": "PGD(steps=20)"}})
    with pytest.raises(RunFolderError) as error:
        OutcomeStore.open(tmp_path, {"seed": 1, "attacks": {"pgd": "PGD(steps=9)"}, "model": "m"})
    message = str(error.value)
    assert "seed: 0 there, 1 here" in message
    assert "attacks.pgd: PGD(steps=20) there, PGD(steps=9) here" in message
    assert "model: (absent) there, m here" in message
    assert "\n" not in message


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_a_damaged_identity_is_named(tmp_path, text):
    (tmp_path / "identity.json").write_text(text)
    with pytest.raises(RunFolderError, match=r"identity\.json"):
        OutcomeStore.open(tmp_path, {"seed": 0})


def test_outcomes_without_identity_are_refused(tmp_path):
    write_part(tmp_path, rows())
    with pytest.raises(RunFolderError, match=r"no identity\.json"):
        OutcomeStore.open(tmp_path, {"seed": 0})

"""Results kept under an identity: continued under the same, refused under another."""

from pathlib import Path

import numpy as np
import pytest

from lrat.errors import RunFolderError
from lrat.files.read import read_json
from lrat.files.write import write_json, write_table
from lrat.runs.kept import KeptResult, with_columns


def kept(folder: Path, **identity: object) -> KeptResult:
    return KeptResult(folder=folder, identity=identity, what="curve", again="measure again")


def test_a_folder_is_begun_once_and_continued(tmp_path: Path) -> None:
    result = kept(tmp_path / "new", model="a", sizes=(1, 2))
    result.begin()
    assert read_json(tmp_path / "new" / "identity.json") == {"model": "a", "sizes": [1, 2]}
    write_table(result.folder / "images", {"index": np.arange(3)})
    (leftover := result.folder / f".images.parquet.{'0' * 32}.tmp").touch()
    result.begin()
    assert not leftover.exists()
    table = result.table("images", with_columns("index"))
    assert table is not None
    assert table["index"].tolist() == [0, 1, 2]
    assert result.table("others", dict) is None
    assert result.json("end.json", dict) is None
    result.finish("end.json", {"n": 3})
    assert result.json("end.json", dict) == {"n": 3}
    result.remove("images")
    result.remove("end.json")
    assert [path.name for path in result.folder.iterdir()] == ["identity.json"]


def test_another_identity_is_refused_with_every_difference(tmp_path: Path) -> None:
    kept(tmp_path, seed=0, data="a").begin()
    with pytest.raises(RunFolderError, match=r"another curve \(data: a there, b here; seed: 0 th"):
        kept(tmp_path, seed=1, data="b").begin()
    assert read_json(tmp_path / "identity.json") == {"seed": 0, "data": "a"}


def test_results_without_an_identity_are_refused(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    kept(tmp_path / "empty").begin()
    write_json(tmp_path / "end.json", {})
    with pytest.raises(RunFolderError, match="holds results but no identity"):
        kept(tmp_path).begin()


def test_what_is_damaged_or_lacks_columns_is_named_with_the_cure(tmp_path: Path) -> None:
    write_table(tmp_path / "images", {"index": np.arange(3)})
    with pytest.raises(RunFolderError, match=r"lacks the columns label, low; measure again"):
        kept(tmp_path).table("images", with_columns("index", "label", "low"))
    (tmp_path / "end.json").write_text("{")
    with pytest.raises(RunFolderError, match=r"end.json is damaged .*measure again"):
        kept(tmp_path).json("end.json", dict)


def test_a_record_in_the_folder_of_something_else_has_an_identity_of_its_own(
    tmp_path: Path,
) -> None:
    kept(tmp_path, seed=0).finish("panel.json", {"n": 3}, under="made_of")
    assert read_json(tmp_path / "panel.json") == {"made_of": {"seed": 0}, "n": 3}
    assert kept(tmp_path, seed=0).json("panel.json", dict, under="made_of") == {"n": 3}
    with pytest.raises(RunFolderError, match="seed: 0 there, 1 here"):
        kept(tmp_path, seed=1).json("panel.json", dict, under="made_of")
    write_json(tmp_path / "panel.json", {"n": 3})
    with pytest.raises(RunFolderError, match=r"seed: \(absent\) there, 0 here"):
        kept(tmp_path, seed=0).json("panel.json", dict, under="made_of")

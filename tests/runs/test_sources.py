"""A model with the images of one part, of a run or of a user's file."""

from pathlib import Path

import pytest

from experiments.own import write_model, write_npz
from lrat.errors import ConfigurationError, RunFolderError
from lrat.files.read import read_json
from lrat.runs.sources import ModelSource, check_images
from lrat.runs.weights import weights_digest


def test_both_parts_of_a_run_are_those_that_it_had(run: Path) -> None:
    contents = read_json(run / "contents.json")
    tested, trained = ModelSource(run=run).load(), ModelSource(run=run).load(part="train")
    assert (tested.images.digest(), trained.images.digest()) == (
        contents["test"],
        contents["train"],
    )
    for each in (tested, trained):
        assert each.classes == 10
        assert not each.network.training
        assert weights_digest(each.network.state_dict()) == each.identity["model"]
    check_images(run, "test", tested.images)
    with pytest.raises(RunFolderError, match="not the train images"):
        check_images(run, "train", tested.images)


def test_a_model_file_has_the_threat_that_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_model("own.py")
    write_npz("own.npz")
    source = ModelSource(model="own.py:make", data="npz:own.npz", out=tmp_path / "out")
    loaded = source.load("linf:0.1")
    assert (loaded.name, loaded.label, loaded.threat.text) == ("own.py:make", "model", "linf:0.1")
    assert loaded.evaluations == tmp_path / "out"
    assert "code" in loaded.identity


def test_a_run_and_a_file_at_once_are_refused(run: Path) -> None:
    with pytest.raises(ConfigurationError, match="either a run folder"):
        ModelSource(run=run, model="own.py:make").load()
    with pytest.raises(ConfigurationError, match="needs --data"):
        ModelSource(model="own.py:make").load()

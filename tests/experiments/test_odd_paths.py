"""Folders and files whose names are no UTF-8: what is written about them can be read again."""

import os
from pathlib import Path

import pytest

from experiments.commands import TINY, done, lrat
from experiments.own import write_model
from lrat.config.settings import load_config, parse_assignments
from lrat.errors import ConfigurationError
from lrat.files.read import read_json
from lrat.files.write import write_json
from lrat.reporting.figures.style import new_figure, save
from reporting.report.reported import make_evaluation, make_run

NAME = os.fsdecode(b"b\xff")


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    try:
        (tmp_path / NAME).mkdir()
    except OSError:
        pytest.skip("this file system takes names in UTF-8 alone")
    return tmp_path / NAME


def test_a_record_about_such_a_path_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    write_json(path, {"place": NAME, "inside": [{NAME: 3.0}], "emoji": "😀"})
    assert read_json(path) == {"place": r"b\udcff", "inside": [{r"b\udcff": 3.0}], "emoji": "😀"}


def test_it_is_reported_and_compared(odd: Path) -> None:
    runs = [make_run(odd / name) for name in ("one", NAME)]
    for run in runs:
        make_evaluation(run)
    done("report", *runs, "--out", odd / "page.html")
    assert r"b\udcff" in (odd / "page.html").read_text(encoding="utf-8")
    done("compare", *runs, "--json", odd / "found.json")
    assert len(read_json(odd / "found.json")["places"]) == 2


def test_a_figure_shows_it(odd: Path) -> None:
    figure = new_figure(2, 2)
    figure.text(0.5, 0.5, NAME)
    drawn = save(figure, odd / NAME, f"The run {NAME}.")
    assert drawn.pdf.stat().st_size > 0
    assert drawn.caption == r"The run b\udcff."


def test_a_configuration_that_could_not_be_read_again_is_refused_before_the_work(
    odd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config({"data": {"root": str(odd)}})
    with pytest.raises(ConfigurationError, match=r"b\\udcff: this path is no UTF-8"):
        config.to_yaml()
    monkeypatch.chdir(odd)
    write_model("model.py")
    complaint = lrat("train", "sat", *TINY, "--model", "model.py:digits", "--out", "run").complaint
    assert "rename" in complaint
    assert not (odd / "run" / "config.yaml").exists()


@pytest.mark.parametrize(
    "setting",
    ["training.epochs=1{}", "training.batch_size=9{}", "seed=1{}", "threads=5000"],
)
def test_a_number_that_no_record_holds_is_refused(setting: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^\w+(\.\w+)?=\d+"):
        load_config(parse_assignments([setting.format("0" * 19)]))

"""A method written out in a configuration, through all commands that meet it."""

from pathlib import Path

import pytest

from experiments.commands import TINY, assert_same_result, done, lrat, records
from lrat.config.catalogue import METHODS
from lrat.config.settings import read_settings
from reporting.report.reported import report

SMALL = (
    *(*TINY, "--set", "data.train_limit=120", "--set", "training.validation_steps=1"),
    *("--data", "digits", "--epochs", "1"),
)
METHOD = """
method:
  terms:
  - attack: {name: pgd, steps: 2}
    weighting: {name: margin, alpha: ALPHA, beta: 0.5}
  min_weight: 3
  anchor: {name: fgsm}
"""


def configuration(folder: Path, alpha: float) -> Path:
    path = folder / f"{alpha}.yaml"
    path.write_text(METHOD.replace("ALPHA", str(alpha)))
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two seeds of each of two methods that differ in one number, evaluated."""
    folder = tmp_path_factory.mktemp("written")
    found = []
    for alpha in (2, 3):
        for seed in (0, 1):
            run = folder / f"{alpha}-{seed}"
            config = configuration(folder, alpha)
            done("train", "--config", config, *SMALL, "--seed", seed, "--out", run)
            done("evaluate", run, "--suite", "quick", "--limit", 10)
            found.append(run)
    return found


def test_the_run_keeps_the_value_and_continues_with_it(runs: list[Path], tmp_path: Path) -> None:
    first = runs[0]
    method = read_settings(first / "config.yaml")["method"]
    assert method["name"] == "custom-pgd-margin"
    assert method["anchor"] == {"name": "fgsm"}
    assert method["terms"][0]["weighting"] == {"name": "margin", "alpha": 2.0, "beta": 0.5}
    (line,) = records(first)
    assert set(line["terms"]) == {"pgd", "anchor"}
    again = done("train", "--config", first / "config.yaml", "--out", first)
    assert "done already\ncustom-pgd-margin on digits: " in again
    other = lrat("train", "--config", configuration(tmp_path, 4), *SMALL, "--out", first)
    assert "method.terms[0].weighting.alpha: 4.0 asked, 2.0 in the folder" in other.complaint


def test_compare_and_report_tell_two_of_them_by_what_differs(runs: list[Path]) -> None:
    printed = done("compare", *runs)
    for alpha in (2.0, 3.0):
        assert f"custom-pgd-margin alpha={alpha}" in printed
    record = report(*runs)
    assert {run.method for run in record.runs} == {"custom-pgd-margin"}
    assert all("--config" in run.commands[0] for run in record.runs)


def test_its_folder_has_its_name(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = runs[0] / "config.yaml"
    done("train", "--config", config, "--set", "method.name=mine", "--set", "seed=1")
    assert_same_result(tmp_path / "runs" / "mine-digits-1", runs[1])


def test_a_printed_method_trains_as_its_name_does(tmp_path: Path) -> None:
    printed = done("list", "methods", "lsat-pgd")
    (tmp_path / "printed.yaml").write_text(printed)
    done("train", "--config", tmp_path / "printed.yaml", *SMALL, "--out", tmp_path / "run")
    assert read_settings(tmp_path / "run" / "config.yaml")["method"]["name"] == "sat"
    done("train", "sat", *SMALL, "--out", tmp_path / "run")  # the same run: it is done already


def test_only_methods_are_printed_and_only_known_ones() -> None:
    assert done("list", "methods", next(iter(METHODS)))
    assert "unknown method 'st': did you mean 'sat'" in lrat("list", "methods", "st").complaint
    assert "methods alone are printed" in lrat("list", "attacks", "pgd").complaint


def test_what_is_refused_is_one_line_before_anything_is_written(tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text("method: {terms: [{attack: saa, weighting: {name: geometry}}]}")
    refused = lrat("train", "--config", path, *SMALL, "--out", tmp_path / "run")
    assert refused.complaint.startswith("method.terms[0].weighting.name: ")
    assert "PGD and CW do" in refused.complaint
    assert not (tmp_path / "run").exists()

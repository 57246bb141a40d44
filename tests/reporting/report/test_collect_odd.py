"""What a report makes of runs that are damaged, half written, old, odd, or none at all."""

import json
from pathlib import Path

import pytest

from lrat.config.settings import read_settings
from lrat.errors import ConfigurationError, LratError
from lrat.files.read import read_json
from lrat.files.write import read_table, write_archive, write_json
from reporting.report.reported import make_evaluation, make_run, only, report


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = make_run(tmp_path_factory.mktemp("good") / "close")
    make_evaluation(run, 60)
    return run


def test_a_damaged_or_missing_part_leaves_the_rest(good: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    folder = make_evaluation(run, gallery=5)
    (run / "model.json").write_text("{")
    (run / "environment.json").write_text("[1]")
    (run / "weights").mkdir()
    (run / "weights" / "epoch-001.parquet").write_bytes(b"PAR1")
    write_json(folder / "masking.json", {"checks": [{"name": "x"}], "n": 3})
    next(folder.glob("outcomes/pgd-20-*")).write_bytes(b"PAR1")
    (run / "curves" / "c").mkdir(parents=True)
    (run / "curves" / "c" / "curve.json").write_text('{"norm": "Linf"}')
    lines = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join([lines[0], "{half", lines[1], '{"epoch": 3, "l']))
    record = report(run, good)
    broken = record.runs[0]
    assert [each.share.value for each in broken.evaluations[0].attacks] == [0.9, 0.55, 0.5]
    assert list(broken.epochs) == [1, 2]
    for part in (
        "model.json is damaged",
        "environment.json is no JSON object",
        "epoch-001.parquet is damaged",
        "masking.json is no masking panel",
        "No tests with selected-paper",
        "curve.json is no security curve",
        "Line 2 of",
    ):
        assert sum(part in problem for problem in broken.problems) == 1, (part, broken.problems)
    assert record.groups[0].pairs == []
    assert "run could not be tested against close." in record.summary


def test_outcomes_that_contradict_the_summary_are_not_tested(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    folder = make_evaluation(run)
    summary = read_json(folder / "summary.json")
    summary["accuracy"]["pgd-20"]["value"] = 0.6
    write_json(folder / "summary.json", summary)
    problems = only(report(run)).problems
    assert any("its outcomes under pgd-20 are not those of its summary" in p for p in problems)


def test_a_run_that_is_not_done_says_what_goes_on_with_it(tmp_path: Path) -> None:
    trained = make_run(tmp_path / "trained")
    half = make_run(tmp_path / "half")
    (half / "model.safetensors").unlink()
    (half / "model.json").unlink()
    begun = make_run(tmp_path / "begun")
    (make_evaluation(begun) / "summary.json").unlink()
    record = report(tmp_path)
    states = {run.name: (run.state, run.problems) for run in record.runs}
    assert states["trained"][0] == "trained"
    assert f"`lrat evaluate {trained} --suite tier`" in states["trained"][1][0]
    assert states["half"][0] == "unfinished"
    assert "is not trained to its end" in states["half"][1][0]
    assert states["begun"][0] == "trained"
    assert f"`lrat evaluate {begun} --suite paper --limit 100` goes on" in states["begun"][1][0]
    assert record.summary == [
        "There is nothing to compare: no run has a finished evaluation (`lrat evaluate RUN`)."
    ]


def test_an_evaluation_that_no_longer_says_what_it_is_is_told(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (make_evaluation(run) / "identity.json").write_text("[]")
    assert any("identity.json is no JSON object" in each for each in only(report(run)).problems)


def test_runs_of_the_same_worst_case_are_all_the_best(tmp_path: Path) -> None:
    for name in ("b", "a"):
        make_evaluation(make_run(tmp_path / name), 60)
    same, *rest = report(tmp_path).groups[0].sentences
    assert same.startswith("a and b have the same worst case, the best: ")
    assert rest == []


def test_runs_that_none_can_be_compared_with_come_as_they_were_named(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name) for name in "cab"]
    for images, run in enumerate(runs, start=60):
        make_evaluation(run, images, threat=f"Linf(epsilon=0.{images})")
    for order in (runs, runs[::-1]):
        assert [group.runs for group in report(*order).groups] == [[run.name] for run in order]


def test_a_run_of_an_earlier_version_is_shown(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    config = read_settings(run / "config.yaml")
    del config["training"]["guards"], config["acceleration"], config["training"]["monitor"]
    config["training"]["gone"] = 3
    (run / "config.yaml").write_text(json.dumps(config))
    (run / "metrics.jsonl").write_text('{"epoch": 1, "lr": 0.1, "loss": null}\n')
    (run / "model.json").write_text("{}")
    folder = make_evaluation(run)
    (folder / "extent.json").unlink()
    record = only(report(run))
    assert record.state == "evaluated"
    assert (list(record.epochs), record.accuracy) == ([1], {})
    assert record.commands[0] == f"lrat train --config {run}/config.yaml --out {run}"
    assert record.commands[1] == f"lrat evaluate {run} --suite paper --limit 100"


def test_somebodys_model_is_shown_by_its_evaluations(tmp_path: Path) -> None:
    make_evaluation(tmp_path, home=tmp_path / "theirs", names=["<b>cat</b>", "dog"], gallery=3)
    run = only(report(tmp_path / "theirs"))
    assert (run.name, run.state, run.method) == ("theirs", "evaluated", "model of one's own")
    assert run.threat == "Linf(epsilon=0.2)"
    assert run.commands[0].startswith("lrat evaluate --model FILE.py:FUNCTION")
    assert run.gallery is not None
    assert run.gallery.class_names[:3] == ["<b>cat</b>", "dog", "2"]


def test_names_are_of_one_model_each(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    first = make_evaluation(tmp_path, home=theirs, model="a")
    second = make_evaluation(tmp_path, home=theirs, suite="quick", model="b")
    one, other = (make_run(tmp_path / name) for name in ("one", "other"))
    record = report(first, names={first: "1.0"})
    assert only(record).name == "1.0"
    assert not record.problems
    assert "several models" in report(theirs).problems[0]
    with pytest.raises(ConfigurationError, match="is called"):
        report(first, second, names={first: "1.0", second: "1.1"})
    for names in ({one: "A", other: "A"}, {one: "other"}):
        with pytest.raises(ConfigurationError, match="is the name of"):
            report(one, other, names=names)


@pytest.mark.parametrize(("images", "classes"), [(12, 1), (2, 2), (1000, 1000)])
def test_odd_sizes(tmp_path: Path, images: int, classes: int) -> None:
    for name in ("one", "two"):
        run = make_run(tmp_path / name)
        make_evaluation(run, images // 2, images=images, clean=images, classes=classes, gallery=2)
    record = report(tmp_path)
    assert len(record.groups[0].pairs) == 4
    found = record.runs[0].gallery
    assert found is not None
    assert len(found.images) == 2
    assert len(found.class_names) == max(classes, 2)


def test_what_is_no_run_is_one_line_or_one_sentence(good: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    for place, cause in (
        ("empty", "is no run folder and holds none"),
        ("file", "is a file"),
        ("gone", "does not exist"),
    ):
        with pytest.raises(LratError, match=cause):
            report(tmp_path / place)
        both = report(tmp_path / place, good)
        assert len(both.runs) == 1
        assert cause in both.problems[0]
    with pytest.raises(ConfigurationError, match="name the runs"):
        report()


def test_settings_and_summaries_of_no_sense_leave_the_rest(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "config.yaml").write_text("data: digits\nmethod: [sat]\ntraining: 3\n")
    whole = make_evaluation(run)
    broken = make_evaluation(run, images=50, clean=40, robust=20)
    (broken / "summary.json").write_text('{"images": 50}')
    record = only(report(run))
    assert [each.folder for each in record.evaluations] == [str(whole)]
    assert sum("is not as it was written" in problem for problem in record.problems) == 1
    assert record.commands[0] == f"lrat train --config {run}/config.yaml --out {run}"
    (run / "config.yaml").write_text("- 1")
    assert "must be a mapping of settings" in only(report(run)).problems[0]
    (run / "config.yaml").write_text("a: [")
    assert "is no plain YAML" in only(report(run)).problems[0]


def test_a_folder_of_lrat_fit_shows_its_epochs(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    for name in ("config.yaml", "model.json", "model.safetensors", "environment.json"):
        (run / name).unlink()
    record = only(report(run))
    assert (record.method, record.state, len(record.epochs)) == ("lrat.fit", "trained", 3)
    assert record.commands == []


def test_a_gallery_with_fewer_classes_than_labels_is_told(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    folder = make_evaluation(run, gallery=5)
    (path,) = (folder / "gallery").glob("*.npz")
    columns = read_table(path)
    write_archive(path, {**columns, "logits": columns["logits"][:, :3]})
    found = only(report(run))
    assert found.gallery is None
    assert any("lacks classes" in problem for problem in found.problems)


def test_metrics_that_end_early_are_told(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    path = run / "metrics.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    assert any("holds 2 of the 3 epochs" in problem for problem in only(report(run)).problems)

"""``lrat analyse``: what it writes, what it reads back, when it begins anew."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments.commands import TINY, contents, done, lrat
from lrat.analysis import agreement, top_sets
from lrat.experiments.analyse.analyse import Analysis, AnalysisRequest, analyse_run
from lrat.experiments.analyse.figures import draw, noted_agreements
from lrat.experiments.analyse.views import attack_images
from lrat.files.read import read_json
from lrat.files.write import read_table, write_json, write_table
from lrat.reporting.figures import Agreement, Drawn, agreement_page, vulnerability_page

pytestmark = pytest.mark.xdist_group("analyses")  # their fixtures take long: made once

SMALL = AnalysisRequest(limit=40, points=20)
SMALL_OPTIONS = ("--limit", 40, "--points", 20)
NAME = "selected-train-40"


@pytest.fixture(scope="module")
def analysed(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with its analysis: to be copied before it is changed."""
    run = Path(shutil.copytree(trained, tmp_path_factory.mktemp("analysed") / "run"))
    done("evaluate", run, "--limit", 30)
    done("analyse", run, *SMALL_OPTIONS)
    return run


@pytest.fixture
def again(analysed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it to analyse again, without the figures, which take most of the time."""
    monkeypatch.setattr("lrat.experiments.analyse.analyse.draw", lambda analysis: [])
    return Path(shutil.copytree(analysed, tmp_path / "again"))


def views_of(run: Path, name: str = NAME) -> dict[str, np.ndarray]:
    return read_table(run / "analysis" / name / "vulnerability.parquet")


def summary_of(run: Path, name: str = NAME) -> dict[str, object]:
    text = (run / "analysis" / name / "summary.json").read_text()
    return dict(json.loads(text))


def test_what_an_analysis_leaves(analysed: Path) -> None:
    folder = analysed / "analysis" / NAME
    assert {path.name for path in folder.iterdir()} == {
        "identity.json",
        "summary.json",
        "vulnerability.parquet",
        "overlap.json",
        "weights.parquet",
        "embedding.parquet",
        "rankings.json",
        "figures",
    }
    figures = {path.name for path in (folder / "figures").iterdir()}
    stems = ("overlap", "views", "margins", "weights", "agreement", "classes")
    assert figures == {f"{stem}.{end}" for stem in stems for end in ("pdf", "png", "txt")}
    table = views_of(analysed)
    assert len(table["index"]) == 40
    assert (np.diff(table["index"]) > 0).all()
    assert {int(table[f"top_{view}"].sum()) for view in ("gd", "pgd", "cw")} == {8}
    embedding = read_table(folder / "embedding.parquet")
    assert len(embedding["x"]) == 20
    assert np.isin(embedding["index"], table["index"]).all()


def test_the_summary_says_what_the_numbers_are_of(analysed: Path) -> None:
    summary = summary_of(analysed)
    assert (summary["images"], summary["part"], summary["top"]) == (40, "train", 0.2)
    assert summary["size"] == 8
    assert summary["weights"]["epochs"] == [2]
    assert summary["weights"]["terms"] == ["pgd", "(sum)"]
    assert summary["embedding"]["engine"] == "scikit-learn"
    assert summary["seconds"]["images_attacked"] == 40
    assert "steps=3" in summary["identity"]["attacks"]["pgd"]
    assert summary["rankings"] == ["selected-quick-linf-0.2-30"]


def test_what_it_prints(again: Path) -> None:
    text = done("analyse", again, *SMALL_OPTIONS)
    assert text.startswith("sat on digits (selected), train images: n 40 of")
    for words in ("V_PGD - V_CW", "by chance", "Kendall", "below .2 %", "pgd-20", "evidence in"):
        assert words in text
    assert "nan" not in text.lower()


def test_the_images_are_those_that_the_run_trained_on(analysed: Path) -> None:
    recorded = read_table(analysed / "weights" / "epoch-002.parquet")
    table = views_of(analysed)
    labels = dict(zip(recorded["index"].tolist(), recorded["label"].tolist(), strict=True))
    assert [labels[number] for number in table["index"].tolist()] == table["label"].tolist()


def test_the_same_call_reads_back(again: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And draws the same figures: byte for byte."""
    monkeypatch.setattr("lrat.experiments.analyse.analyse.draw", draw)
    before = contents(again)

    def no_attack(*arguments: object, **settings: object) -> None:
        raise AssertionError("an image was attacked again")

    monkeypatch.setattr("lrat.experiments.analyse.views.look_at", no_attack)
    analysis = analyse_run(again, SMALL)
    assert isinstance(analysis, Analysis)
    assert contents(again) == before


def test_a_broken_off_analysis_goes_on(
    again: Path, analysed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = again / "analysis" / NAME
    table = views_of(again)
    half = {name: values[:25] for name, values in table.items() if not name.startswith("top_")}
    (folder / "vulnerability.parquet").unlink()
    (folder / "summary.json").unlink()
    write_table(folder / "vulnerability", half)
    counted: list[int] = []

    def counting(*arguments: object, **settings: object) -> object:
        found = attack_images(*arguments, **settings)
        counted.append(found.images)
        return found

    monkeypatch.setattr("lrat.experiments.analyse.analyse.attack_images", counting)
    analyse_run(again, SMALL)
    assert counted == [15]
    whole = views_of(analysed)
    for name, values in views_of(again).items():
        np.testing.assert_allclose(values, whole[name], atol=1e-5, err_msg=name)


def test_work_is_kept_on_the_way(again: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lrat.experiments.analyse.views._SECONDS_BETWEEN_SAVES", 0.0)
    written: list[int] = []

    def noting(stem: Path, columns: dict[str, np.ndarray]) -> Path:
        written.append(len(columns["index"]))
        return write_table(stem, columns)

    monkeypatch.setattr("lrat.experiments.analyse.views.write_table", noting)
    analyse_run(again, AnalysisRequest(limit=30, points=0, batch_size=10))
    assert written == [10, 20, 30]


def test_other_weights_have_a_folder_of_their_own(again: Path) -> None:
    done("train", "sat", *TINY, "--epochs", "1", "--seed", "7", "--out", again.parent / "other")
    shutil.copy(again.parent / "other" / "model.safetensors", again / "model.safetensors")
    digest = read_json(again.parent / "other" / "model.json")["sha256"]
    write_json(again / "model.json", {**read_json(again / "model.json"), "sha256": digest})
    before = contents(again / "analysis" / NAME)
    first, second = (analyse_run(again, SMALL) for _ in range(2))
    model = first.summary["identity"]["model"]
    assert first.folder == second.folder == again / "analysis" / f"{NAME}-{model[:8]}"
    assert not np.array_equal(first.views["v_pgd"], views_of(again)["v_pgd"])
    assert contents(again / "analysis" / NAME) == before


def test_what_else_differs_is_refused(again: Path) -> None:
    before = contents(again / "analysis")
    complaint = lrat("analyse", again, *SMALL_OPTIONS, "--acceleration", "off").complaint
    assert "another analysis (acceleration: " in complaint
    assert "repeat the old settings" in complaint
    assert contents(again / "analysis") == before


def test_an_analysis_without_its_identity_is_not_taken_over(again: Path) -> None:
    (again / "analysis" / NAME / "identity.json").unlink()
    before = contents(again / "analysis")
    assert "holds results but no identity.json" in lrat("analyse", again, *SMALL_OPTIONS).complaint
    assert contents(again / "analysis") == before


def test_another_top_set_takes_no_attack(again: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lrat.experiments.analyse.views.look_at", None)
    analysis = analyse_run(again, AnalysisRequest(limit=40, points=20, top=0.5))
    assert analysis.overlap["size"] == 20
    assert int(views_of(again)["top_cw"].sum()) == 20


def test_an_analysis_under_way_is_taken_for_no_finished_one(
    again: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call with another --top that is killed leaves no summary of the one before."""
    folder = again / "analysis" / NAME
    assert (folder / "summary.json").exists()

    def killed(*arguments: object, **settings: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lrat.experiments.analyse.analyse.embed", killed)
    with pytest.raises(KeyboardInterrupt):
        analyse_run(again, AnalysisRequest(limit=40, points=30, top=0.5))
    assert not (folder / "summary.json").exists()


def test_counts_are_of_all_images_and_axes_name_their_part(
    again: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[str, object] = {}

    def noting(points: object, shown: list[Agreement], out: Path, *, caption: str) -> Drawn:
        drawn["counted"] = shown[0].either
        return agreement_page(points, shown, out, caption=caption)

    def labelled(*views: object, counted: str, caption: str) -> Drawn:
        drawn["axis"] = counted
        return vulnerability_page(*views, counted=counted, caption=caption)

    monkeypatch.setattr("lrat.experiments.analyse.analyse.draw", draw)
    monkeypatch.setattr("lrat.experiments.analyse.figures.agreement_page", noting)
    monkeypatch.setattr("lrat.experiments.analyse.figures.vulnerability_page", labelled)
    found = analyse_run(again, AnalysisRequest(limit=30, points=10, part="test"))
    tops = np.stack([found.views[f"top_{view}"] for view in ("gd", "pgd", "cw")])
    assert drawn == {"counted": tops.any(0).sum(), "axis": "test images"}


def test_agreements_with_v_gd_say_what_the_rule_for_ties_makes_of_them() -> None:
    """All images tie in V_GD, so its set is V_PGD's, whatever it saw."""
    n = 100
    pgd, cw = np.random.default_rng(0).random((2, n))
    columns = {
        "index": np.arange(n),
        "correct": np.ones(n, dtype=bool),
        "v_gd": np.full(n, 10),
        "v_pgd": pgd,
        "v_cw": cw,
        "margin_pgd": pgd,
    }
    tops = {name.removeprefix("top_"): top for name, top in top_sets(columns, 0.2).items()}
    union, gd_cw, gd_pgd, pgd_cw = map(str, noted_agreements(tops, agreement(columns, 0.2)))
    assert gd_pgd == "GD – PGD: 20 of 20 consistent (random ties 11 %, chance 11 %)"
    assert gd_cw.endswith("(random ties 11 %, chance 11 %)")
    assert pgd_cw.endswith("consistent (chance 11 %)")
    assert union.endswith("consistent (chance 2 %)")


def test_parts_seeds_and_more_attacks_have_folders_of_their_own(again: Path) -> None:
    asked = AnalysisRequest(
        limit=12, points=0, part="test", seed=3, again=True, saa=True, checkpoint="epoch-1"
    )
    analysis = analyse_run(again, asked)
    assert analysis.folder.name == "epoch-1-test-12-seed-3-again-saa"
    assert "margin_saa" in analysis.views
    assert set(analysis.overlap["again"]) == {"v_gd", "v_pgd", "v_cw"}
    assert "from other starts" in str(analysis)
    assert not analysis.rankings  # the evaluation is of other weights
    assert analysis.embedding is None
    assert not (analysis.folder / "embedding.parquet").exists()


def test_a_run_without_recorded_weights_is_told_how_to_have_some(again: Path) -> None:
    shutil.rmtree(again / "weights")
    text = done("analyse", again, *SMALL_OPTIONS)
    assert "--set training.record_weights=[2] --out ANOTHER" in text
    assert not (again / "analysis" / NAME / "weights.parquet").exists()
    assert summary_of(again)["weights"] is None


def npz(folder: Path, count: int, labels: np.ndarray) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (count, 8, 8), dtype=np.uint8)
    parts = {f"{part}_images": pixels for part in ("train", "test")}
    parts |= {f"{part}_labels": labels for part in ("train", "test")}
    path = folder / "data.npz"
    np.savez(path, **parts)
    return path


@pytest.mark.parametrize(
    ("count", "labels"),
    [
        (12, np.zeros(12, dtype=int)),
        (2, np.arange(2)),
        (30, (37 * np.arange(30) + 999) % 1000),
    ],
    ids=["one class", "two images", "a thousand classes"],
)
def test_odd_data(tmp_path: Path, count: int, labels: np.ndarray) -> None:
    data = npz(tmp_path, count, labels)
    settings = ("--set", "data.validation=0", "--set", "training.selection=last")
    run = tmp_path / "run"
    given = ("--data", f"npz:{data}", "--threat", "linf:0.1", "--epochs", 1, "--out", run)
    done("train", "sat", *TINY, *given, *settings, "--set", "training.record_weights=[1]")
    text = done("analyse", run)
    assert f"n {count} of {count}" in text
    assert "nan" not in text.lower()
    assert ("no t-SNE: 2 images are too few" in text) == (count == 2)
    weights = read_table(run / "analysis" / f"selected-train-{count}" / "weights.parquet")
    assert set(weights["label"].tolist()) == {-1, *labels.tolist()}


def test_objectives_without_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lrat.experiments.analyse.analyse.draw", lambda analysis: [])
    run = tmp_path / "run"
    record = ("--set", "training.record_weights=[1]")
    done("train", "trades", *TINY, "--epochs", 1, *record, "--out", run)
    assert "note: trades gives its images no weights" in done("analyse", run, *SMALL_OPTIONS)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--top", "1.5"), "top=1.5"),
        (("--checkpoint", "epoch-9"), "epoch-9"),
        (("--part", "valid"), "'--part'"),
        (("--device", "abacus"), "abacus"),
    ],
)
def test_what_cannot_be_meant_is_one_line(
    analysed: Path, options: tuple[str, ...], words: str
) -> None:
    assert words in lrat("analyse", analysed, *SMALL_OPTIONS, *options).complaint


def test_no_run_no_checkpoint(tmp_path: Path, again: Path) -> None:
    assert "is no run folder" in lrat("analyse", tmp_path / "nothing").complaint
    shutil.rmtree(again / "checkpoints")
    (again / "model.safetensors").unlink()
    assert "no checkpoint in" in lrat("analyse", again).complaint


def test_images_that_the_run_never_had_are_refused(again: Path) -> None:
    stored = read_json(again / "contents.json")
    write_json(again / "contents.json", {**stored, "train": "other"})
    complaint = lrat("analyse", again, *SMALL_OPTIONS).complaint
    assert "not the train images" in complaint
    assert "--data-root" in complaint


@pytest.mark.parametrize("name", ["vulnerability", "embedding"])
def test_a_damaged_table_is_named(again: Path, name: str) -> None:
    path = again / "analysis" / NAME / f"{name}.parquet"
    path.write_bytes(path.read_bytes()[:100])
    complaint = lrat("analyse", again, *SMALL_OPTIONS).complaint
    assert f"{name}.parquet is damaged" in complaint
    assert "delete it and analyse again" in complaint
    path.unlink()
    done("analyse", again, *SMALL_OPTIONS)


def test_a_damaged_evaluation_is_left_out(again: Path) -> None:
    (part,) = (again / "evaluations").glob("*/outcomes/pgd-20-*.parquet")
    part.unlink()
    text = done("analyse", again, *SMALL_OPTIONS)
    assert "note: selected-quick-linf-0.2-30 is not ranked:" in text
    assert not (again / "analysis" / NAME / "rankings.json").exists()


def test_the_benchmark_reads_the_ratio(analysed: Path) -> None:
    script = Path(__file__).parents[3] / "benchmarks" / "analyse.py"
    folder = analysed / "analysis" / NAME
    ended = subprocess.run(
        [sys.executable, str(script), str(folder)], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    (line,) = [line for line in ended.stdout.splitlines() if line.startswith("| small-cnn")]
    seconds = summary_of(analysed)["seconds"]
    assert isinstance(seconds, dict)
    ratio = (seconds["attacks"] + seconds["rest"]) / seconds["attacks"]
    assert f"**{ratio:.3f}**" in line
    assert "| 40 |" in line

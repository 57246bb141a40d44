"""The paper's figures from a reproduction's folder: what they say is what the records hold."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lrat.config.settings import load_config, read_settings
from lrat.errors import LratError, RunFolderError, UnknownNameError
from lrat.experiments.analyse.result import AnalysisRequest
from lrat.experiments.train import train_run
from lrat.files.read import parse_object, read_json
from lrat.files.write import read_table, write_json
from lrat.reproduce.figures import make, request
from lrat.reproduce.figures.idea import chosen_rows
from lrat.reproduce.figures.make import draw
from lrat.reproduce.figures.request import FigureRequest, rows_needed
from lrat.reproduce.figures.runs import accuracy_curves, runs_of
from lrat.reproduce.folder import claim, run_folder
from lrat.reproduce.presets import Choice
from lrat.reproduce.progress import RowsProgress
from lrat.reproduce.request import Request

pytestmark = pytest.mark.xdist_group("figures")  # their fixtures take long: made once

SMALL = (
    "training.epochs=3",
    "model.width=4",
    "attack.steps=3",
    "attack.saa_steps=3",
    "data.train_limit=120",
    "training.monitor.limit=90",
)
CELLS = (("sat", 0), ("sat", 1), ("gairat", 0), ("trades", 0), ("gairat-cw", 0))
SUITE = """
name: ranking
attacks:
  fgsm: {attack: fgsm}
  pgd-20: {attack: pgd, steps: 2}
  cw-20: {attack: cw, steps: 2}
"""


def reproduction(folder: Path, preset: str, *settings: str, cells: Any = CELLS) -> Path:
    """A folder as `lrat reproduce` makes it, of tiny runs on digits."""
    choice = Choice.of(preset, (*SMALL, *settings))
    claim(folder, choice)
    for row, seed in cells:
        train_run(choice.config(row, seed), run_folder(folder, row, seed))
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read by all tests; those that change something copy it."""
    return reproduction(tmp_path_factory.mktemp("digits"), "digits")


@pytest.fixture
def own(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "own"))


@pytest.fixture
def short_suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Figure 2's attacks in few steps."""
    path = tmp_path / "ranking.yaml"
    path.write_text(SUITE)
    monkeypatch.setattr(request, "SUITE", path)


@pytest.fixture
def no_other_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Analyses do not draw the figures of `lrat analyse`, which have tests of their own."""
    monkeypatch.setattr("lrat.experiments.analyse.analyse.draw", lambda analysis: [])


class Lines:
    """A watcher that keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, line: str) -> None:
        self.said.append(line)

    def progress(self, now: RowsProgress) -> None:
        return


def figure(name: str, folder: Path, **asked: Any) -> FigureRequest:
    """A figure of a reproduction's folder, drawn into it."""
    return FigureRequest(**{"name": name, "folder": folder, "out": folder / "figures", **asked})


def make_figure(name: str, folder: Path, **asked: Any) -> list[Path]:
    return draw(figure(name, folder, **asked))


def pictures(files: list[Path]) -> dict[str, str]:
    """Name to caption of drawn figures, after checking that each is there and shows something."""
    captions = {}
    for path in files:
        assert path.stat().st_size > 0
        if path.suffix == ".png":
            assert np.asarray(Image.open(path).convert("L")).std() > 5, f"{path} is blank"
            captions[path.stem] = path.with_suffix(".txt").read_text()
            assert path.with_suffix(".pdf").read_bytes().startswith(b"%PDF")
    return captions


def test_figure_1_has_three_parts(made: Path) -> None:
    assert sorted(pictures(make_figure("figure1", made))) == ["figure1a", "figure1b", "figure1c"]


@pytest.mark.parametrize(("reported", "shown"), [(1, 3), (2, 2), (3, 3)])
def test_figure_1a_states_the_share_of_low_weights_that_was_recorded(
    reported: int, shown: int, own: Path
) -> None:
    # Weights act in epochs 2 and 3: those of the last such epoch up to the reported one are shown.
    folder = run_folder(own, "gairat", 0)
    about = read_json(folder / "model.json")
    write_json(folder / "model.json", {**about, "selected_epoch": reported})
    caption = pictures(make_figure("figure1a", own))["figure1a"]
    table = read_table(folder / "weights" / f"epoch-{shown:03d}.parquet")
    below = 100 * (table["raw_weight"] < 0.2).mean()
    assert f"epoch {shown}, n = 120, {below:.1f} % below 0.2" in caption
    assert ("lies before the weighting acts" in caption) == (reported == 1)


def test_a_part_alone_needs_its_own_rows_alone(own: Path) -> None:
    shutil.rmtree(run_folder(own, "gairat", 0))
    assert rows_needed("figure1b") == ("sat",)
    assert set(pictures(make_figure("figure1b", own))) == {"figure1b"}
    with pytest.raises(RunFolderError, match=r"needs a finished run of gairat.*--preset digits"):
        make_figure("figure1", own)


def note_accuracy(run: Path, *shares: float) -> None:
    """As if these had been the test accuracies of the epochs."""
    lines = [parse_object(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line, share in zip(lines, shares, strict=True):
        line["monitor"] = dict.fromkeys(line["monitor"], share)
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def widths(folder: Path, seeds: int) -> np.ndarray[Any, Any]:
    """Of the intervals of the first runs of sat."""
    curve = accuracy_curves(runs_of(folder, "sat")[:seeds])[0]
    return curve.high - curve.low


def test_accuracy_is_the_mean_over_seeds_and_its_interval_is_of_all_different_images(
    own: Path,
) -> None:
    note_accuracy(run_folder(own, "sat", 0), 30 / 90, 60 / 90, 45 / 90)
    note_accuracy(run_folder(own, "sat", 1), 60 / 90, 30 / 90, 45 / 90)
    curve = accuracy_curves(runs_of(own, "sat"))[0]
    assert curve.name == "pgd-20"
    np.testing.assert_allclose(curve.value, 0.5)
    np.testing.assert_allclose(curve.runs[0], [30 / 90, 60 / 90, 45 / 90])
    # Two folds have twice the images, so that their interval is .71 as wide.
    np.testing.assert_allclose(widths(own, 2)[2] / widths(own, 1)[2], 0.5**0.5, rtol=0.02)
    caption = pictures(make_figure("figure1b", own))["figure1b"]
    assert "n = 180 test images" in caption
    assert "seeds 0, 1" in caption


def test_seeds_tested_on_the_same_fold_are_no_more_images(own: Path) -> None:
    # Seeds 0 and 5 share fold 0; a run's folder says its seed in its configuration.
    folder = run_folder(own, "sat", 1)
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("\nseed: 1", "\nseed: 5"))
    about = folder / "model.json"
    write_json(
        about, {**read_json(about), "configuration": load_config(read_settings(config)).digest()}
    )
    for seed in (0, 1):
        note_accuracy(run_folder(own, "sat", seed), 0.5, 0.5, 0.5)
    np.testing.assert_allclose(widths(own, 2), widths(own, 1))


def test_accuracy_of_another_number_of_images_is_refused(own: Path) -> None:
    note_accuracy(run_folder(own, "gairat-cw", 0), 0.1234, 0.5, 0.5)
    with pytest.raises(RunFolderError, match=r"epoch 1 is of another number of images than 90"):
        make_figure("figure6", own)


def test_figure_6_is_of_the_run_with_cw(made: Path) -> None:
    captions = pictures(make_figure("figure6", made))
    assert (
        "GAIRAT-CW on 120 images of digits, linf:0.2, small-cnn of width 4, " in captions["figure6"]
    )


def test_figure_2_ranks_final_and_early_stopped_models_of_several_presets(
    own: Path, tmp_path: Path, short_suite: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = reproduction(
        tmp_path / "other",
        "fashion-mnist",
        "data.name=digits",
        "threat=linf:0.1",
        cells=(("sat", 0), ("trades", 0)),
    )
    monkeypatch.setattr(make, "make_runs", lambda *asked: iter(()))  # all are there
    watcher = Lines()
    asked = Request(
        target="figure2", choice=Choice.of("digits", SMALL), out=own, also=(other,), command="lrat"
    )
    report = make.reproduce_figure(asked, watcher)
    # Two folds of sat on digits, one of the others; last and early-stopped weights.
    assert len(watcher.said) == 2 * 3 + 2 * 2
    assert all(" --suite " in line and " --limit 90" in line for line in watcher.said)
    assert sum(" --checkpoint epoch-2 " in line for line in watcher.said) == 5
    (caption,) = pictures(list(report.paths)).values()
    for words in ("AT on digits", "TRADES-60", "epoch-2 of 3 epochs", "linf:0.1", "seed 0, 1"):
        assert words in caption
    assert "n = 180 test images" in caption


@pytest.mark.parametrize(
    ("name", "parts"),
    [("figure3", ["", *"abcd"]), ("figure4", [""]), ("figure5", ["", *"abcdef"])],
)
def test_figures_of_one_model_are_made_from_its_analysis(
    name: str, parts: list[str], own: Path, no_other_figures: None
) -> None:
    said = Lines()
    captions = pictures(make_figure(name, own, say=said.say))
    run = run_folder(own, rows_needed(name)[0], 0)
    assert len(said.said) == 1
    assert said.said[0].startswith(f"{name}: lrat analyse {run} --")
    assert sorted(captions) == sorted(f"{name}{part}" for part in parts)
    assert all("120 training images" in text and "digits" in text for text in captions.values())
    if name == "figure3":
        (table,) = (run / "analysis").glob("selected-train-120/v*.parquet")
        views = read_table(table)
        gd, cw = views["top_gd"].astype(bool), views["top_cw"].astype(bool)
        counts = f"GD – CW: {(gd & cw).sum()} of {(gd | cw).sum()} consistent"
        assert counts in captions["figure3b"]


def test_a_figure_of_one_model_shows_the_seed_that_was_asked_for(own: Path) -> None:
    assert figure("figure3", own, seeds=(1,)).runs("sat")[0].folder == run_folder(own, "sat", 1)
    with pytest.raises(RunFolderError, match=r"needs a finished run of sat.* --seeds 7, --out"):
        make_figure("figure3", own, seeds=(7,))


@pytest.mark.parametrize(
    ("target", "asked", "cause"),
    [
        ("figure5", {"rows": ("sat",)}, "figure5 shows gairat: leave --rows away"),
        ("figure1", {"suite": "quick"}, "--suite does nothing for figure1"),
        ("figure1", {"limit": 3}, "--limit does nothing for figure1"),
        ("figure3", {"seeds": (0, 1)}, "shows one model: name one seed, as --seeds 1,"),
        ("table1", {"also": (Path("x"),)}, "--also does nothing for table1"),
        ("figure2", {"also": (Path("x"),)}, "x is no folder of `lrat reproduce`"),
    ],
)
def test_what_does_nothing_is_refused_before_anything_is_trained(
    target: str, asked: dict[str, Any], cause: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(LratError, match=cause):
        make.reproduce_figure(
            Request(target=target, choice=Choice.of("digits"), out=out, **asked), Lines()
        )
    assert not out.exists()


@pytest.mark.parametrize(("reported", "shown"), [(1, "last"), (2, "selected")])
def test_figure_5_shows_a_model_that_was_reweighted(
    reported: int, shown: str, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def analysed(run: Path, asked: AnalysisRequest, **others: object) -> Any:
        raise KeyError(asked.checkpoint)

    monkeypatch.setattr(request, "analyse_run", analysed)
    about = run_folder(own, "gairat", 0) / "model.json"
    write_json(about, {**read_json(about), "selected_epoch": reported})
    with pytest.raises(KeyError, match=shown):
        make_figure("figure5", own)


def test_the_images_of_figure_4_spread_as_told() -> None:
    spread = np.linspace(0.0, 1.0, 11)
    zero = np.zeros(11)
    correct = np.ones(11, dtype=bool)
    correct[10] = False  # wrong when clean: not shown
    views = {"t_pgd": zero, "t_cw": spread, "t_saa": zero, "correct": correct}
    assert chosen_rows(views).tolist() == [9, 8, 4]
    few = {name: values[:2] for name, values in views.items()}
    assert chosen_rows(few).tolist() == [1, 0]
    none = {**few, "correct": np.zeros(2, dtype=bool)}
    assert chosen_rows(none).tolist() == [1, 0]


def test_one_epoch_says_why_there_are_no_weights(tmp_path: Path) -> None:
    one = reproduction(
        tmp_path / "one",
        "digits",
        "training.epochs=1",
        cells=(("gairat", 0), ("sat", 0)),
    )
    with pytest.raises(
        RunFolderError, match=r"trained for 1 epochs.*from epoch 2 on: train longer"
    ):
        make_figure("figure1a", one)
    assert set(pictures(make_figure("figure1b", one))) == {"figure1b"}


def test_names_that_the_paper_has_not(made: Path) -> None:
    for name in ("figure7", "figure3e", "figure2a", "figure1bc", "table1", ""):
        with pytest.raises(UnknownNameError, match="unknown figure"):
            make_figure(name, made)
        with pytest.raises(UnknownNameError):
            rows_needed(name)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LratError, match="no folder of `lrat reproduce`") as refused:
        make_figure("figure3", tmp_path)
    assert "\n" not in str(refused.value)


def test_two_images_are_enough_for_what_needs_no_neighbours(
    tmp_path: Path, no_other_figures: None
) -> None:
    images = np.zeros((2, 1, 8, 8), np.float32)
    images[1] = 0.8
    np.savez(
        tmp_path / "two$_^.npz",
        train_images=images,
        train_labels=np.array([0, 1]),
        test_images=images,
        test_labels=np.array([0, 1]),
    )
    folder = reproduction(
        tmp_path / "two",
        "fashion-mnist",
        f"data.name=npz:{tmp_path}/two$_^.npz",
        "data.train_limit=null",
        cells=(("sat", 0), ("gairat", 0)),
    )
    for name in ("figure4", "figure5c"):
        assert set(pictures(make_figure(name, folder))) == {name}
    with pytest.raises(RunFolderError, match="holds no t-SNE: analyse at least 4 images"):
        make_figure("figure3", folder)

"""``lrat curve``: evidence, the figure, what is reused and what is refused."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from experiments.commands import contents, done, lrat
from experiments.own import MODEL, write_model, write_npz
from lrat.errors import RunFolderError
from lrat.evaluation.curve import CurveProgress
from lrat.evaluation.curve_result import Curve
from lrat.experiments.curves import CurveRequest, measure_curves
from lrat.files.read import read_json
from lrat.files.write import read_table, write_json, write_table

SMALL = ("--attack", "pgd-3", "--limit", "20", "--levels", "4")
REQUEST = CurveRequest(attack="pgd-3", limit=20, levels=4)
FOLDER = "selected-pgd-3-linf-0.6-4-20"


def test_it_keeps_the_evidence_and_draws(run: Path) -> None:
    out = done("curve", run, *SMALL)
    folder = run / "curves" / FOLDER
    about = read_json(folder / "curve.json")
    columns = read_table(folder / "images.parquet")
    assert about["n"] == 20
    assert about["trained_epsilon"] == 0.2
    assert about["epsilon"] == pytest.approx([0, 0.15, 0.3, 0.45, 0.6])
    curve = Curve.from_dict(about, columns)
    assert out.startswith(str(curve))
    for epsilon, accuracy in zip(about["epsilon"], about["accuracy"], strict=True):
        assert accuracy == (columns["smallest_epsilon"] > epsilon).mean()
    for ending in (".pdf", ".png", ".txt"):
        assert (run / "figures" / f"security-curve{ending}").stat().st_size > 100
    assert f"evidence in {folder}" in out


def test_a_finished_curve_is_reused_and_one_of_other_weights_is_not(run: Path) -> None:
    first = done("curve", run, *SMALL)
    before = contents(run / "curves")
    calls: list[CurveProgress] = []
    report = measure_curves([run], REQUEST, progress=lambda name, step: calls.append(step))
    assert calls == []
    assert contents(run / "curves") == before
    assert str(report) == first.rstrip("\n")

    shutil.copy(run / "model.safetensors", run / "kept")
    shutil.rmtree(run / "figures")
    done("curve", run, *SMALL, "--checkpoint", "last", "--out", run / "other.png")
    assert (run / "other.png").is_file()
    assert not (run / "figures").exists()
    assert sorted(path.name for path in (run / "curves").iterdir()) == [
        FOLDER.replace("selected", "last"),
        FOLDER,
    ]


def test_another_version_of_a_model_file_has_a_curve_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_model("own.py")
    write_npz("own.npz")
    done(
        *("train", "sat", "--data", "npz:own.npz", "--model", "own.py:make", "--epochs", 2),
        *("--threat", "linf:0.1", "--out", "run"),
    )
    kept = measure_curves([Path("run")], REQUEST).measured[0]
    Path("own.py").write_text(MODEL.replace("self.head(self", "-self.head(self"))
    changed = measure_curves([Path("run")], REQUEST).measured[0]
    assert changed.folder != kept.folder
    assert changed.curve.accuracy[0].value < kept.curve.accuracy[0].value
    write_model("own.py")
    assert measure_curves([Path("run")], REQUEST).measured[0].folder == kept.folder


def test_it_goes_on_where_it_was_broken_off(run: Path) -> None:
    whole = measure_curves([run], REQUEST).measured[0].curve
    finished = contents(run / "curves")
    shutil.rmtree(run / "curves")

    class BrokenOffError(Exception):
        pass

    attacked: list[int] = []

    def stop(name: str, step: CurveProgress) -> None:
        attacked.append(step.attacked)
        if len(attacked) == 2:
            raise BrokenOffError

    with pytest.raises(BrokenOffError):
        measure_curves([run], REQUEST, progress=stop)
    rest: list[int] = []
    again = measure_curves([run], REQUEST, progress=lambda name, step: rest.append(step.attacked))
    np.testing.assert_array_equal(again.measured[0].curve.brackets.high, whole.brackets.high)
    assert rest[0] < 20, "what was known is not attacked again"
    assert contents(run / "curves") == finished


def test_other_contents_in_its_folder_are_refused(run: Path) -> None:
    measure_curves([run], REQUEST)
    folder = run / "curves" / FOLDER
    identity = read_json(folder / "identity.json")
    write_json(folder / "identity.json", {**identity, "data": "others"})
    with pytest.raises(
        RunFolderError, match=r"another curve \(data: others there, .* here\): remove it, or"
    ):
        measure_curves([run], REQUEST)
    write_json(folder / "identity.json", identity)
    (folder / "images.parquet").write_bytes(b"PAR1 and nothing more")
    assert "images.parquet is damaged" in lrat("curve", run, *SMALL).complaint
    columns = {"index": np.arange(3), "label": np.arange(3)}
    write_table(folder / "images", columns)
    assert "lack the columns low, high" in lrat("curve", run, *SMALL).complaint


def test_several_runs_share_a_figure(run: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(run, tmp_path / "elsewhere" / "run"))
    out = done("curve", run, other, *SMALL, "--max-epsilon", "0.3")
    header = out.splitlines()[0].split()
    assert header == ["epsilon", str(run), str(other)], "two folders of one name go by their paths"
    assert "area" in out
    caption = (run / "figures" / "security-curves.txt").read_text()
    assert str(other) in caption
    assert "n 20 images; seed 0" in caption


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (("--attack", "pgd"), "unknown attack 'pgd'"),
        (("--max-epsilon", "0"), "max_epsilon=0.0"),
        (("--max-epsilon", "8"), "8.0/255"),
        (("--levels", "0"), "'--levels'"),
        (("--checkpoint", "epoch-9"), "epoch-9"),
        (("--device", "gpu9"), "gpu9"),
    ],
)
def test_wrong_options_are_one_line(
    trained: Path, tmp_path: Path, arguments: tuple[str, ...], cause: str
) -> None:
    before = contents(trained)
    assert cause in lrat("curve", trained, *arguments, "--out", tmp_path / "x").complaint
    assert contents(trained) == before


def test_what_is_no_run_is_one_line(trained: Path, tmp_path: Path) -> None:
    assert "is no run folder" in lrat("curve", tmp_path).complaint
    assert "named twice" in lrat("curve", trained, trained).complaint
    assert "'runs'" in lrat("curve").complaint.replace("'RUNS...'", "'runs'")

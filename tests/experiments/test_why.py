"""``lrat why``: one image end to end, beside what an evaluation has stored."""

import re
from pathlib import Path

import numpy as np
import pytest

from experiments.commands import contents, done, lrat
from experiments.own import write_npz
from lrat.evaluation import EvaluationResult
from lrat.evaluation.merge import complete
from lrat.experiments.why import explain
from lrat.files.write import read_table, write_table

SUITE = """
name: mix
attacks:
  saa: {attack: saa, steps: 5}
  square: {attack: square, queries: 30}
"""


def evaluation_of(run: Path, *arguments: object) -> EvaluationResult:
    out = done("evaluate", run, *arguments)
    return EvaluationResult.from_folder(Path(out.splitlines()[-1].removeprefix("evidence in ")))


def test_it_agrees_with_the_stored_evaluation(run: Path) -> None:
    stored = evaluation_of(run, "--limit", 20, "--seed", 3)
    clean = stored.outcomes.under("natural")
    right = int(clean.index[~clean.fooled][0])
    out = done("why", run, right)
    assert "every verdict is the stored one" in out
    assert "seed 3" in out
    assert f"image {right} of digits" in out
    story = explain(run, right, out=run / "again").parts.story
    for name in ("pgd-20", "cw-20"):
        row = stored.outcomes.under(name).at(np.array([right]))
        (attack,) = [attack for attack in story.attacks if attack.name == name]
        (path,) = attack.paths
        assert len(path.forward) == row.forwards[0]
        (line,) = [line for line in out.splitlines() if re.match(rf"{name} +(fooled|robust)", line)]
        verdict = "fooled" if row.fooled[0] else "robust"
        assert line.split()[1] == verdict
        assert f"{verdict} {row.margin[0]:+.4f}" in line
        # PGD's last step comes after its last forward: nearly there already.
        assert path.margin[-1] == pytest.approx(row.margin[0], abs=0.2)
    for ending in (".pdf", ".png", ".txt"):
        assert (run / "figures" / f"why-{right}{ending}").stat().st_size > 100


def test_a_stored_verdict_that_differs_is_named(run: Path) -> None:
    stored = evaluation_of(run, "--limit", 20)
    clean = stored.outcomes.under("natural")
    right = int(clean.index[~clean.fooled][0])
    (part,) = run.glob("evaluations/*/outcomes/pgd-20-*.parquet")
    columns = {name: column.copy() for name, column in read_table(part).items()}
    at = columns["index"] == right
    label, fooled = columns["label"][at], ~columns["fooled"][at]
    columns["fooled"][at] = fooled
    columns["prediction"][at] = np.where(fooled, (label + 1) % 10, label)
    columns["margin"][at] *= -1
    write_table(part.with_suffix(""), columns)
    (part.parent.parent / "summary.json").unlink()
    complete(part.parent.parent)
    out = done("why", run, right)
    assert "pgd-20: the stored verdict is" in out
    assert "every verdict is the stored one" not in out


def test_an_evaluation_with_a_damaged_identity_is_not_taken_as_missing(run: Path) -> None:
    evaluation_of(run, "--limit", 20)
    (identity,) = run.glob("evaluations/*/identity.json")
    identity.write_text(identity.read_text().replace('"suite"', '"suitf"'))
    assert "identity.json is damaged" in lrat("why", run, 17).complaint


def test_without_an_evaluation_it_is_quick_and_says_so(run: Path, tmp_path: Path) -> None:
    explanation = explain(run, 17, out=tmp_path / "there.png")
    assert [attack.name for attack in explanation.parts.story.attacks] == ["pgd-20", "cw-20"]
    assert explanation.parts.stored is None
    assert "nothing stored to compare with" in str(explanation)
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {
        "there.pdf",
        "there.png",
        "there.txt",
    }
    assert not (run / "figures").exists()


def test_the_largest_evaluation_with_the_image_is_taken(run: Path, tmp_path: Path) -> None:
    suite = tmp_path / "mix.yaml"
    suite.write_text(SUITE)
    mixed = evaluation_of(run, "--limit", 20, "--suite", suite)
    index = int(mixed.index[0])
    assert explain(run, index).parts.stored is None, "a suite file is taken when it is named"
    parts = explain(run, index, suite_name=str(suite)).parts
    assert parts.stored is not None
    assert [attack.name for attack in parts.story.attacks] == ["saa", "square"]
    assert not parts.differing
    tried = next(attack for attack in parts.story.attacks if attack.name == "saa")
    if tried.image is not None:
        assert len(tried.paths) == 3

    missing = sorted(set(range(1797)) - set(mixed.index.tolist()))
    assert missing
    quick = evaluation_of(run, "--limit", 10)
    outside = next(number for number in mixed.index if number not in quick.index)
    assert "is not among the 10 images" in str(explain(run, int(outside)))
    others = explain(run, index, threat="linf:0.1").parts
    assert others.stored is None
    assert others.threat == "Linf(epsilon=0.1)"


def test_own_images_and_class_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    from experiments.own import write_model

    write_model("own.py")
    write_npz("own.npz")
    done(
        *("train", "sat", "--data", "npz:own.npz", "--model", "own.py:make", "--epochs", 2),
        *("--threat", "linf:0.1", "--out", "run"),
    )
    out = done("why", "run", 2)
    assert "label 2 star" in out
    assert "star (label)" in out
    done("evaluate", "run")
    assert explain(Path("run"), 2).parts.stored is not None
    own = Path("own.py").read_text()
    Path("own.py").write_text(own.replace("self.head(self", "-self.head(self"))
    parts = explain(Path("run"), 2).parts
    assert parts.stored is None, "those rows are of another version of the model's file"
    assert not parts.differing
    Path("own.py").write_text(own)
    assert explain(Path("run"), 2).parts.stored is not None


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        ((99999,), "no test image of"),
        ((99999,), "the nearest is"),
        ((17, "--suite", "qick"), "unknown suite 'qick'"),
        ((17, "--checkpoint", "epoch-9"), "epoch-9"),
        ((17, "--threat", "linf:8"), "8/255"),
        (("seventeen",), "'index'"),
        ((-1,), "No such option"),
    ],
)
def test_wrong_arguments_are_one_line(
    trained: Path, arguments: tuple[object, ...], cause: str
) -> None:
    before = contents(trained)
    assert cause in lrat("why", trained, *arguments).complaint.replace("'INDEX'", "'index'")
    assert contents(trained) == before


def test_what_is_no_run_or_has_no_weights_is_one_line(run: Path, tmp_path: Path) -> None:
    assert "is no run folder" in lrat("why", tmp_path / "nothing", 0).complaint
    (run / "model.safetensors").unlink()
    for path in (run / "checkpoints").iterdir():
        path.unlink()
    assert "no checkpoint" in lrat("why", run, 17).complaint

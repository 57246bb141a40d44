import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evaluation.parts import THREAT, Calls, batches_of, images_and_labels, linear
from evaluation.test_resume import assert_same
from lrat.errors import RunFolderError
from lrat.evaluation import EvaluationResult, custom, evaluate_suite, quick, tier
from lrat.evaluation.merge import complete, merge
from lrat.evaluation.storage.store import read_part, read_parts, write_part

COUNT = 40


def evaluate(folder, rows, *, is_part=True, whole=COUNT, classes=2, suite=None, **settings):
    images, labels = images_and_labels(classes=classes)
    return evaluate_suite(
        linear(classes),
        batches_of(images[rows], labels[rows], 8, first=rows.start),
        suite or custom(THREAT, {"step": Calls(), "again": Calls()}),
        folder=folder,
        identity={"model": "abc"},
        is_part=is_part,
        whole=np.arange(whole),
        **settings,
    )


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    """Three parts on three machines."""
    folders = [tmp_path / name for name in ("a", "b", "c")]
    for folder, first, end in zip(folders, (0, 12, 24), (12, 24, 40), strict=True):
        evaluate(folder, slice(first, end))
    return folders


def test_parts_together_are_the_whole(parts, tmp_path):
    whole = evaluate(tmp_path / "whole", slice(0, COUNT), is_part=False)
    out = tmp_path / "out"
    joined = merge(parts, out)
    assert joined.is_finished
    assert_same(whole, joined.result)
    assert_same(whole, EvaluationResult.from_folder(out))
    assert str(joined) == str(whole)
    for name in ("summary.json", "identity.json", "extent.json"):
        assert (out / name).read_text() == (tmp_path / "whole" / name).read_text()
    assert not any((folder / "summary.json").exists() for folder in parts)


def test_what_is_missing_is_counted_by_attack(parts, tmp_path):
    (lost,) = (parts[0] / "outcomes").glob("again-00000008-*")
    gone = len(read_part(lost))
    lost.unlink()
    joined = merge(parts[:2], tmp_path / "out")
    assert not joined.is_finished
    assert joined.missing == {"natural": 16, "step": 16, "again": 16 + gone}
    assert str(joined) == (
        f"{24 - gone} of 40 images are done with every attack; missing are images of natural 16, "
        f"step 16, again {16 + gone}: evaluate the other parts and merge them too"
    )
    assert joined.done == 24 - gone
    with pytest.raises(RunFolderError, match="not finished"):
        EvaluationResult.from_folder(tmp_path / "out")


def test_an_unfinished_folder_has_no_result_of_its_own(tmp_path):
    """Fooled images are done sooner, so the images that are done are no random sample."""
    evaluate(tmp_path, slice(0, 24), chunk=2)
    half = max((tmp_path / "outcomes").glob("again-0000001*"), key=lambda path: path.name)
    stopped = read_part(half)
    half.unlink()
    joined = complete(tmp_path)
    assert joined.result is None
    assert joined.done == 24 - len(stopped)
    assert complete(tmp_path, range(8)).result.index.tolist() == list(range(8))
    with pytest.raises(RunFolderError, match=f"lacks outcomes of image {stopped.index[0]} "):
        complete(tmp_path, stopped.index.tolist())


def test_parts_may_come_one_after_the_other(parts, tmp_path):
    out = tmp_path / "out"
    finished = [merge([folder], out).is_finished for folder in parts]
    assert finished == [False, False, True]
    assert len(EvaluationResult.from_folder(out).index) == COUNT


def test_the_joined_folder_may_be_one_of_the_parts(parts):
    assert merge(parts, parts[0]).is_finished
    assert len(EvaluationResult.from_folder(parts[0]).index) == COUNT


def test_an_evaluation_goes_on_from_what_was_joined(parts, tmp_path):
    out, attack = tmp_path / "out", Calls()
    merge(parts[1:], out)
    suite = custom(THREAT, {"step": attack, "again": attack})
    result = evaluate(out, slice(0, COUNT), is_part=False, suite=suite)
    right = ~result.outcomes.under("natural").fooled[:12]
    assert attack.images == 2 * right.sum()


def test_overlaps_are_fine(parts, tmp_path):
    evaluate(tmp_path / "overlap", slice(4, 30))
    joined = merge([*parts, tmp_path / "overlap"], tmp_path / "out")
    assert joined.is_finished
    assert len(joined.result.outcomes) == 3 * COUNT
    assert complete(tmp_path / "out").is_finished


@pytest.mark.parametrize("column", ["fooled", "label"])
def test_rows_that_contradict_each_other_are_refused(parts, tmp_path, column):
    rows = read_parts(parts[0])
    step = rows.under("step")
    image = step.index[3]
    step = replace(step, margin_clean=abs(step.margin_clean), prediction=1 - step.prediction)
    changed = {
        "fooled": replace(step, fooled=~step.fooled, margin=-step.margin),
        "label": replace(step, label=1 - step.label),
    }[column]
    write_part(tmp_path / "odd", changed.select(step.index == image))
    for path in parts[1].glob("*.json"):
        (tmp_path / "odd" / path.name).write_text(path.read_text())
    with pytest.raises(
        RunFolderError, match=f"image {image} under step has {column} .* \\(1 such rows\\)"
    ):
        merge([*parts, tmp_path / "odd"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_another_identity_is_refused_with_the_difference(parts, tmp_path):
    evaluate(tmp_path / "other", slice(0, 12), seed=3)
    with pytest.raises(RunFolderError, match=r"different evaluations \(seed: 0 there, 3 here\)"):
        merge([parts[0], tmp_path / "other"], tmp_path / "out")
    with pytest.raises(RunFolderError, match=r"different evaluations \(seed: 3 there, 0 here\)"):
        merge(parts, tmp_path / "other")


def test_evaluations_of_other_images_are_refused(parts, tmp_path):
    evaluate(tmp_path / "other", slice(0, 12), whole=30)
    with pytest.raises(RunFolderError, match=r"is of 40 images and .* of 30, and not of the same"):
        merge([parts[0], tmp_path / "other"], tmp_path / "out")


def test_a_folder_that_holds_more_than_it_should_is_refused(tmp_path):
    evaluate(tmp_path, slice(0, 12), whole=8)
    with pytest.raises(RunFolderError, match="other images than the 8 that it is meant to"):
        complete(tmp_path)


def test_an_unfinished_folder_of_unknown_extent_is_refused(parts, tmp_path):
    """A part must not be taken for the whole."""
    for folder in parts:
        (folder / "extent.json").unlink()
    with pytest.raises(RunFolderError, match="does not say of how many images it is"):
        merge(parts, tmp_path / "out")


def test_finished_folders_of_an_earlier_version_are_joined(tmp_path):
    result = evaluate(tmp_path / "whole", slice(0, COUNT), is_part=False)
    (tmp_path / "whole" / "extent.json").unlink()
    joined = merge([tmp_path / "whole"], tmp_path / "out")
    assert joined.is_finished
    assert_same(result, joined.result)


def test_what_is_no_evaluation_is_named(parts, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunFolderError, match=r"identity\.json is missing"):
        merge([*parts, tmp_path / "empty"], tmp_path / "out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    (tmp_path / "file").write_text("x")
    for holder in ("mine", "file"):
        with pytest.raises(RunFolderError, match="holds something else"):
            merge(parts, tmp_path / holder)


def test_adversarial_images_are_joined_too(tmp_path):
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder, rows in zip(folders, (slice(0, 16), slice(16, 40)), strict=True):
        evaluate(folder, rows, suite=quick(THREAT), keep_images=True)
    merge(folders, tmp_path / "out")
    names = sorted(path.name for folder in folders for path in (folder / "images").iterdir())
    assert sorted(path.name for path in (tmp_path / "out" / "images").iterdir()) == names
    assert names


def test_notes_come_with_the_parts(tmp_path):
    """The process that attacks notes the replaced losses of a model of two classes."""
    for name, rows in (("a", slice(0, 16)), ("b", slice(16, 40))):
        evaluate(tmp_path / name, rows, suite=tier(THREAT, 3))
    joined = merge([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    assert joined.result.notes
    assert joined.result.notes[0].startswith("apgd-t aims at 1 wrong class")
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["notes"] == list(joined.result.notes)

import sys

import numpy as np
import pytest
import torch

from evaluation.parts import THREAT, Calls, batches_of, images_and_labels, linear
from evaluation.results import assert_equal_outcomes
from lrat.errors import RunFolderError, SettingError
from lrat.evaluation import EvaluationResult, custom, evaluate_suite
from lrat.files.read import read_json


def evaluate(folder, attack, size=16, count=40, **settings):
    images, labels = images_and_labels()
    suite = custom(THREAT, {"step": attack, "again": attack})
    batches = batches_of(images[:count], labels[:count], size)
    return evaluate_suite(linear(), batches, suite, folder=folder, **settings)


def assert_same(one, other):
    assert_equal_outcomes(one, other)
    assert one.accuracy == other.accuracy


class StopAfter:
    """Interrupts the evaluation after so many reports."""

    def __init__(self, reports):
        self.left = reports

    def __call__(self, progress):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def test_a_finished_folder_is_reused_without_attacking(tmp_path):
    first = evaluate(tmp_path, Calls())
    attack = Calls()
    second = evaluate(tmp_path, attack)
    assert attack.images == 0
    assert_same(first, second)


@pytest.mark.parametrize("reports", [1, 2, 5, 7])
@pytest.mark.parametrize("size", [16, 7])
def test_an_interrupted_evaluation_continues(tmp_path, reports, size):
    whole_attack, before, after = Calls(), Calls(), Calls()
    whole = evaluate(None, whole_attack)
    with pytest.raises(KeyboardInterrupt):
        evaluate(tmp_path, before, on_progress=StopAfter(reports))
    assert not (tmp_path / "summary.json").exists()
    with pytest.raises(RunFolderError, match="not finished"):
        EvaluationResult.from_folder(tmp_path)
    assert_same(whole, evaluate(tmp_path, after, size=size))
    assert before.images + after.images == whole_attack.images
    assert_same(whole, EvaluationResult.from_folder(tmp_path))


def test_a_folder_read_back_gives_the_same_result(tmp_path):
    result = evaluate(tmp_path, Calls(), identity={"model": "abc", "data": "d"}, seed=3)
    back = EvaluationResult.from_folder(tmp_path)
    assert_same(result, back)
    assert back.identity == result.identity
    assert str(back) == str(result)
    assert (back.suite, back.seed, back.threat) == ("custom", 3, "Linf(epsilon=16/255)")
    assert read_json(tmp_path / "summary.json") == result.summary()


def test_without_pyarrow_the_parts_are_npz_and_mix_with_parquet(tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        evaluate(tmp_path, Calls(), on_progress=StopAfter(2))
    (tmp_path / "outcomes").rename(tmp_path / "kept")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    plain = evaluate(tmp_path, Calls())
    assert {path.suffix for path in (tmp_path / "outcomes").iterdir()} == {".npz"}
    monkeypatch.undo()
    for path in (tmp_path / "kept").iterdir():
        path.rename(tmp_path / "outcomes" / path.name)
    assert_same(plain, EvaluationResult.from_folder(tmp_path))


def test_parts_of_two_processes_merge_in_one_folder(tmp_path):
    images, labels = images_and_labels()
    attack = Calls()
    suite = custom(THREAT, {"step": attack})
    for half in (slice(0, 16), slice(16, 40)):
        batches = batches_of(images[half], labels[half], 16, first=half.start)
        folder = tmp_path / str(half.start)
        evaluate_suite(linear(), batches, suite, folder=folder)
    for part in (tmp_path / "16" / "outcomes").iterdir():
        part.rename(tmp_path / "0" / "outcomes" / part.name)
    cost = attack.images
    merged = evaluate_suite(linear(), batches_of(images, labels, 16), suite, folder=tmp_path / "0")
    assert attack.images == cost
    whole = evaluate_suite(linear(), batches_of(images, labels, 16), suite)
    assert_same(whole, merged)


def test_another_identity_is_refused_with_the_difference(tmp_path):
    evaluate(tmp_path, Calls(), identity={"model": "abc"})
    with pytest.raises(RunFolderError, match="model: abc there, xyz here"):
        evaluate(tmp_path, Calls(), identity={"model": "xyz"})
    with pytest.raises(RunFolderError, match="seed: 0 there, 5 here"):
        evaluate(tmp_path, Calls(), identity={"model": "abc"}, seed=5)
    with pytest.raises(RunFolderError, match=r"attacks\.step: .*epsilon=0\.01"):
        evaluate(tmp_path, Calls(epsilon=0.01), identity={"model": "abc"})


def test_the_evaluations_own_identity_cannot_be_overwritten():
    with pytest.raises(SettingError, match="identity holds seed"):
        evaluate(None, Calls(), identity={"seed": "1"})


def test_fewer_images_than_the_folder_knows_are_refused(tmp_path):
    evaluate(tmp_path, Calls())
    with pytest.raises(RunFolderError, match="did not see"):
        evaluate(tmp_path, Calls(), count=32)


def test_other_labels_than_the_folder_knows_are_refused(tmp_path):
    evaluate(tmp_path, Calls())
    images, labels = images_and_labels()
    suite = custom(THREAT, {"step": Calls(), "again": Calls()})
    with pytest.raises(RunFolderError, match=r"image 0 had label \d and has \d now"):
        evaluate_suite(linear(), batches_of(images, 1 - labels), suite, folder=tmp_path)


def test_a_stored_verdict_is_kept_and_not_computed_again(tmp_path):
    """Natural outcomes of an earlier run decide which images the remaining members attack."""
    before, after = Calls(), Calls()
    with pytest.raises(KeyboardInterrupt):
        evaluate(tmp_path, before, size=64, on_progress=StopAfter(1))
    assert before.images == 0
    result = evaluate(tmp_path, after, size=64)
    right = (~result.outcomes.under("natural").fooled).sum()
    assert after.images == 2 * right


def test_a_folder_that_is_no_evaluation_is_named(tmp_path):
    with pytest.raises(RunFolderError, match=r"identity\.json is missing"):
        EvaluationResult.from_folder(tmp_path)


@pytest.mark.parametrize("attack", ["natural", "step"])
def test_a_missing_part_is_told_and_made_anew(tmp_path, attack):
    """Of 40 images in batches of 16, a part holds 16 or 8."""
    result = evaluate(tmp_path, Calls())
    part = sorted((tmp_path / "outcomes").glob(f"{attack}-*"))[0]
    part.unlink()
    with pytest.raises(RunFolderError, match=f"with 40 images and holds 24 of {attack}: parts are"):
        EvaluationResult.from_folder(tmp_path)
    evaluate(tmp_path, Calls())
    assert_same(result, EvaluationResult.from_folder(tmp_path))


def test_parts_hold_no_pickles(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    evaluate(tmp_path, Calls())
    parts = list((tmp_path / "outcomes").iterdir())
    assert parts
    for path in parts:
        with np.load(path, allow_pickle=False) as archive:
            assert all(archive[name].dtype.kind in "ifbU" for name in archive)


def test_outcomes_are_written_on_the_cpu_as_numpy():
    result = evaluate(None, Calls())
    assert not any(
        isinstance(column, torch.Tensor) for column in result.outcomes.columns().values()
    )

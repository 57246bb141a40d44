"""Images kept for reports: what the attacks returned, whatever happened in between."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from evaluation.parts import THREAT, Calls, batches_of, images_and_labels, linear
from lrat.attacks import Cascade
from lrat.evaluation import custom, evaluate_suite, quick
from lrat.evaluation.merge import merge
from lrat.evaluation.storage.gallery import Gallery, gather, read_gallery
from lrat.files import archives

CHOSEN = np.array([0, 3, 6, 17, 20, 32, 39])
STEP = custom(THREAT, {"step": Calls()})


def gallery(index: np.ndarray = CHOSEN, fill: bool = False) -> Gallery:
    return Gallery(index=index, about={"of": 40}, fill=fill)


def evaluate(folder: Path, suite=STEP, size: int = 20, first: int = 0, last: int = 40, **settings):
    images, labels = (part[first:last] for part in images_and_labels())
    batches = batches_of(images, labels, size, first=first)
    return evaluate_suite(linear(), batches, suite, folder=folder, chunk=10, **settings)


def rows_of(folder: Path) -> dict[tuple[str, int], tuple[np.ndarray, np.ndarray]]:
    """Image and logits by attack and number."""
    pictures, damaged = read_gallery(folder)
    assert pictures is not None
    assert damaged == []
    names = zip(pictures.attack.tolist(), pictures.index.tolist(), strict=True)
    return dict(zip(names, zip(pictures.image, pictures.logits, strict=True), strict=True))


def assert_same(rows, others) -> None:
    assert rows.keys() == others.keys()
    for name, parts in rows.items():
        for part, other in zip(parts, others[name], strict=True):
            np.testing.assert_allclose(part, other, atol=1e-6, err_msg=str(name))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gallery") / "whole"
    evaluate(folder, quick(THREAT), gallery=gallery(), keep_images=True)
    return folder


def test_it_holds_what_the_attacks_returned_with_the_models_logits(whole: Path) -> None:
    rows, model = rows_of(whole), linear()
    kept = {}
    for path in (whole / "images").glob("*"):
        held = load_file(path)
        for index, image in zip(held["index"].tolist(), held["images"], strict=True):
            kept[path.name.rpartition("-0")[0], index] = image.numpy()
    images, labels = images_and_labels()
    with torch.no_grad():
        right = (model(images).argmax(1) == labels).numpy()
    assert 0 < right[CHOSEN].sum() < len(CHOSEN), "some are wrong when clean and not attacked"
    attacked = {(name, i) for name in ("pgd-20", "cw-20") for i in CHOSEN[right[CHOSEN]].tolist()}
    assert set(rows) == attacked | {("natural", index) for index in CHOSEN.tolist()}
    for (attack, index), (image, logits) in rows.items():
        expected = images[index].numpy() if attack == "natural" else kept[attack, index]
        np.testing.assert_array_equal(image, expected)
        with torch.no_grad():
            answer = model(torch.from_numpy(image)[None])[0].numpy()
        np.testing.assert_allclose(logits, answer, atol=1e-6)
    assert [path.suffix for path in sorted((whole / "gallery").iterdir())] == [".json", ".npz"]


def test_no_outcome_and_no_identity_depends_on_it(tmp_path: Path) -> None:
    plain = evaluate(tmp_path / "plain")
    with_gallery = evaluate(tmp_path / "with", gallery=gallery())
    for name, column in plain.outcomes.columns().items():
        np.testing.assert_array_equal(column, with_gallery.outcomes.columns()[name])
    for name in ("identity.json", "summary.json"):
        assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "with" / name).read_bytes()


def test_it_is_whole_after_an_interruption(tmp_path: Path) -> None:
    calls = []

    class Stops(Calls):
        def __call__(self, model, images, labels):
            calls.append(len(images))
            if len(calls) == 3:
                raise KeyboardInterrupt
            return super().__call__(model, images, labels)

    suite = custom(THREAT, {"step": Stops()})
    with pytest.raises(KeyboardInterrupt):
        evaluate(tmp_path / "again", suite, gallery=gallery())
    assert len(list((tmp_path / "again" / "gallery").glob("*.npz"))) > 1
    calls += [0] * 3
    evaluate(tmp_path / "again", suite, gallery=gallery())
    evaluate(tmp_path / "once", gallery=gallery())
    assert_same(rows_of(tmp_path / "again"), rows_of(tmp_path / "once"))
    assert len(list((tmp_path / "again" / "gallery").glob("*.npz"))) == 1


def test_a_finished_evaluation_gets_one_only_when_asked_to(tmp_path: Path) -> None:
    attack = Calls()
    suite = custom(THREAT, {"step": attack})
    before = evaluate(tmp_path / "old", suite)
    attack.images = 0
    evaluate(tmp_path / "old", suite, gallery=gallery())
    assert attack.images == 0
    assert read_gallery(tmp_path / "old") == (None, [])
    files = {path: path.read_bytes() for path in (tmp_path / "old").rglob("*.parquet")}
    after = evaluate(tmp_path / "old", suite, gallery=gallery(fill=True))
    rows = rows_of(tmp_path / "old")
    assert attack.images == sum(name == "step" for name, _ in rows) > 0
    assert {path: path.read_bytes() for path in (tmp_path / "old").rglob("*.parquet")} == files
    assert str(before) == str(after)
    attack.images = 0
    evaluate(tmp_path / "old", suite, gallery=gallery(fill=True))
    assert attack.images == 0, "nothing is missing any more"
    evaluate(tmp_path / "new", suite, gallery=gallery())
    assert_same(rows, rows_of(tmp_path / "new"))


def test_parts_of_several_machines_are_merged(whole: Path, tmp_path: Path) -> None:
    for name, first, last in (("one", 0, 20), ("two", 20, 40)):
        evaluate(
            tmp_path / name,
            quick(THREAT),
            first=first,
            last=last,
            gallery=gallery(),
            is_part=True,
            whole=np.arange(40),
        )
    merge([tmp_path / "one", tmp_path / "two"], tmp_path / "both")
    assert_same(rows_of(tmp_path / "both"), rows_of(whole))
    assert len(list((tmp_path / "both" / "gallery").glob("*.npz"))) == 1


def test_of_a_cascade_every_stage_that_met_an_image_is_there(tmp_path: Path) -> None:
    weak, strong = Calls(THREAT.epsilon / 8), Calls()
    suite = custom(THREAT, {"both": Cascade(members={"weak": weak, "strong": strong})})
    result = evaluate(tmp_path / "cascade", suite, gallery=gallery(np.arange(40)))
    rows = rows_of(tmp_path / "cascade")
    right = result.outcomes.under("natural")
    met = {index for name, index in rows if name == "both.weak"}
    assert met == set(right.index[~right.fooled].tolist())
    left = result.outcomes.under("both.weak")
    survivors = {index for name, index in rows if name == "both.strong"}
    assert survivors == set(left.index[~left.fooled].tolist())
    assert 0 < len(survivors) < len(met)


def test_a_damaged_part_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    evaluate(tmp_path / "some", gallery=gallery(CHOSEN[:2]), is_part=True)
    parts = sorted((tmp_path / "some" / "gallery").glob("*.npz"))
    parts[0].write_bytes(parts[0].read_bytes()[:40])
    pictures, damaged = read_gallery(tmp_path / "some")
    assert damaged == [parts[0]]
    assert pictures is not None
    assert len(pictures.index) > 0


def test_without_images_to_keep_there_is_no_folder(tmp_path: Path) -> None:
    evaluate(tmp_path / "none", gallery=gallery(np.array([], np.int64)))
    assert not (tmp_path / "none" / "gallery").exists()
    assert read_gallery(tmp_path / "none") == (None, [])


def _columns(**others) -> dict[str, np.ndarray]:
    """Two rows of a gallery as large as those of ``evaluate``."""
    rows = {
        "attack": np.array(["natural", "step"]),
        "index": np.array([6, 6]),
        "image": np.full((2, 1, 4, 4), 0.5, np.float32),
        "logits": np.zeros((2, 3), np.float32),
    }
    return {**rows, **others}


def _bomb(path: Path) -> None:
    """50 kB that would expand to 50 MB, with a limit of 10 MB in the test."""
    np.savez_compressed(path, **_columns(image=np.zeros((2, 1, 2500, 2500), np.float32)))


def _lying(path: Path) -> None:
    """Its header speaks of 10^12 images."""
    np.savez(path, **_columns())
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["image.npy"] = members["image.npy"].replace(b"(2, 1, 4, 4)", b"(10000000000" + b"00,)")
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


ODD = {
    "a bomb": _bomb,
    "a header that lies": _lying,
    "larger images": lambda path: np.savez(path, **_columns(image=np.zeros((2, 1, 9, 9), "f4"))),
    "more logits": lambda path: np.savez(path, **_columns(logits=np.zeros((2, 7), "f4"))),
    "images of texts": lambda path: np.savez(path, **_columns(image=np.full((2, 1, 4, 4), "x"))),
    "numbers as names": lambda path: np.savez(path, **_columns(attack=np.arange(2))),
    "numbers of fractions": lambda path: np.savez(path, **_columns(index=np.array([6.0, 6.0]))),
    "fewer logits": lambda path: np.savez(path, **_columns(logits=np.zeros((1, 3), "f4"))),
    "a single number": lambda path: np.savez(path, **_columns(index=np.array(6))),
    "empty images": lambda path: np.savez(path, **_columns(image=np.zeros((2, 1, 4, 0), "f4"))),
    "images of NaN": lambda path: np.savez(path, **_columns(image=np.full((2, 1, 4, 4), np.nan))),
    "no images": lambda path: np.savez(path, index=np.array([6])),
    "a folder": lambda path: path.mkdir(),
}


@pytest.mark.parametrize("write", ODD.values(), ids=ODD)
def test_an_odd_part_is_told_and_the_others_are_read_and_joined(
    write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "_ALWAYS_ALLOWED", 10**7)
    evaluate(tmp_path, gallery=gallery())
    before = rows_of(tmp_path)
    odd = tmp_path / "gallery" / "x.npz"
    write(odd)
    pictures, damaged = read_gallery(tmp_path)
    assert damaged == [odd]
    assert pictures is not None
    assert len(pictures.index) == len(before)
    gather(tmp_path)
    assert odd.exists()
    evaluate(tmp_path, gallery=gallery())

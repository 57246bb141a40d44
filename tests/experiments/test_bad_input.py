"""What bad input gets: one line with cause and cure, status 2, nothing written."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from experiments.commands import TINY, contents, done, lrat
from experiments.conftest import COMMAND
from experiments.own import arrays, write_model, write_npz
from lrat.files.read import read_json
from lrat.files.write import write_json


@pytest.fixture(scope="module")
def place(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that can be wrong, and a good run."""
    place = tmp_path_factory.mktemp("bad")
    train, test = arrays(120), arrays(45)
    images, labels = train["images"], train["labels"]
    spoiled = np.where(test["images"] > 0.85, np.nan, test["images"])
    wrong: dict[str, dict[str, object]] = {
        "good": {},
        "bytes": {"train_images": (images * 255).astype(np.float32)},
        "normalised": {"test_images": test["images"] - 0.5},
        "nan": {"test_images": spoiled},
        "negative": {"train_labels": labels - 1},
        "beyond": {"train_labels": labels + 1},
        "halves": {"train_labels": labels + 0.5},
        "short": {"train_labels": labels[:100]},
        "empty": {"train_images": images[:0], "train_labels": labels[:0]},
        "no-test": {"test_images": test["images"][:0], "test_labels": test["labels"][:0]},
        "flat": {"train_images": images.reshape(120, 90)},
        "shapes": {"test_images": test["images"][:, :, :4]},
        "objects": {"train_images": np.array([None] * 120)},
        "other-keys": {"test_images": None, "test_labels": None},
        "test-only": {"train_images": None, "train_labels": None},
    }
    for name, changed in wrong.items():
        write_npz(place / f"{name}.npz", **changed)
    whole = (place / "good.npz").read_bytes()
    (place / "text.npz").write_text("these are my images")
    (place / "cut.npz").write_bytes(whole[: len(whole) // 2])
    np.save(place / "bare.npy", images)
    os.replace(place / "bare.npy", place / "bare.npz")
    (place / "object.yaml").write_text("seed: !!python/object/apply:os.mkdir [hacked]\n")
    (place / "list.yaml").write_text("- seed\n")
    (place / "torn.yaml").write_text("method: {name: sat\nseed: 3\n")
    (place / "binary.yaml").write_bytes(bytes(range(256)))
    (place / "unknown.yaml").write_text("trainings: {lr: 3}\n")
    (place / "section.yaml").write_text("data: digits\n")
    write_model(place / "model.py")
    (place / "syntax.py").write_text("def make(:\n")
    (place / "leaving.py").write_text("import sys\nsys.exit(0)\n")
    (place / "text.safetensors").write_text("these are my weights")
    save_file({"head.weight": np.zeros((3, 8), np.float32)}, place / "few.safetensors")
    shutil.copytree(trained, place / "run")
    (place / "notes").mkdir()
    (place / "notes" / "note.txt").write_text("mine")
    return place


TRAIN = ("train", "sat", *TINY, "--epochs", "1", "--out", "out")
OWN = (*TRAIN, "--threat", "linf:0.1", "--set", "model.width=null")
FILE = ("evaluate", "--threat", "linf:0.1", "--out", "out", "--limit", "20", "--model-file")


def data(name: str) -> tuple[str, ...]:
    return (*TRAIN, "--model", "model.py:make", "--threat", "linf:0.1", "--data", f"npz:{name}.npz")


def digits(model: str) -> tuple[str, ...]:
    return (*TRAIN, "--model", f"model.py:{model}")


CASES = {
    # Names
    "method": (
        ("train", "lrat-sa", "--out", "out"),
        "unknown method 'lrat-sa': did you mean 'lrat-saa'",
    ),
    "data": ((*TRAIN, "--data", "digit"), "unknown data 'digit': did you mean 'digits'"),
    "model": (
        (*TRAIN, "--model", "resnet18"),
        "unknown model 'resnet18': did you mean 'resnet-18'",
    ),
    "suite": (("evaluate", "run", "--suite", "teir"), "unknown suite 'teir': did you mean 'tier'"),
    "suite of a demo": (("demo", "--suite", "all", "--out", "out"), "unknown suite 'all': Known:"),
    "monitored attack": (
        (*TRAIN, "--set", "training.monitor.attacks=[pgd20]"),
        "unknown attack 'pgd20': did you mean 'pgd-20'",
    ),
    "device": ((*TRAIN, "--device", "gpu"), "device 'gpu': use auto, cpu or cuda"),
    "device that is missing": (
        (*TRAIN, "--device", "meta"),
        "device 'meta': PyTorch cannot use it here; use cpu or auto",
    ),
    "checkpoint": (
        ("evaluate", "run", "--checkpoint", "epoch-9"),
        "no checkpoint 'epoch-9' in run/checkpoints: there are last, selected, epoch-1, epoch-2",
    ),
    "anchor": (
        (*TRAIN, "--set", "method.name=lrat-saa", "--set", "method.anchor=cw"),
        "anchor='cw'",
    ),
    # Settings
    "setting": (
        (*TRAIN, "--set", "training.learning_rate=1"),
        "unknown setting 'training.learning_rate'",
    ),
    "setting with a near name": (
        (*TRAIN, "--set", "training.epoch=1"),
        "unknown setting 'training.epoch': did you mean 'training.epochs'",
    ),
    "section": ((*TRAIN, "--set", "trainin.lr=1"), "unknown setting 'trainin': did you mean 'trai"),
    "setting without a value": ((*TRAIN, "--set", "seed"), "--set 'seed': write key=value"),
    "setting of another type": ((*TRAIN, "--set", "training.lr=high"), "training.lr='high': "),
    "setting out of range": ((*TRAIN, "--set", "training.lr=-1"), "training.lr=-1: "),
    "setting that makes an object": (
        (*TRAIN, "--set", "seed=!!python/object/apply:os.mkdir [hacked]"),
        "is no YAML value",
    ),
    "no held-out images to select by": (
        (*TRAIN, "--set", "data.validation=0"),
        "needs held-out images: set data.validation above 0, or training.selection=last",
    ),
    "everything held out": ((*TRAIN, "--set", "data.validation=0.9999"), "leaves none to train on"),
    # Threats
    "pixel units": ((*TRAIN, "--threat", "linf:8"), "linf:8/255 was probably meant"),
    "pixel units in an evaluation": (
        ("evaluate", "run", "--threat", "linf:8"),
        "linf:8/255 was probably meant",
    ),
    "threat": ((*TRAIN, "--threat", "8/255"), "threat '8/255': write linf:8/255"),
    "norm": ((*TRAIN, "--threat", "l3:1"), "threat 'l3:1': write linf:8/255"),
    "negative epsilon": (
        (*TRAIN, "--threat", "linf:-0.1"),
        "epsilon=-0.1): must be a finite number >= 0",
    ),
    "epsilon that is no number": ((*TRAIN, "--threat", "linf:8/0"), "'8/0' is no number"),
    "no threat": ((*TRAIN, "--data", "npz:good.npz"), "has no customary threat: pass --threat"),
    # Images and labels
    "pixels to 255": (
        data("bytes"),
        "(train): float images must lie in [0, 1], but range over [0.0",
    ),
    "normalised pixels": (
        data("normalised"),
        "(test): float images must lie in [0, 1], but range o",
    ),
    "NaN": (data("nan"), "pixels are NaN or infinite, in 45 images (the others range over [5.7"),
    "label -1": (data("negative"), "labels must lie in 0..2, but -1 occur"),
    "label K": (data("beyond"), "labels must lie in 0..2, but 3 occur"),
    "labels that are no integers": (data("halves"), "class numbers must be integers"),
    "too few labels": (data("short"), "120 images but 100 labels"),
    "no training images": (data("empty"), "empty.npz (train) is empty"),
    "no test images": (data("no-test"), "no-test.npz (test) is empty"),
    "flat images": (data("flat"), "images must be [N C H W], but have shape [120, 90]"),
    "two shapes": (
        data("shapes"),
        "images are [3, 6, 5], those of shapes.npz (test) are [3, 4, 5]",
    ),
    "pickled arrays": (data("objects"), "train_images is an array of Python objects"),
    "keys": (data("other-keys"), "its keys are class_names, train_images, train_labels"),
    "nothing to train on": (data("test-only"), "holds images for evaluation only"),
    # Files
    "text as npz": (data("text"), "text.npz is not an .npz file"),
    "half an npz": (data("cut"), "cut.npz is not an .npz file"),
    "npy as npz": (data("bare"), "bare.npz is not an .npz file"),
    "missing npz": (data("nowhere"), "nowhere.npz does not exist"),
    "no root": ((*TRAIN, "--data", "cifar10"), "set data.root (--data-root ROOT)"),
    "root without files": (
        (*TRAIN, "--data", "fashion-mnist", "--data-root", "notes"),
        "notes/FashionMNIST/raw: put the official train-images-idx3-ubyte",
    ),
    "YAML that makes objects": (
        ("train", "--config", "object.yaml", "--out", "out"),
        "object.yaml is no plain YAML: could not determine a constructor for the tag",
    ),
    "YAML list": (("train", "--config", "list.yaml", "--out", "out"), "must be a mapping"),
    "torn YAML": (("train", "--config", "torn.yaml", "--out", "out"), "torn.yaml is no plain YAML"),
    "binary YAML": (("train", "--config", "binary.yaml", "--out", "out"), "cannot be read as text"),
    "missing YAML": (
        ("train", "--config", "gone.yaml", "--out", "out"),
        "gone.yaml cannot be read",
    ),
    "unknown key in YAML": (
        ("train", "--config", "unknown.yaml", "--out", "out"),
        "unknown setting 'trainings': did you mean 'training'",
    ),
    "value for a section in YAML": (
        ("train", "--config", "section.yaml", "--out", "out"),
        "data='digits': must be a section of settings, as data.name",
    ),
    "text as weights": (
        (*FILE, "model.py:make", "--data", "npz:good.npz", "--weights", "text.safetensors"),
        "text.safetensors is no safetensors file",
    ),
    "missing weights": (
        (*FILE, "model.py:make", "--data", "npz:good.npz", "--weights", "gone.safetensors"),
        "gone.safetensors does not exist",
    ),
    "weights of another network": (
        (*FILE, "model.py:make", "--data", "npz:good.npz", "--weights", "run/model.safetensors"),
        "run/model.safetensors does not fit Own: ",
    ),
    "weights that lack some": (
        (*FILE, "model.py:make", "--data", "npz:good.npz", "--weights", "few.safetensors"),
        "few.safetensors does not fit Own: ",
    ),
    # Models
    "model for other images": (digits("make"), "the model fails on 2 images [1, 8, 8]: "),
    "model with too few classes": (digits("narrow"), "the model knows 3 classes, digits has 10"),
    "model without logits": (
        digits("picture"),
        "the model returns shape (2, 10, 8, 8) for 2 images",
    ),
    "model with nothing to train": (digits("frozen"), "there is nothing to train"),
    "model function that fails": (digits("failing"), "failing() fails: OSError: the disk is gone"),
    "model function with arguments": (digits("needing"), "missing 1 required positional argument"),
    "model that is a number": (digits("number"), "number gives int, not an nn.Module"),
    "missing model function": (digits("gone"), "model.py has no 'gone'"),
    "missing model file": ((*TRAIN, "--model", "gone.py:make"), "there is no Python file gone.py"),
    "model file that is no Python": (
        (*TRAIN, "--model", "syntax.py:make"),
        "syntax.py fails: SyntaxError",
    ),
    "model file that exits": ((*TRAIN, "--model", "leaving.py:make"), "fails: SystemExit: 0"),
    "BatchNorm on a single image": (
        (*digits("normed"), "--set", "training.batch_size=61"),
        "the model fails in training on the last batch of an epoch, 1 of 1221 images",
    ),
    "small-cnn for oblong images": (
        (*TRAIN, "--data", "npz:good.npz", "--threat", "linf:0.1"),
        "model 'small-cnn' needs square images, 'npz:good.npz' has 6x5",
    ),
    "evaluated model for other images": (
        (*FILE, "model.py:make", "--data", "digits"),
        "the model fails on 2 images [1, 8, 8]: ",
    ),
    "evaluated model with too few classes": (
        (*FILE, "model.py:narrow", "--data", "digits"),
        "the model knows 3 classes, digits has 10",
    ),
    # Folders and requests
    "run of another configuration": (
        (*COMMAND, "--out", "run", "--set", "training.lr=0.2", "--seed", "7"),
        "another configuration (seed: 7 asked, 0 in the folder; training.lr: 0.2 asked, 0.1 in the",
    ),
    "folder of something else": (
        (*COMMAND, "--out", "notes"),
        "notes holds files of something else: choose another --out",
    ),
    "a file as folder": ((*COMMAND, "--out", "model.py"), "model.py is a file"),
    "a folder below a file": ((*COMMAND, "--out", "model.py/run"), "cannot write model.py/run/"),
    "a name too long": (("report", "a" * 300), "too long"),
    "no run": (("evaluate", "notes"), "notes is no run folder: it has no config.yaml"),
    "nothing to evaluate": (("evaluate",), "name either a run folder"),
    "no data to evaluate on": (("evaluate", "--model-file", "model.py:make"), "needs --data"),
    "nothing to compare": (("compare", "run", "run"), "run `lrat evaluate run`"),
}


@pytest.mark.parametrize(("command", "cause"), CASES.values(), ids=CASES.keys())
def test_bad_input_is_refused_in_one_line(
    command: tuple[str, ...], cause: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    before = contents(place)
    try:
        answer = lrat(*command)
        written = {name for name in ("out", "hacked") if (place / name).exists()}
    finally:
        for name in ("out", "hacked"):
            shutil.rmtree(place / name, ignore_errors=True)
    assert written == set()
    assert cause in answer.complaint
    assert answer.out == ""
    assert contents(place) == before


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ((*TRAIN, "--set", "training.lr=1e30"), "epoch 1, step 2: the loss of term 'pgd' became"),
        (digits("breaking"), "epoch 1, step 7: the loss of term 'pgd' became NaN or infinite"),
        (
            (*digits("breaking"), "--set", "method.name=lrat-saa+cw"),
            "epoch 1, step 4: the loss of term 'saa' became NaN or infinite",
        ),
    ],
)
def test_a_loss_that_is_no_number_stops_the_run(
    command: tuple[str, ...],
    words: str,
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(place)
    complaint = lrat(*command, "--out", tmp_path / "run").complaint
    assert complaint.startswith(words)
    assert "lower the learning rate" in complaint
    assert not (tmp_path / "run" / "model.safetensors").exists()
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == ""


def test_a_model_without_gradients_is_named_and_its_folder_stays_free(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    complaint = lrat(*digits("blind"), "--out", tmp_path / "run").complaint
    evaluated = lrat("evaluate", "--model-file", "model.py:blind", "--data", "digits")
    for said in (complaint, evaluated.complaint):
        assert "the loss does not depend on the images differentiably" in said
    done(*digits("digits"), "--out", tmp_path / "run")


def test_damaged_weights_are_named_and_training_again_mends_them(run: Path) -> None:
    (run / "model.safetensors").write_bytes(b"torn")
    complaint = lrat("evaluate", run, "--limit", "10").complaint
    assert f"{run / 'model.safetensors'} is damaged" in complaint
    assert "remove both model.safetensors and model.json" in complaint
    (run / "model.safetensors").unlink()
    (run / "model.json").unlink()
    done(*COMMAND, "--out", run)
    done("evaluate", run, "--limit", "10")


def test_a_damaged_checkpoint_asked_for_is_named(run: Path) -> None:
    path = run / "checkpoints" / "epoch-002.pt"
    path.write_bytes(path.read_bytes()[:-20])
    complaint = lrat("evaluate", run, "--checkpoint", "epoch-2").complaint
    assert f"checkpoint {path} is damaged" in complaint


def test_a_damaged_configuration_is_named(run: Path) -> None:
    (run / "config.yaml").write_text("method: [")
    for command in (("evaluate", run), (*COMMAND, "--out", run)):
        assert f"{run / 'config.yaml'} is no plain YAML" in lrat(*command).complaint


def test_a_damaged_part_of_an_evaluation_is_named(run: Path, tmp_path: Path) -> None:
    done("evaluate", run, "--limit", "10")
    other = Path(shutil.copytree(run, tmp_path / "other"))
    part = next(run.rglob("cw-20*.parquet"))
    part.write_bytes(part.read_bytes()[:100])
    for command in (("compare", other, run), ("evaluate", run, "--limit", "10")):
        assert f"{part} is damaged" in lrat(*command).complaint
    part.unlink()
    done("evaluate", run, "--limit", "10")


def test_an_evaluation_of_other_images_is_not_continued(run: Path) -> None:
    done("evaluate", run, "--limit", "10")
    identity = next(run.rglob("identity.json"))
    stored = read_json(identity)
    write_json(identity, {**stored, "data": "0" * 64})
    before = contents(identity.parent)
    done("evaluate", run, "--limit", "10")
    assert contents(identity.parent) == before
    assert len(list(run.rglob("identity.json"))) == 2, "it began another"

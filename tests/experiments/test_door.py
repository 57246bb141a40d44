"""From somebody's network, weights and photographs to evidence and files, by commands alone."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import lrat as library
from builders import saved_vit, seeded
from experiments.commands import done, lrat
from lrat.models import from_torchvision, with_normalization
from lrat.outputs import forward_logits

pytestmark = pytest.mark.xdist_group("door")  # one set of photographs and runs for all tests here
CLASSES = ("bird", "cat", "dog")
SIZE = ("--size", "32", "--threat", "linf:2/255")
SMALL = ("--set", "attack.steps=2", "--set", "training.batch_size=16", "--device", "cpu")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``photos`` of two sizes, one of them grey and one broken."""
    home = tmp_path_factory.mktemp("door")
    draw = np.random.default_rng(0)
    for label, name in enumerate(CLASSES):
        folder = home / "photos" / name
        folder.mkdir(parents=True)
        for number in range(20):
            shape = (20, 24, 3) if number % 2 else (18, 18, 3)
            pixels = draw.integers(0, 80, shape) + 60 * label
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number:02}.png")
    Image.open(home / "photos" / "cat" / "03.png").convert("L").save(
        home / "photos" / "cat" / "03.png"
    )
    (home / "photos" / "dog" / "04.png").write_bytes(b"broken")
    return home


def torchvision_weights(path: Path) -> Path:
    """Of a network for other classes, as a training loop under DistributedDataParallel saves it."""
    network = seeded(1, lambda: from_torchvision("squeezenet1_1", classes=3)).network
    state = {f"module.{name}": value for name, value in network.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state}, path)
    return path


def timm_weights(path: Path) -> Path:
    timm = pytest.importorskip("timm")
    network: nn.Module = seeded(1, lambda: timm.create_model("test_resnet", num_classes=3))
    torch.save({"model": network.state_dict()}, path)
    return path


def lightning_weights(path: Path) -> Path:
    """As Lightning's ModelCheckpoint writes them: a module's names, and much beside."""
    timm = pytest.importorskip("timm")
    network: nn.Module = seeded(1, lambda: timm.create_model("test_resnet", num_classes=3))
    state = {f"model.{name}": value for name, value in network.state_dict().items()}
    state["loss.weight"] = torch.ones(3)
    about = {"epoch": 1, "global_step": 8, "hyper_parameters": {"lr": 0.1}, "callbacks": {}}
    torch.save({"state_dict": state, "pytorch-lightning_version": "2.6.6", **about}, path)
    return path


NETWORKS: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "timm": ("timm:test_resnet", timm_weights),
    "torchvision": ("torchvision:squeezenet1_1", torchvision_weights),
    "lightning": ("timm:test_resnet", lightning_weights),
}


@pytest.mark.parametrize("kind", NETWORKS)
def test_evaluate_fine_tune_compare_report_and_export(
    kind: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    name, save = NETWORKS[kind]
    weights = save(tmp_path / "company.ckpt")
    own = ("--model", name, "--weights", weights, "--normalize", "imagenet")
    data = ("--data", "folder:photos", *SIZE)
    evidence, tuned = tmp_path / "evidence", tmp_path / "tuned"
    first = lrat("evaluate", *own, *data, "--suite", "quick", "--out", evidence)
    assert first.status == 0, first.err
    assert "n 12, " in first.out
    second = lrat("train", "sat", *own, *data, "--epochs", 1, *SMALL, "--out", tuned)
    assert second.status == 0, second.err
    assert (tuned / "model.safetensors").is_file()
    weights.unlink()  # from here on the run needs it no more
    assert lrat("evaluate", tuned, "--suite", "quick").status == 0
    compared = done("compare", tuned, f"Model 1.0={evidence}")
    assert f"a: {tuned}\nb: Model 1.0\n" in compared
    page = tmp_path / "boss.html"
    done("report", f"Model 1.0={evidence}", tuned, "--out", page)
    shown = page.read_text(encoding="utf-8")
    assert "Model 1.0" in shown
    assert 'data-data="photos"' in shown
    out = tmp_path / "production"
    done("export", tuned, "--to", "safetensors,hub-folder,torch-export", "--out", out)
    model = library.load(tuned)
    images = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    program: Any = torch.export.load(out / "model.pt2")
    with torch.no_grad():
        expected = forward_logits(model, images)
        torch.testing.assert_close(program.module()(images), expected, atol=1e-4, rtol=0)
    inner = library.load(tuned, unwrap=True)
    assert type(inner).__module__.startswith(("timm.", "torchvision."))
    assert (out / "README.md").read_text().count("worst case") == 0
    assert "pgd-20" in (out / "README.md").read_text()


def test_what_was_done_with_the_weights_is_said(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(home)
    weights = torchvision_weights(tmp_path / "w.pth")
    own = ("--model", "torchvision:squeezenet1_1", "--weights", weights)
    done("evaluate", *own, "--data", "folder:photos", *SIZE, "--out", tmp_path / "out")
    said = caplog.text
    assert "'state_dict'" in said
    assert "module.features.0.weight is read as features.0.weight" in said
    assert "dog/04.png" in said


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small ViT for three classes, as transformers saves it."""
    pytest.importorskip("transformers")
    return saved_vit(tmp_path_factory.mktemp("hf"), classes=3)


def test_a_folder_of_transformers_in_and_out(
    folder: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformers = pytest.importorskip("transformers")
    monkeypatch.chdir(home)
    own = ("--model", f"hf:{folder}", "--data", "folder:photos", *SIZE)
    tuned, out = tmp_path / "tuned", tmp_path / "out"
    assert lrat("evaluate", *own, "--out", tmp_path / "evidence").status == 0
    assert lrat("train", "sat", *own, "--epochs", 1, *SMALL, "--out", tuned).status == 0
    done("export", tuned, "--to", "hub-folder", "--out", out)
    again = transformers.AutoModelForImageClassification.from_pretrained(out)
    model = library.load(tuned)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        theirs = again.eval()((images - 0.25) / 0.5).logits
        torch.testing.assert_close(theirs, forward_logits(model, images), atol=1e-4, rtol=0)
    stated = json.loads((out / "preprocessor_config.json").read_text())
    assert stated["image_mean"] == [0.25] * 3
    vit = transformers.ViTForImageClassification
    original, save = vit.from_pretrained(folder), vit.save_pretrained
    monkeypatch.setattr(vit, "save_pretrained", lambda _, path: save(original, path))
    answer = lrat("export", tuned, "--to", "hub-folder", "--out", tmp_path / "other weights")
    assert answer.status == 2
    assert "logits differ" in answer.err


def test_timm_reads_what_was_exported(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timm = pytest.importorskip("timm")
    monkeypatch.chdir(home)
    own = ("--model", "timm:test_resnet", "--weights", timm_weights(tmp_path / "w.pt"))
    data = ("--data", "folder:photos", *SIZE)
    tuned, out = tmp_path / "tuned", tmp_path / "out"
    assert lrat("train", "sat", *own, *data, "--epochs", 1, *SMALL, "--out", tuned).status == 0
    done("export", tuned, "--to", "hub-folder", "--out", out)
    again: Any = seeded(0, lambda: timm.create_model(f"local-dir:{out}", pretrained=True)).eval()
    about = timm.data.resolve_model_data_config(again)
    assert about["mean"] == (0.5, 0.5, 0.5) or list(about["mean"]) == [0.5] * 3
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = forward_logits(library.load(tuned), images)
        torch.testing.assert_close(again((images - 0.5) / 0.5), expected, atol=1e-4, rtol=0)


def test_options_of_a_network_are_exported_with_it(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timm = pytest.importorskip("timm")
    monkeypatch.chdir(home)
    own = ("--model", "timm:test_vit,depth=1,act_layer=relu", "--data", "folder:photos", *SIZE)
    run, out = tmp_path / "run", tmp_path / "out"
    assert lrat("train", "natural", *own, "--epochs", 1, *SMALL, "--out", run).status == 0
    done("export", run, "--to", "hub-folder", "--out", out)
    again: Any = seeded(0, lambda: timm.create_model(f"local-dir:{out}", pretrained=True)).eval()
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = forward_logits(library.load(run), images)
        torch.testing.assert_close(again((images - 0.5) / 0.5), expected, atol=1e-4, rtol=0)
    assert timm.data.resolve_model_data_config(again)["crop_pct"] == 1


def test_a_grey_model_is_evaluated_on_grey_images(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    network = seeded(1, lambda: from_torchvision("squeezenet1_1", classes=3, channels=1)).network
    torch.save(network.state_dict(), tmp_path / "w.pth")
    own = ("--model", "torchvision:squeezenet1_1", "--weights", tmp_path / "w.pth")
    data = ("--data", "folder:photos", *SIZE, "--out", tmp_path / "out")
    assert lrat("evaluate", *own, *data, "--channels", 1).status == 0
    assert "data.channels=2" in lrat("evaluate", *own, *data, "--channels", 2).complaint
    assert "is [64, 1, 3, 3] there" in lrat("evaluate", *own, *data).complaint


def test_onnx_gives_the_same_logits_for_any_batch(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    monkeypatch.chdir(home)
    tuned, out = tmp_path / "tuned", tmp_path / "out"
    own = ("--model", "resnet-18", "--set", "model.width=4", "--normalize", "cifar10")
    data = ("--data", "folder:photos", *SIZE)
    assert lrat("train", "natural", *own, *data, "--epochs", 1, *SMALL, "--out", tuned).status == 0
    done("export", tuned, "--to", "onnx", "--out", out)
    session = onnxruntime.InferenceSession(str(out / "model.onnx"))
    model = library.load(tuned)
    for count in (1, 3):
        images = torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(count))
        (logits,) = session.run(None, {"images": images.numpy()})
        with torch.no_grad():
            np.testing.assert_allclose(logits, forward_logits(model, images), atol=1e-4)


def test_a_run_goes_on_with_its_own_weights(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    weights = torchvision_weights(tmp_path / "w.pth")
    own = ("--model", "torchvision:squeezenet1_1", "--weights", weights, "--data", "folder:photos")
    command = ("train", "sat", *own, *SIZE, "--epochs", 1, *SMALL, "--out", tmp_path / "run")
    assert lrat(*command).status == 0
    assert lrat(*command).status == 0
    state = torch.load(weights, weights_only=True)
    state["state_dict"]["module.features.0.bias"] += 1
    torch.save(state, weights)
    assert "weights changed" in lrat(*command).complaint


def test_a_last_layer_for_other_classes_is_new_in_training_alone(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(home)
    network = seeded(1, lambda: from_torchvision("squeezenet1_1", classes=7)).network
    torch.save(network.state_dict(), tmp_path / "w.pth")
    own = ("--model", "torchvision:squeezenet1_1", "--weights", tmp_path / "w.pth")
    data = ("--data", "folder:photos", *SIZE)
    said = lrat("evaluate", *own, *data, "--out", tmp_path / "out").complaint
    assert re.search(r"7 classes there, the data have 3", said)
    assert lrat("train", "sat", *own, *data, "--epochs", 1, *SMALL).status == 0
    assert "is new" in caplog.text


def test_a_normalisation_in_the_file_is_part_of_the_run(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    network = seeded(1, lambda: from_torchvision("squeezenet1_1", classes=3)).network
    named = with_normalization(network, "0.25;0.5")
    torch.save({f"m.{name}": value for name, value in named.state_dict().items()}, tmp_path / "w")
    own = ("--model", "torchvision:squeezenet1_1", "--normalize", "none", "--data", "folder:photos")
    run = tmp_path / "run"
    given = ("--weights", tmp_path / "w")
    assert (
        lrat("train", "sat", *own, *given, *SIZE, "--epochs", 1, *SMALL, "--out", run).status == 0
    )
    assert lrat("evaluate", run).status == 0
    model: Any = library.load(run)
    assert model.normalize.mean.flatten().tolist() == [0.25] * 3


def test_a_run_goes_on_only_with_the_folder_of_transformers_it_was_begun_with(
    folder: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers")
    monkeypatch.chdir(home)
    data = ("--data", "folder:photos", *SIZE, "--epochs", 1, *SMALL, "--normalize", "none")
    run = ("--out", tmp_path / "run")
    assert lrat("train", "natural", "--model", f"hf:{folder}", *data, *run).status == 0
    other = saved_vit(tmp_path / "other", classes=3, seed=1)
    said = lrat("train", "natural", "--model", f"hf:{other}", *data, *run).complaint
    assert "weights changed" in said


def test_classes_in_another_order_are_refused(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers")
    monkeypatch.chdir(home)
    data = ("--data", "folder:photos", *SIZE)
    names = dict(enumerate(("dog", "Cat", "bird")))
    numbers = {name: number for number, name in names.items()}
    model = saved_vit(tmp_path / "hf", classes=3, id2label=names, label2id=numbers)
    own = ("--model", f"hf:{model}", "--normalize", "imagenet")
    for command in (("evaluate",), ("train", "sat", *SMALL)):
        said = lrat(*command, *own, *data, "--out", tmp_path / "o").complaint
        assert "dog, Cat, bird" in said
        assert "bird, cat, dog" in said
    network = seeded(1, lambda: from_torchvision("squeezenet1_1", classes=3)).network
    saved = {"state_dict": network.state_dict(), "class_to_idx": {"dog": 0, "cat": 1, "bird": 2}}
    torch.save(saved, tmp_path / "w.pth")
    own = ("--model", "torchvision:squeezenet1_1", "--weights", str(tmp_path / "w.pth"))
    assert "dog, cat, bird" in lrat("evaluate", *own, *data, "--out", tmp_path / "o").complaint


def test_an_exported_folder_of_transformers_names_the_classes_of_the_data(
    folder: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    own = ("--model", f"hf:{folder}", "--data", "folder:photos", *SIZE)
    run, out = tmp_path / "run", tmp_path / "out"
    assert lrat("train", "natural", *own, "--epochs", 1, *SMALL, "--out", run).status == 0
    done("export", run, "--to", "hub-folder", "--out", out)
    stated = json.loads((out / "config.json").read_text())["id2label"]
    assert stated == {"0": "bird", "1": "cat", "2": "dog"}
    again = ("--model", f"hf:{out}", "--data", "folder:photos", *SIZE)
    assert lrat("evaluate", *again, "--suite", "quick", "--out", tmp_path / "e").status == 0


def test_a_folder_of_transformers_that_lacks_weights_is_refused(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers")
    monkeypatch.chdir(home)
    model = saved_vit(tmp_path / "hf", classes=3)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 2}))
    own = ("--model", f"hf:{model}", "--data", "folder:photos", *SIZE, "--out", tmp_path / "o")
    for command in (("evaluate",), ("train", "sat")):
        assert re.search(r"lacks \d+ weights", lrat(*command, *own).complaint)


def test_a_model_that_normalises_itself_is_not_normalised_twice(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    (tmp_path / "own.py").write_text(
        "from torch import nn\n"
        "from lrat.models import Normalize, from_torchvision, with_normalization\n"
        "def inside():\n"
        "    return nn.Sequential(Normalize([.5] * 3, [.2] * 3), plain().network)\n"
        "def outside():\n"
        "    return from_torchvision('squeezenet1_1', classes=3)\n"
        "def plain():\n"
        "    return with_normalization(outside().network, 'none')\n"
    )
    data = ("--data", "folder:photos", *SIZE, "--suite", "quick")
    for name in ("inside", "outside"):
        own = ("--model", f"{tmp_path}/own.py:{name}", "--normalize", "imagenet")
        assert "normalises its images" in lrat("evaluate", *own, *data, "--out", "o").complaint
    folders = set()
    for chosen in ("imagenet", "0.5;0.01", "none"):
        own = ("--model", f"{tmp_path}/own.py:plain", "--normalize", chosen)
        answer = lrat("evaluate", *own, *data, "--out", tmp_path / "o")
        assert answer.status == 0, answer.err
        folders.add(answer.out.rpartition("evidence in ")[2])
    assert len(folders) == 3  # one each: none is taken for another


def test_the_card_has_the_evaluations_of_the_exported_weights_alone(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    own = ("--model", "resnet-18", "--set", "model.width=2", "--data", "folder:photos", *SIZE)
    run, out = tmp_path / "run", tmp_path / "out"
    assert lrat("train", "natural", *own, "--epochs", 2, *SMALL, "--out", run).status == 0
    assert lrat("evaluate", run, "--checkpoint", "epoch-1", "--suite", "quick").status == 0
    for checkpoint, is_there in (("epoch-2", False), ("epoch-1", True)):
        done("export", run, "--to", "hub-folder", "--checkpoint", checkpoint, "--out", out)
        assert ("pgd-20" in (out / "README.md").read_text()) is is_there


def test_what_a_file_of_tensors_cannot_hold_is_not_exported(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    (tmp_path / "own.py").write_text(
        "from torch import nn\n"
        "class Own(nn.Linear):\n"
        "    def get_extra_state(self):\n"
        "        return {'calls': 1}\n"
        "    def set_extra_state(self, state):\n"
        "        pass\n"
        "def make():\n"
        "    return nn.Sequential(nn.Flatten(), Own(3 * 32 * 32, 3))\n"
    )
    own = ("--model", f"{tmp_path}/own.py:make", "--data", "folder:photos", *SIZE)
    run = tmp_path / "run"
    assert lrat("train", "natural", *own, "--epochs", 1, *SMALL, "--out", run).status == 0
    answer = lrat("export", run, "--to", "safetensors", "--out", tmp_path / "out")
    assert answer.status == 2
    assert "_extra_state" in answer.err


def test_a_run_is_tested_on_other_images_with_a_warning(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    photos, run = tmp_path / "photos", tmp_path / "run"
    shutil.copytree(home / "photos", photos)
    own = ("--model", "resnet-18", "--set", "model.width=2", "--data", f"folder:{photos}", *SIZE)
    assert lrat("train", "natural", *own, "--epochs", 1, *SMALL, "--out", run).status == 0
    assert lrat("evaluate", run, "--suite", "quick").status == 0
    assert "not the test images" not in caplog.text
    shutil.copy(photos / "cat" / "00.png", photos / "bird" / "new.png")
    assert lrat("evaluate", run, "--suite", "quick").status == 0
    assert "not the test images" in caplog.text


def test_runs_from_other_weights_are_no_seeds_of_one_group(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    runs = []
    for seed, start in ((0, 1), (1, 1), (2, 2)):
        network = seeded(start, lambda: from_torchvision("squeezenet1_1", classes=7)).network
        weights, run = tmp_path / f"w{start}.pth", tmp_path / f"run{seed}"
        torch.save(network.state_dict(), weights)
        own = ("--model", "torchvision:squeezenet1_1", "--weights", weights, "--seed", seed)
        data = ("--data", "folder:photos", *SIZE, "--epochs", 1, *SMALL, "--out", run)
        assert lrat("train", "natural", *own, *data).status == 0
        assert lrat("evaluate", run, "--suite", "quick").status == 0
        runs.append(run)
    for called in ("", "A="):
        compared: Any = library.compare(*(f"{called}{run}" for run in runs))
        assert [len(row.runs) for row in compared.result.rows] == [2, 1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--model", "timm:", "--data", "folder:photos"), "unknown model"),
        (("--model", "torchvision:resnet19", "--data", "folder:photos"), "resnet18"),
        (("--model", "torchvision:resnet18", "--data", "folder:photos"), "--weights"),
        (("--model", "torchvision:resnet18,x", "--data", "folder:photos"), "key=value"),
        (("--model", "timm:test_vit,name=resnet18", "--data", "folder:photos"), "name cannot"),
        (("--model", "timm:test_vit,classes=9", "--data", "folder:photos"), "classes cannot"),
        (("--model", "timm:test_vit,normalize=x", "--data", "folder:photos"), "--normalize"),
        (("--model", "timm:test_vit,checkpoint_path=w", "--data", "folder:photos"), "--weights"),
        (("--model", "timm:test_vit,depth=1,depth=2", "--data", "folder:photos"), "write it once"),
        (("--model", "resnet-18", "--data", "folder:none", "--weights", "w"), "no folder"),
        (("--model", "resnet-18", "--data", "folder:", "--weights", "w"), "unknown data"),
        (("--model", "resnet-18", "--data", "folder:photos", "--weights", "w"), "does not exist"),
        (("--model", "hf:nowhere", "--data", "folder:photos"), "config.json"),
        (("--model", "resnet-18", "--weights", "w"), "--data"),
        (("--model", "resnet-18", "--data", "digits", "--weights", "w"), "data.size"),
    ],
)
def test_what_is_wrong_is_one_line(
    options: tuple[str, ...],
    words: str,
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(home)
    said = lrat("evaluate", *options, *SIZE, "--out", tmp_path / "out").complaint
    assert words in said, said
    assert not (tmp_path / "out").exists()

"""What makes a run the same run: settings, images and the user's files, wherever they lie."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import lrat as library
from experiments.commands import lrat
from lrat.config import build
from lrat.config.catalogue import METHODS, canonical_threat
from lrat.config.method import MethodSettings
from lrat.config.settings import RunConfig, load_config
from lrat.errors import ConfigurationError, UnknownNameError
from lrat.files.read import read_json
from lrat.files.write import write_json
from lrat.weighting import GeometryTanh, MarginPower

TINY = ("--epochs", "1", "--set", "model.width=4", "--set", "training.validation_steps=1")
"""Small, and also where small-cnn is not the model: width is its own."""


def arrays(path: Path, *, seed: int = 0) -> Path:
    random = np.random.default_rng(seed)
    labels = np.arange(48) % 3
    images = (random.random((48, 1, 8, 8)) * 0.5 + labels[:, None, None, None] / 6).astype("f4")
    np.savez(
        path,
        train_images=images,
        train_labels=labels,
        test_images=images[:24],
        test_labels=labels[:24],
    )
    return path


def test_settings_of_the_margin_reach_the_rows_of_table_2() -> None:
    method = {"name": "saa+cw+gd", "alpha": 9, "beta": 4, "normalization": "instance"}
    objective = build.objective(load_config({"method": {**method, "anchor": "cw"}}))
    last = objective.at(0.9)
    assert [term.weighting for term in last.terms] == [
        MarginPower(alpha=9, beta=4),
        MarginPower(alpha=9, beta=4),
        GeometryTanh(lambda_=-1),
    ]
    assert (last.normalization, last.anchor) == ("instance", "cw")


@pytest.mark.parametrize(
    ("method", "setting"),
    [("sat", "beta"), ("lsat-saa", "min_weight"), ("gairat", "alpha"), ("lrat-cw", "trades_beta")],
)
def test_a_setting_that_does_nothing_is_refused(method: str, setting: str) -> None:
    config = load_config({"method": {"name": method, setting: 0.7}})
    with pytest.raises(ConfigurationError, match=rf"method.{setting} does nothing in '{method}'"):
        build.objective(config)


def test_every_setting_of_a_method_is_used_by_some_method() -> None:
    used = {setting for name in METHODS for setting in MethodSettings(name=name).takes}
    assert used | {"name"} == RunConfig().method.model_dump().keys()


def test_a_new_setting_with_a_default_leaves_old_runs_what_they_were() -> None:
    class Later(RunConfig):
        invention: int = 3

    config = load_config({"seed": 4, "training": {"epochs": 7}})
    later = Later.model_validate(config.model_dump())
    assert later.digest() == config.digest()
    assert Later.model_validate({**config.model_dump(), "invention": 4}).digest() != later.digest()


@pytest.mark.parametrize("text", ["linf:0.2", "linf:0.20", "linf:51/255", "linf:.2"])
def test_a_threat_has_one_spelling(text: str) -> None:
    assert canonical_threat(text) == "linf:0.2"
    assert load_config({"threat": text}).digest() == load_config({"threat": "linf:0.2"}).digest()
    assert canonical_threat("linf:8/255") == "linf:8/255"


def test_other_images_behind_the_same_path_are_refused(tmp_path: Path) -> None:
    data = arrays(tmp_path / "mine.npz")
    command = ("train", "sat", "--data", f"npz:{data}", "--threat", "linf:0.1", *TINY)
    out = ("--out", str(tmp_path / "run"))
    assert lrat(*command, *out).status == 0
    assert lrat(*command, *out).status == 0
    arrays(data, seed=1)
    answer = lrat(*command, *out)
    assert answer.status == 2
    assert "was begun with other contents (test, train, validation changed since)" in answer.err


def test_a_run_whose_data_moved_is_evaluated_where_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arrays(tmp_path / "mine.npz")
    command = ("train", "sat", "--data", "npz:mine.npz", "--threat", "linf:0.1", *TINY)
    assert lrat(*command, "--out", "run").status == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert lrat("evaluate", "../run").status == 0
    moved = (tmp_path / "mine.npz").rename(tmp_path / "elsewhere" / "moved.npz")
    assert lrat("evaluate", "../run", "--seed", "1").status == 2
    answer = lrat("evaluate", "../run", "--seed", "1", "--data", f"npz:{moved}")
    assert answer.status == 0, answer.err


def test_weights_that_changed_get_an_evaluation_of_their_own(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert lrat("train", "sat", *TINY, "--out", str(run)).status == 0
    request = ("evaluate", str(run), "--limit", "20")
    assert lrat(*request).status == 0
    (found,) = (run / "evaluations").iterdir()
    identity = read_json(found / "identity.json")
    write_json(found / "identity.json", {**identity, "model": "of an earlier epoch"})
    assert lrat(*request).status == 0
    names = sorted(path.name for path in (run / "evaluations").iterdir())
    assert names == [found.name, f"{found.name}-{identity['model'][:8]}"]


@pytest.mark.parametrize("key", ["attacks", "data"])
def test_what_an_earlier_version_or_other_data_left_blocks_nothing(run: Path, key: str) -> None:
    request = ("evaluate", str(run), "--limit", "20")
    first = lrat(*request)
    (found,) = (run / "evaluations").iterdir()
    identity = read_json(found / "identity.json")
    changed = {"pgd-20": "otherwise"} if key == "attacks" else "others"
    write_json(found / "identity.json", {**identity, key: changed})
    again = lrat(*request)
    assert again.status == 0, again.err
    assert again.out.splitlines()[:-1] == first.out.splitlines()[:-1]
    assert again.out != first.out
    assert len(list((run / "evaluations").iterdir())) == 2
    assert lrat(*request).out == again.out, "and it is found again"


def test_without_acceleration_there_is_a_folder_of_its_own(run: Path) -> None:
    request = ("evaluate", str(run), "--limit", "20")
    fast, plain = lrat(*request), lrat(*request, "--acceleration", "off")
    assert plain.status == 0, plain.err
    assert fast.out.splitlines()[-1] != plain.out.splitlines()[-1]
    assert lrat(*request).out == fast.out
    assert lrat(*request, "--acceleration", "off").out == plain.out


def test_the_seed_of_the_noise_does_not_choose_the_test_images(tmp_path: Path) -> None:
    own = "import torch\ndef make():\n    return torch.nn.Sequential(torch.nn.Flatten(), "
    (tmp_path / "own.py").write_text(f"{own}torch.nn.Linear(64, 10))\n")
    request = ("evaluate", "--model-file", f"{tmp_path / 'own.py'}:make", "--data", "digits")
    for seed in ("0", "1"):
        out = ("--seed", seed, "--limit", "20", "--out", str(tmp_path / seed))
        assert lrat(*request, *out).status == 0
    digests = {json.loads(path.read_text())["data"] for path in tmp_path.glob("*/*/identity.json")}
    assert len(digests) == 1
    assert lrat("compare", str(tmp_path / "0"), str(tmp_path / "1")).status == 0


def test_a_file_of_one_s_own_imports_its_neighbours_and_has_dataclasses(tmp_path: Path) -> None:
    (tmp_path / "neighbour.py").write_text("classes = 10\n")
    (tmp_path / "own.py").write_text(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "import torch\n"
        "from neighbour import classes\n"
        "@dataclass\n"
        "class Settings:\n"
        "    width: int = 4\n"
        "class Tied(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.a = torch.nn.Linear(64, 64)\n"
        "        self.b = torch.nn.Linear(64, 64)\n"
        "        self.b.weight = self.a.weight\n"
        "        self.head = torch.nn.Linear(64, classes)\n"
        "    def forward(self, images):\n"
        "        return self.head(self.b(self.a(images.flatten(1)).relu()).relu())\n"
        "def make():\n"
        "    assert Settings().width == 4\n"
        "    return Tied()\n"
    )
    run = tmp_path / "run"
    model = f"{tmp_path / 'own.py'}:make"
    trained = lrat("train", "sat", "--model", model, "--epochs", "1", "--out", str(run))
    assert trained.status == 0, trained.err
    assert (run / "model.safetensors").is_file()
    assert lrat("evaluate", str(run), "--limit", "20").status == 0


def test_unknown_names_travel_between_processes() -> None:
    error = UnknownNameError("method", "LRAT-SAA", ["lrat-saa", "sat"])
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - made in this line
    assert str(again) == str(error)
    assert "did you mean 'lrat-saa'" in str(error)


def test_a_threat_in_words() -> None:
    model = nn.Sequential(nn.Flatten(), nn.utils.skip_init(nn.Linear, 4, 2))
    nn.init.constant_(model[1].weight, 0.1)
    nn.init.zeros_(model[1].bias)
    data = torch.rand(8, 1, 2, 2, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 2
    assert library.evaluate(model, data, threat="linf:0.1").threat == "Linf(epsilon=0.1)"

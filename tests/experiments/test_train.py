import importlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from builders import seeded
from experiments.commands import TINY, assert_same_result, done, lrat, records
from experiments.conftest import COMMAND
from experiments.own import arrays, write_model, write_npz
from lrat import fit
from lrat.config.catalogue import METHODS
from lrat.config.settings import load_config, read_settings
from lrat.files.read import parse_object
from lrat.files.write import read_table

SMALL = (*TINY, "--set", "data.train_limit=120")


def test_a_run_folder_holds_all_that_is_promised(trained: Path) -> None:
    assert {path.name for path in trained.iterdir()} == {
        "config.yaml",
        "acceleration.json",
        "command.txt",
        "contents.json",
        "environment.json",
        "metrics.jsonl",
        "checkpoints",
        "model.safetensors",
        "model.json",
        "weights",
    }
    assert {path.name for path in (trained / "checkpoints").iterdir()} == {
        f"epoch-00{epoch}.{kind}" for epoch in (1, 2) for kind in ("pt", "json")
    }
    assert [path.stem for path in (trained / "weights").iterdir()] == ["epoch-002"]


def test_the_environment_says_what_the_run_was_made_with(trained: Path) -> None:
    made = json.loads((trained / "environment.json").read_text())
    assert made["torch"] == torch.__version__
    assert made["device"] == "cpu"
    assert made["threads"] == 1
    assert made["packages"]["numpy"] == np.__version__
    assert {"lrat", "commit", "python", "platform", "processor"} <= set(made)


def test_each_epoch_is_a_line_with_losses_weights_accuracies_and_passes(trained: Path) -> None:
    lines = [parse_object(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    for line in lines:
        (term,) = line["terms"].items()
        assert term[0] == "pgd"
        assert term[1]["loss"] > 0
        for statistic in ("weight_mean", "weight_min", "weight_max", "effective_sample_size"):
            assert term[1][statistic] == 1
        assert 0 <= line["robust_accuracy"] <= line["clean_accuracy"] <= 1
        assert line["passes"] == {
            "attack_forwards": 3,
            "attack_backwards": 3,
            "update_forwards": 1,
            "update_backwards": 1,
        }
        assert set(line["validation"]) == {"natural", "pgd-10"}
        assert line["images_per_second"] > 0
        assert line["images"] == 1221


def test_the_selected_epoch_is_the_best_held_out_one(trained: Path) -> None:
    about = json.loads((trained / "model.json").read_text())
    values = [line["validation"]["pgd-10"] for line in records(trained)]
    assert about["selected_value"] == max(values)
    assert about["selected_epoch"] == 1 + values.index(max(values))
    assert about["shape"] == [1, 8, 8]
    weights = load_file(trained / "model.safetensors")
    assert about["parameters"] == sum(value.numel() for value in weights.values())


def test_recorded_weights_have_a_row_per_image(trained: Path) -> None:
    (path,) = (trained / "weights").iterdir()
    table = read_table(path)
    assert list(table) == ["index", "label", "term", "raw_weight", "normalised_weight", "loss"]
    assert len(set(table["index"])) == len(table["index"]) == 1221
    assert set(table["term"]) == {"pgd"}
    assert set(table["raw_weight"]) == {1.0}


def test_the_configuration_is_complete_and_gives_the_same_run(
    trained: Path, tmp_path: Path
) -> None:
    written = read_settings(trained / "config.yaml")
    everything = load_config(written).model_dump()
    assert set(written) == set(everything)
    for section, settings in everything.items():
        if isinstance(settings, dict):
            assert set(written[section]) == set(settings)
    assert load_config(written).to_yaml() == (trained / "config.yaml").read_text()
    done("train", "--config", trained / "config.yaml", "--out", tmp_path / "again")
    assert_same_result(trained, tmp_path / "again")
    assert (tmp_path / "again" / "config.yaml").read_text() == (trained / "config.yaml").read_text()


def test_a_finished_run_is_not_trained_again(run: Path) -> None:
    before = (run / "metrics.jsonl").read_bytes(), (run / "model.safetensors").read_bytes()
    out = done(*COMMAND, "--out", run)
    assert "selected by pgd-10 on held-out images" in out
    assert ((run / "metrics.jsonl").read_bytes(), (run / "model.safetensors").read_bytes()) == (
        before
    )


def test_what_computes_a_run_is_not_part_of_its_identity(run: Path) -> None:
    done(*COMMAND, "--out", run, "--device", "cpu", "--set", "threads=1")


def test_output_off_a_terminal_is_a_forecast_and_a_line_per_epoch(tmp_path: Path) -> None:
    view, *out = done(
        "train", "sat", *TINY, "--epochs", "2", "--out", tmp_path / "run"
    ).splitlines()
    assert view == "attacks see the model in float32, BatchNorm folded (3 of 3)"
    assert out[0].startswith("epoch 1/2  about ")
    assert "to the end of the run" in out[0]
    for number, line in enumerate(out[1:3], start=1):
        assert line.startswith(f"epoch {number}/2  loss ")
        for part in ("robust", "clean", "held-out natural", "held-out pgd-10", "images/s"):
            assert part in line
    assert out[3:] == [out[3], str(tmp_path / "run")]


def test_another_seed_is_another_run(trained: Path, tmp_path: Path) -> None:
    done(*COMMAND, "--seed", "1", "--out", tmp_path / "other")
    ours, theirs = (load_file(f / "model.safetensors") for f in (trained, tmp_path / "other"))
    assert not torch.equal(ours["head.weight"], theirs["head.weight"])


TERMS = {
    "natural": {"clean"},
    "sat": {"pgd"},
    "gairat": {"pgd"},
    "gairat-cw": {"cw"},
    "lsat-cw": {"cw"},
    "lsat-saa": {"saa"},
    "lsat-saa+cw": {"saa", "cw"},
    "lrat-pgd": {"pgd"},
    "lrat-cw": {"cw"},
    "lrat-saa": {"saa"},
    "lrat-saa+cw": {"saa", "cw"},
    "gd+cw": {"cw", "pgd"},
    "gd+saa": {"saa", "pgd"},
    "saa+cw+gd": {"saa", "cw", "pgd"},
    "pgd+fgsm": {"pgd", "fgsm"},
    "trades": {"clean", "kl"},
}


class ReachedError(Exception):
    """The one function that trains a network was called."""


def fit_arrays(out: Path) -> None:
    given = arrays(20)
    network = seeded(0, lambda: nn.Sequential(nn.Flatten(), nn.Linear(90, 3)))
    fit(network, (given["images"], given["labels"]), threat="linf:0.1", out=out)


def command(out: Path) -> None:
    lrat("train", "sat", *SMALL, "--out", out)


def benchmark(out: Path) -> None:
    importlib.import_module("phases").training("sat", [*TINY[1::2]], 2)


@pytest.mark.parametrize("entry", [fit_arrays, command, benchmark])
def test_all_that_train_a_network_go_through_one_function(
    entry: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reached(*arguments: object, **settings: object) -> None:
        raise ReachedError

    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    monkeypatch.setattr("lrat.experiments.train.train", reached)
    with pytest.raises(ReachedError):
        entry(tmp_path / "run")


def test_every_method_is_tried_below() -> None:
    assert set(TERMS) == set(METHODS)


@pytest.mark.parametrize("method", TERMS)
def test_every_method_trains(method: str, tmp_path: Path) -> None:
    # Where there is a bootstrap period, an epoch within it and one after.
    phased = method.startswith(("gairat", "gd")) or method.endswith("+gd")
    begin = ("--set", "method.gairat_begin=0.5") if phased else ()
    done("train", method, *SMALL, *begin, "--epochs", "2", "--out", tmp_path / "run")
    lines = records(tmp_path / "run")
    assert len(lines) == 2
    for line in lines:
        assert np.isfinite(line["loss"])
        assert set(line["terms"]) == TERMS[method]
        for term in line["terms"].values():
            assert np.isfinite(term["loss"])
    counted = [term["weight_max"] for term in lines[1]["terms"].values() if "weight_max" in term]
    assert all(weight is not None and np.isfinite(weight) for weight in counted)
    if method in {"gairat", "gairat-cw", "gd+cw", "gd+saa", "saa+cw+gd"}:
        name = "cw" if method == "gairat-cw" else "pgd"
        first, second = (line["terms"][name] for line in lines)
        assert first["weight_min"] == first["weight_max"] == 1, "uniform at first"
        assert second["weight_min"] < 1, "by geometric distance later"


@pytest.mark.parametrize(("alias", "method"), [("lsat-pgd", "sat"), ("saa+cw", "lrat-saa+cw")])
def test_an_alias_is_the_method_it_stands_for(alias: str, method: str, tmp_path: Path) -> None:
    for name in (alias, method):
        done("train", name, *SMALL, "--epochs", "1", "--out", tmp_path / name)
    assert_same_result(tmp_path / alias, tmp_path / method)
    written = read_settings(tmp_path / alias / "config.yaml")
    assert written["method"]["name"] == method


def test_settings_win_over_options_and_options_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("method: {name: gairat}\nseed: 3\ntraining: {epochs: 7, lr: 0.2}\n")
    out = tmp_path / "run"
    done(
        *("train", "natural", "--config", path, *SMALL, "--epochs", "2"),
        *("--set", "training.epochs=1", "--out", out),
    )
    written = read_settings(out / "config.yaml")
    assert written["method"]["name"] == "natural"
    assert written["seed"] == 3
    assert written["training"]["epochs"] == 1
    assert written["training"]["lr"] == 0.2


def test_monitored_attacks_become_curves(tmp_path: Path) -> None:
    out = tmp_path / "run"
    done(
        *("train", "natural", *SMALL, "--epochs", "3", "--out", out),
        *("--set", "training.monitor.attacks=[pgd-2, cw-3]"),
        *("--set", "training.monitor.every=2", "--set", "training.monitor.limit=30"),
    )
    measured = [set(line["monitor"]) for line in records(out)]
    assert measured == [set(), {"natural", "pgd-2", "cw-3"}, {"natural", "pgd-2", "cw-3"}]


def test_the_last_epoch_of_a_paper_like_run_without_held_out_images(tmp_path: Path) -> None:
    out = tmp_path / "run"
    said = done(
        *("train", "natural", *SMALL, "--epochs", "2", "--out", out),
        *("--set", "data.validation=0", "--set", "training.selection=last"),
    )
    assert "the last of 2 epochs" in said
    about = json.loads((out / "model.json").read_text())
    assert about["selected_epoch"] == 2
    assert about["selected_value"] is None
    assert records(out)[0]["validation"] == {}


def test_ones_own_arrays_and_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_npz("own.npz")
    write_model("model.py")
    command = ("train", "lrat-saa", "--data", "npz:own.npz", "--threat", "l2:0.5")
    tiny = ("--model", "model.py:make", "--set", "attack.saa_steps=3", "--epochs", "1")
    done(*command, *tiny)
    done(*command, *tiny, "--out", "again")
    assert_same_result(Path("runs/lrat-saa-own-0"), Path("again"))
    about = json.loads(Path("again/model.json").read_text())
    assert about["shape"] == [3, 6, 5]
    assert about["class_names"] == ["circle", "square", "star"]
    shown = done("evaluate", "again", "--limit", "20")
    assert "L2(epsilon=0.5)" in shown


def test_a_folder_without_progress_can_be_used_with_other_settings(tmp_path: Path) -> None:
    command = ("train", "sat", *SMALL, "--epochs", "1", "--out", tmp_path / "run")
    assert lrat(*command, "--set", "training.lr=1e30").status == 2
    done(*command, "--set", "training.lr=0.05")
    assert read_settings(tmp_path / "run" / "config.yaml")["training"]["lr"] == 0.05
